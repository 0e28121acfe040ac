"""What happens between the edges of ranges: seconds, or floating-point operations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from talk3d.ops.registry import Operator, operators
from talk3d.profiling import observe

__all__ = ["OUTSIDE", "flop", "seconds"]

OUTSIDE = "other"  # what is in no range

Run = Callable[[], object]
Tick = TypeVar("Tick")


def seconds(run: Run, device: torch.device) -> dict[str, float]:
    """Time what a function does in each range, and :data:`OUTSIDE`. A range does not count the ranges within it.

    On a GPU it is events on the current stream that are timed, and waited for at the end.
    """
    if device.type != "cuda":
        return _attribute(run, time.perf_counter, lambda before, after: after - before)

    def tick() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def elapsed(before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3

    return _attribute(run, tick, elapsed)


def flop(run: Run) -> dict[str, float]:
    """Count the floating-point operations of each range as :func:`seconds` times them, with torch's counter.

    It knows matrix products, convolutions and attention: a multiplication and an addition are two. An operator of ours
    counts as what it is in PyTorch: ``torch`` or, where there is no such implementation, ``reference``.
    """
    formulas: dict[Any, Callable[..., int]] = dict.fromkeys(_ATTENTION, _attention)
    for name, operator in operators().items():
        formulas[getattr(torch.ops.talk3d, name)] = _formula(operator, formulas)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        return _attribute(run, counter.get_total_flops, lambda before, after: after - before)


# what attention is on a CPU, with and without a gradient; torch's counter knows a GPU's
_ATTENTION = (
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
)


def _attention(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attribute(run: Run, tick: Callable[[], Tick], difference: Callable[[Tick, Tick], float]) -> dict[str, float]:
    inside = [OUTSIDE]
    edges: list[tuple[str, Tick]] = []  # what went on until when

    def edge(name: str, begins: bool) -> None:
        edges.append((inside[-1], tick()))
        if begins:
            inside.append(name)
        else:
            inside.pop()

    before = tick()
    with observe(edge):
        run()
    edges.append((OUTSIDE, tick()))
    found: dict[str, float] = defaultdict(float)
    for name, after in edges:
        found[name] += difference(before, after)
        before = after
    return dict(found)


def _formula(operator: Operator, formulas: Mapping[Any, Callable[..., int]]) -> Callable[..., int]:
    """Count an operator by its implementation in PyTorch, on tensors that have shapes and no data.

    That may call other operators, whose formulas are found once all are there.
    """
    function = operator.function("torch" if "torch" in operator.implementations else "reference")

    def count(*args: Any, out_val: Any = None) -> int:
        *args, _ = tree_map_only(
            Tensor, lambda tensor: tensor.to("meta"), args
        )  # the last is the implementation's name
        with FlopCounterMode(display=False, custom_mapping=dict(formulas)) as counter:
            function(*args)
        return counter.get_total_flops()

    count._get_raw = True  # type: ignore[attr-defined]  # torch's word for: call it with tensors, not with shapes
    return count
