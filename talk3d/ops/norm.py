"""Group norm of several planes at once, with the bias before it and the activation behind it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, no_triton_type, require_alike
from talk3d.ops.registry import Operator

__all__ = ["group_norm_act"]


def group_norm_act(
    x: Float[Tensor, "pictures channel height width"],
    bias: Float[Tensor, "plane channel"] | None,
    weight: Float[Tensor, "plane channel"],
    offset: Float[Tensor, "plane channel"],
    *,
    groups: int,
    eps: float = 1e-5,
    slope: float = 1.0,
    impl: str | None = None,
) -> Float[Tensor, "pictures channel height width"]:
    r"""Add a bias, normalise groups of channels of each picture, scale and shift, and activate, for inference.

    .. math:: y = \mathrm{lrelu}(\mathrm{GN}(x + bias) \cdot weight + offset)

    Args:
        x: Pictures ``[P * B, C, H, W]``, plane by plane, of any floating type; channels-last is the fast layout.
        bias: Of each plane ``[P, C]``, or None.
        weight: ``[P, C]``.
        offset: ``[P, C]``.
        groups: Into how many groups the channels are divided.
        eps: Added to the variance.
        slope: Of the negative side; 1 for no activation.
        impl: ``"triton"`` (channels-last) or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Pictures like ``x``, which share its layout.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Not differentiable: :class:`talk3d.nn.planes.PlaneGroupNorm` is, and is what networks train with.

    Example:
        >>> x, ones = torch.tensor([[[[1.0, 3.0]]]]), torch.ones(1, 1)
        >>> group_norm_act(x, None, ones, 0 * ones, groups=1, eps=0.0, slope=0.5)
        tensor([[[[-0.5000,  1.0000]]]])
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [pictures, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    channels = x.shape[1]
    if weight.ndim != 2 or weight.shape[1] != channels or not len(weight) or len(x) % len(weight):
        raise ValueError(
            f"weight must be [planes, {channels}] and the planes divide {len(x)}, got {list(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("offset", offset), ("bias", bias)):
        if tensor is not None:
            if tensor.shape != weight.shape:
                raise ValueError(f"{name} must have the shape {list(weight.shape)}, got {list(tensor.shape)}")
            require_alike(name, tensor, x)
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")
    normalised: Tensor = _forward(x, bias, weight, offset, groups, eps, slope, impl=impl)
    return normalised


def _fake(x, bias, weight, offset, groups, eps, slope):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


_forward = Operator(
    "group_norm_act(Tensor x, Tensor? bias, Tensor weight, Tensor offset, int groups, float eps, float slope)"
    " -> Tensor",
    fake=_fake,
)
_forward.refuse_derivative("it is for inference; networks train with talk3d.nn.planes.PlaneGroupNorm")


def _triton(x: Tensor, bias: Tensor | None, weight: Tensor, *_: object) -> str | None:
    if reason := no_triton_type(x):
        return reason
    if not x.is_contiguous(memory_format=torch.channels_last):
        return f"it takes channels-last pictures, not the strides {x.stride()}"
    if x.shape[1] > 1024 or x.shape[1:].numel() >= LARGEST:
        return f"it holds whole texels and counts in 32 bits, not {list(x.shape)}"
    return None


_forward.implement("triton", "talk3d.kernels.norm:group_norm_act", supports=_triton)
_forward.implement("reference", "talk3d.reference.norm:group_norm_act")
