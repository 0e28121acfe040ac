"""How many kernels a GPU would be asked for: counted from the operators that run on a CPU, by range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from talk3d.bench.meter import OUTSIDE
from talk3d.profiling import observe

__all__ = ["launches"]

# allocations and names, which launch nothing
_NOTHING = {"detach_", "empty", "empty_like", "empty_strided", "new_empty", "detach", "lift_fresh", "scalar_tensor"}


def launches(run: Callable[[], object]) -> Counter[tuple[str, str]]:
    """Count the kernels that a GPU would be asked for: ``{(range, operator): kernels}``.

    Views and allocations launch nothing, most operators of torch one kernel. Those of which we know more are counted as
    they are on a GPU: a convolution with a bias two, and one more where its weights do not lie as its picture does; a
    group norm four, of which one brings pictures that are channels-last into the other order. Our own operators count
    as the implementation that ``"auto"`` takes there, whatever runs here.
    """
    counter = _Counter()
    inside = [OUTSIDE]

    def edge(name: str, begins: bool) -> None:
        inside.append(name) if begins else inside.pop()
        counter.range = inside[-1]

    with observe(edge), counter:
        run()
    return counter.found


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[tuple[str, str]] = Counter()
        self.range = OUTSIDE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kernels := _kernels(func, args):
            self.found[self.range, func.overloadpacket.__name__] += kernels
        return func(*args, **(kwargs or {}))


def _kernels(func: Any, args: tuple[Any, ...]) -> int:
    name = func.overloadpacket.__name__
    if func.namespace == "talk3d":
        ours: Callable[..., int] = _OURS.get(name, lambda *_: 1)
        return ours(*args)
    returns = func._schema.returns
    is_view = any(found.alias_info and not found.alias_info.is_write for found in returns)
    if func.namespace != "aten" or is_view or name in _NOTHING:
        return 0
    if name in ("native_group_norm", "group_norm"):
        return 3 + _is_last(args[0])
    if name in _CONVOLUTIONS:
        return _convolution(args[0], args[1], args[2] if len(args) > 2 else None)
    return _SEVERAL.get(name, 1)


def _is_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    rearranged = _is_last(x) and not weight.is_contiguous(memory_format=torch.channels_last)
    return 1 + (bias is not None) + rearranged


def _conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None, _: str
) -> int:
    """As ``talk3d.composed.convolution`` runs it on a GPU: what follows the convolution is one kernel."""
    follows = bias is not None or slope != 1 or gain != 1 or clamp is not None
    return _convolution(x, weight, None) + follows


_CONVOLUTIONS = {"convolution", "conv2d", "conv_transpose2d"}
# of two matrices as torch arranges them: a copy of each, and the product; and what only looks at types
_SEVERAL = {"einsum": 3, "promote_types": 0}

_OURS: dict[str, Callable[..., int]] = {
    "conv3x3_bias_act": _conv3x3,
    "group_norm_act": lambda *_: 2,  # statistics, and the rest
    "token_attention": lambda *_: 2,  # fold, attend
    "rollout_conv_act": lambda *_: 3,  # means, profiles, and everything else
    # on a GPU the activation, which a CPU does with the convolution and which is counted there, is part of this
    "act_rgb": lambda x, bias, image, weight, rgb_bias, filter, slope, gain, clamp, *_: (
        0 if bias is None and slope == gain == 1 and clamp is None else 1
    ),
    "rollout_conv": lambda *_: 9,  # means, profiles, sum; three convolutions, whose weights are gathered first
}
