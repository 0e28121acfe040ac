"""Bytes that the operators of a frame read and write, by range: what memory moves if nothing stays in a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from talk3d.bench.launches import _NOTHING
from talk3d.bench.meter import OUTSIDE
from talk3d.profiling import observe

__all__ = ["Call", "calls", "traffic"]


class Call(NamedTuple):
    """An operator as it ran.

    Attributes:
        range: The innermost range that was open.
        name: Of the operator.
        shapes: Of its tensors, in the order of its arguments; None where one was left out.
        options: Numbers and words among its arguments, in their order.
        results: Shapes of its results.
        moved: Bytes that it reads and writes.
    """

    range: str
    name: str
    shapes: tuple[tuple[int, ...] | None, ...]
    options: tuple[Any, ...]
    results: tuple[tuple[int, ...], ...]
    moved: int


def calls(run: Callable[[], object]) -> list[Call]:
    """What a function calls, without views and allocations, which move nothing.

    An operator of ours is one call, whatever it is made of: each operand is read once, each result written once. Of
    what is expanded, and of an operand that comes twice, each byte counts once.
    """
    recorder = _Recorder()
    inside = [OUTSIDE]

    def edge(name: str, begins: bool) -> None:
        inside.append(name) if begins else inside.pop()
        recorder.range = inside[-1]

    with observe(edge), recorder:
        run()
    return recorder.found


def traffic(run: Callable[[], object]) -> Counter[str]:
    """Bytes that :func:`calls` move, by range."""
    found: Counter[str] = Counter()
    for call in calls(run):
        found[call.range] += call.moved
    return found


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Call] = []
        self.range = OUTSIDE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = any(each.alias_info and not each.alias_info.is_write for each in returns)
        name = func.overloadpacket.__name__
        if func.namespace not in ("aten", "talk3d") or is_view or name in _NOTHING:
            return found
        given = [*args, *(kwargs or {}).values()]
        read = {_place(each): _bytes(each) for each in tree_leaves(given) if isinstance(each, Tensor)}
        results = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        if not results:  # it looks at types
            return found
        self.found.append(
            Call(
                self.range,
                name,
                tuple(tuple(each.shape) if isinstance(each, Tensor) else None for each in args if _may_be_tensor(each)),
                tuple(each for each in args if isinstance(each, (bool, int, float, str))),
                tuple(tuple(each.shape) for each in results),
                sum(read.values()) + sum(map(_bytes, results)),
            )
        )
        return found


def _may_be_tensor(argument: Any) -> bool:
    return argument is None or isinstance(argument, Tensor)


def _place(tensor: Tensor) -> tuple[int, ...]:
    return tensor.data_ptr(), tensor.numel(), *tensor.stride()


def _bytes(tensor: Tensor) -> int:
    there = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        there *= size if stride else 1  # what is expanded is there once
    return there * tensor.element_size() if tensor.numel() else 0
