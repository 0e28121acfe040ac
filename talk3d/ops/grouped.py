"""3 x 3 convolutions of the three planes at once, each with kernels of its own, and what follows; for inference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, TOO_LARGE, no_triton_type, require_alike
from talk3d.ops.registry import Operator
from talk3d.ops.rollout import RolloutAxes, _check

__all__ = ["plane_conv_act", "rollout_conv_act"]


def plane_conv_act(
    x: Float[Tensor, "pictures channel height width"],
    weight: Float[Tensor, "plane out channel 3 3"],
    bias: Float[Tensor, "plane out"] | None,
    *,
    slope: float = 1.0,
    impl: str | None = None,
) -> Float[Tensor, "pictures out height width"]:
    """Convolve the pictures of each plane with its 3 x 3 kernels, zero padding; add a bias; activate.

    Args:
        x: Pictures ``[P * B, C, H, W]``, plane by plane, of any floating type; channels-last is the fast layout.
        weight: ``[P, O, C, 3, 3]``; channels-last, plane by plane, is the fast layout.
        bias: ``[P, O]``, or None.
        slope: Of the leaky ReLU's negative side; 1 for no activation.
        impl: ``"triton"`` (one launch; not float64), ``"torch"`` or ``"reference"``; by default the fastest that
            accepts the inputs.

    Returns:
        Pictures ``[P * B, O, H, W]``, channels-last.

    Raises:
        ValueError: On wrong shapes, types or devices; with the name and shape of the argument.

    Note:
        Not differentiable: :class:`talk3d.nn.planes.PlaneConv` is, and is what networks train with.

    Example:
        >>> weight = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 3, 3)
        >>> plane_conv_act(torch.ones(2, 1, 1, 2), weight, None, slope=0.5)[:, 0, 0]
        tensor([[ 2.,  2.],
                [-1., -1.]])
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [pictures, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    channels = x.shape[1]
    if weight.ndim != 5 or weight.shape[2:] != (channels, 3, 3) or 0 in weight.shape or len(x) % len(weight):
        raise ValueError(
            f"weight must be [planes, out, {channels}, 3, 3] and the planes divide {len(x)}, got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(f"bias must have the shape {list(weight.shape[:2])}, got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            require_alike(name, tensor, x)
    convolved: Tensor = _plane_conv(x, weight, bias, slope, impl=impl)
    return convolved


def rollout_conv_act(
    planes: Float[Tensor, "batch 3 channel size size"],
    weight: Float[Tensor, "3 out 3*channel 3 3"],
    offset: Float[Tensor, "3 out size size"],
    *,
    axes: RolloutAxes,
    slope: float = 1.0,
    impl: str | None = None,
) -> Float[Tensor, "batch 3 out size size"]:
    """Roll-out convolution, what an identity adds to it, and activation: :func:`talk3d.ops.rollout_conv` for frames.

    The roll-out is linear, so that what a skip connection brings is convolved once for an identity: ``offset`` is
    ``rollout_conv(skip, weight, bias)``, and ``rollout_conv(planes + skip, weight, bias)`` is the sum of this.

    Args:
        planes: ``[B, 3, C, R, R]``, any strides. Fast is channels-last, plane by plane.
        weight: As :func:`talk3d.ops.rollout_conv` takes it; channels-last, plane by plane, is the fast layout.
        offset: ``[3, O, R, R]`` in float32, or float64 with planes of that.
        axes: As there.
        slope: Of the leaky ReLU's negative side; 1 for no activation.
        impl: ``"triton"`` (three launches; not float64), ``"torch"`` or ``"reference"``; by default the fastest that
            accepts the inputs.

    Returns:
        ``[B, 3, O, R, R]``, channels-last plane by plane.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Not differentiable: :func:`talk3d.ops.rollout_conv` is.

    Example:
        >>> planes, weight = torch.ones(1, 3, 1, 4, 4), torch.ones(3, 1, 3, 3, 3)
        >>> rollout_conv_act(planes, weight, -20 * torch.ones(3, 1, 4, 4), axes="zy", slope=0.5)[0, 0, 0, 0]
        tensor([-4., -1., -1., -4.])
    """
    exchanges = _check(planes, weight, None, axes)
    shape = [*weight.shape[:2], *planes.shape[3:]]
    wanted = torch.promote_types(planes.dtype, torch.float32)
    if list(offset.shape) != shape or offset.dtype != wanted or offset.device != planes.device:
        raise ValueError(
            f"offset must be {shape} of {wanted} on {planes.device}, "
            f"got {list(offset.shape)} {offset.dtype} on {offset.device}"
        )
    convolved: Tensor = _rollout_conv(planes, weight, offset, exchanges, slope, impl=impl)
    return convolved


def _fake_plane_conv(x, weight, bias, slope):  # type: ignore[no-untyped-def]
    return x.new_empty(len(x), *x.shape[2:], weight.shape[1]).permute(0, 3, 1, 2)


def _fake_rollout_conv(planes, weight, offset, exchanges, slope):  # type: ignore[no-untyped-def]
    batch, _, _, height, width = planes.shape
    return planes.new_empty(3, batch, height, width, weight.shape[1]).permute(1, 0, 4, 2, 3)


_plane_conv = Operator(
    "plane_conv_act(Tensor x, Tensor weight, Tensor? bias, float slope) -> Tensor", fake=_fake_plane_conv
)
_rollout_conv = Operator(
    "rollout_conv_act(Tensor planes, Tensor weight, Tensor offset, int[] exchanges, float slope) -> Tensor",
    fake=_fake_rollout_conv,
)
_plane_conv.refuse_derivative("it is for inference; networks train with talk3d.nn.planes.PlaneConv")
_rollout_conv.refuse_derivative("it is for inference; rollout_conv is differentiable")


def _triton(x: Tensor, weight: Tensor, *_: object) -> str | None:
    largest = max(x.shape[-3], weight.shape[1]) * x.shape[-2:].numel()
    return no_triton_type(x) or (TOO_LARGE if largest >= LARGEST else None)


for _operator in (_plane_conv, _rollout_conv):
    _operator.implement("triton", f"talk3d.kernels.grouped:{_operator.name}", supports=_triton)
    _operator.implement("torch", f"talk3d.composed.grouped:{_operator.name}")
    _operator.implement("reference", f"talk3d.reference.grouped:{_operator.name}")
