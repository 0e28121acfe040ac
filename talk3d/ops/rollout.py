"""Roll-out convolution: each plane is convolved together with what the other two say about its axes."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, TOO_LARGE, no_triton_type, require_alike
from talk3d.ops.registry import Operator

__all__ = ["EXCHANGES", "rollout_conv"]

RolloutAxes = Literal["original", "zy", "yz", "published"]

# For planes 0, 1 and 2, what each receives from the other two, in their order: which axis of the sender is kept (the
# other is averaged), and along which axis of the receiver the profile is laid; 0 = height, 1 = width.
EXCHANGES: dict[str, tuple[tuple[int, int], ...]] = {
    # the sender keeps the axis that both planes have, and it is laid along that axis
    "zy": ((1, 1), (0, 0), (1, 1), (1, 0), (0, 0), (0, 1)),
    "yz": ((1, 0), (0, 1), (0, 1), (1, 0), (1, 0), (0, 1)),
    # planes 1 and 2 both hold (x, z): from plane 0 they take x, from one another z. Plane 0 gets x twice, for nobody
    # else knows y
    "original": ((1, 1), (0, 1), (1, 1), (1, 0), (1, 0), (0, 1)),
}
# Mimic3D's planes are "yz". Talk3D kept its exchange for planes that are "zy", and released weights need that
EXCHANGES["published"] = EXCHANGES["yz"]


def rollout_conv(
    planes: Float[Tensor, "batch 3 channel size size"],
    weight: Float[Tensor, "3 out 3*channel 3 3"],
    bias: Float[Tensor, "3 out"] | None = None,
    *,
    axes: RolloutAxes,
    impl: str | None = None,
) -> Float[Tensor, "batch 3 out size size"]:
    """Convolve each plane with itself and with the axis profiles of the other two (Mimic3D's 3D-aware convolution).

    Of every other plane the axis which the receiver lacks is averaged; the profile that is left is laid along the axis
    which they share. The three groups of channels, in the order of the planes, go through a 3 x 3 convolution with zero
    padding and kernels of the receiver's own.

    Two thirds of these channels are constant along one axis, where a 3 x 3 convolution has three values at most: at the
    first position, at the last, and between. The implementations other than ``"reference"`` compute only those.

    Args:
        planes: ``[B, 3, C, R, R]``, any strides. Fast is channels-last, plane by plane: memory ``[3, B, R, R, C]``.
        weight: Kernels of each receiving plane ``[3, O, 3C, 3, 3]``; input channels ``s * C`` to ``(s + 1) * C`` belong
            to plane ``s``.
        bias: ``[3, O]``, or None.
        axes: The convention of the planes, a key of :data:`talk3d.ops.AXES`, or ``"published"``: the exchange that
            released Talk3D weights were trained with. All are in :data:`EXCHANGES`.
        impl: ``"triton"`` (not float64), ``"torch"`` or ``"reference"``; by default the fastest that accepts the
            inputs.

    Returns:
        ``[B, 3, O, R, R]``, channels-last plane by plane.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Differentiable once, to planes, weight and bias. Under autocast it runs in bfloat16.

    Example:
        >>> planes, weight = torch.ones(1, 3, 1, 4, 4), torch.ones(3, 1, 3, 3, 3)
        >>> rollout_conv(planes, weight, axes="zy")[0, 0, 0]
        tensor([[12., 18., 18., 12.],
                [18., 27., 27., 18.],
                [18., 27., 27., 18.],
                [12., 18., 18., 12.]])
    """
    exchanges = _check(planes, weight, bias, axes)
    convolved: Tensor = _forward(planes, weight, bias, exchanges, impl=impl)
    return convolved


def _check(planes: Tensor, weight: Tensor, bias: Tensor | None, axes: RolloutAxes) -> list[int]:
    """Check shapes, types and options; returns the exchanges as the operator takes them."""
    if axes not in EXCHANGES:
        raise ValueError(f"axes must be one of {', '.join(EXCHANGES)}, got {axes!r}")
    if planes.ndim != 5 or planes.shape[1] != 3 or planes.shape[3] != planes.shape[4]:
        raise ValueError(f"planes must have the shape [batch, 3, channels, size, size], got {list(planes.shape)}")
    if not planes.dtype.is_floating_point or 0 in planes.shape[1:]:
        raise ValueError(f"planes must be floating-point and not empty, got {planes.dtype} {list(planes.shape)}")
    channels = 3 * planes.shape[2]
    if weight.ndim != 5 or weight.shape[0] != 3 or weight.shape[2:] != (channels, 3, 3) or not weight.shape[1]:
        raise ValueError(f"weight must have the shape [3, out, {channels}, 3, 3], got {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(f"bias must have the shape {list(weight.shape[:2])}, got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            require_alike(name, tensor, planes, "planes")
    return [number for exchange in EXCHANGES[axes] for number in exchange]


def _fake_forward(planes, weight, bias, exchanges):  # type: ignore[no-untyped-def]
    return _empty(planes, weight.shape[1])


def _fake_backward(d_out, planes, weight, exchanges, needs):  # type: ignore[no-untyped-def]
    return (
        _empty(planes, planes.shape[2]) if needs[0] else planes.new_empty(0),
        weight.new_empty(weight.shape) if needs[1] else weight.new_empty(0),
        weight.new_empty(weight.shape[:2]) if needs[2] else weight.new_empty(0),
    )


def _empty(planes: Tensor, channels: int) -> Tensor:
    batch, _, _, height, width = planes.shape
    return planes.new_empty(3, batch, height, width, channels).permute(1, 0, 4, 2, 3)


_forward = Operator(
    # exchanges: for each of the six, the axis that is kept and the axis that it is laid along
    "rollout_conv(Tensor planes, Tensor weight, Tensor? bias, int[] exchanges) -> Tensor",
    fake=_fake_forward,
    autocast=torch.bfloat16,
)
_backward = Operator(
    # needs: planes, weight, bias
    "rollout_conv_backward(Tensor d_out, Tensor planes, Tensor weight, int[] exchanges, bool[] needs)"
    " -> (Tensor d_planes, Tensor d_weight, Tensor d_bias)",
    fake=_fake_backward,
    autocast=torch.bfloat16,
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2])
    ctx.exchanges = inputs[3]


def _differentiate(ctx, d_out):  # type: ignore[no-untyped-def]
    needs = list(ctx.needs_input_grad[:3])
    grads = _backward(d_out, *ctx.saved_tensors, ctx.exchanges, needs, impl=ctx.impl)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None


_forward.differentiate(_save, _differentiate)
_backward.refuse_derivative("rollout_conv is differentiable once; for more, use talk3d.reference.rollout.forward")


def _triton(planes: Tensor, weight: Tensor) -> str | None:
    largest = max(planes.shape[2], weight.shape[1]) * planes.shape[3] * planes.shape[4]
    return no_triton_type(planes) or (TOO_LARGE if largest >= LARGEST else None)


_forward.implement(
    "triton", "talk3d.kernels.rollout:forward", supports=lambda planes, weight, *_: _triton(planes, weight)
)
_backward.implement(
    "triton", "talk3d.kernels.rollout:backward", supports=lambda _, planes, weight, *__: _triton(planes, weight)
)
for _operator, _function in ((_forward, "forward"), (_backward, "backward")):
    _operator.implement("torch", f"talk3d.composed.rollout:{_function}")
    _operator.implement("reference", f"talk3d.reference.rollout:{_function}")
