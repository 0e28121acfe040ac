"""The end of a block of super-resolution: activation, and what the activations contribute to the picture."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, TOO_LARGE, no_triton_type, require_alike
from talk3d.ops.registry import Operator
from talk3d.ops.resample import Activation, _activation, _check_bias

__all__ = ["ToPicture", "act_rgb"]


class ToPicture(NamedTuple):
    """What makes a picture of activations.

    Attributes:
        weight: ``[3, C]``.
        bias: ``[3]``.
        filter: The 4 x 4 filter that doubles the picture that is there, or None if it has the size already.
        clamp: Largest magnitude of what is contributed, if there is one.
    """

    weight: Float[Tensor, "3 channel"]
    bias: Float[Tensor, " 3"]
    filter: Float[Tensor, "4 4"] | None
    clamp: float | None


def act_rgb(
    x: Float[Tensor, "batch channel height width"],
    bias: Float[Tensor, " channel"] | None,
    activation: Activation | None,
    picture: ToPicture,
    image: Float[Tensor, "batch 3 image_height image_width"],
    *,
    keep: bool = True,
    impl: str | None = None,
) -> tuple[Float[Tensor, "batch channel height width"] | None, Float[Tensor, "batch 3 height width"]]:
    r"""Activate, and add what it contributes to a picture: a block's end with skip connections (StyleGAN2, figure 7b).

    .. math:: y = act(x + bias), \qquad picture' = up(picture) + \mathrm{clamp}(W y + b)

    Args:
        x: ``[B, C, H, W]`` of any floating type; channels-last is the fast layout.
        bias: ``[C]``, or None.
        activation: See :func:`talk3d.ops.bias_act`; None where nothing is left to do, also no bias to add.
        picture: Weights, in the type of ``x``.
        image: The picture so far, of any floating type and strides, which the result has: ``[B, 3, H, W]``, or half as
            high and wide if there is a filter.
        keep: Whether ``y`` is wanted; behind the last block nobody does.
        impl: ``"triton"`` (one launch; not float64), ``"torch"`` or ``"reference"``; by default the fastest that
            accepts the inputs.

    Returns:
        ``y``, channels-last, or None unless it is wanted (``x`` itself without an activation); and the picture,
        channels-last.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Not differentiable: :func:`talk3d.ops.bias_act` and :func:`talk3d.ops.resample2d`, which it is made of, are.

    Example:
        >>> to = ToPicture(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3), None, 5.0)
        >>> act_rgb(torch.full((1, 1, 1, 1), 2.0), None, None, to, torch.ones(1, 3, 1, 1))[1].flatten()
        tensor([3., 5., 6.])
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [batch, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    batch, channels, height, width = x.shape
    weight, rgb_bias, filter, clamp = picture
    for name, tensor, size in (("weight", weight, [3, channels]), ("bias", rgb_bias, [3]), ("filter", filter, [4, 4])):
        if tensor is not None:
            if list(tensor.shape) != size:
                raise ValueError(f"picture.{name} must have the shape {size}, got {list(tensor.shape)}")
            require_alike(f"picture.{name}", tensor, x)
    if filter is not None and (height % 2 or width % 2):
        raise ValueError(f"a picture that was doubled has even sides, got x {list(x.shape)}")
    shape = [batch, 3, height, width] if filter is None else [batch, 3, height // 2, width // 2]
    if list(image.shape) != shape or not image.is_floating_point() or image.device != x.device:
        raise ValueError(
            f"image must be {shape}, floating-point and on {x.device}, "
            f"got {list(image.shape)} {image.dtype} on {image.device}"
        )
    _check_bias(bias, x, channels)
    if activation is None and bias is not None:
        raise ValueError("a bias needs an activation to go with it, Activation('linear') at least")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"picture.clamp must be positive, got {clamp}")
    options = (1.0, 1.0, None) if activation is None else _activation(activation)
    keeps = keep and activation is not None
    y, found = _act_rgb(x, bias, image, weight, rgb_bias, filter, *options, clamp, keeps, impl=impl)
    return (y if keeps else x if keep else None), found


def _fake(x, bias, image, *options):  # type: ignore[no-untyped-def]
    batch, channels, height, width = x.shape
    y = x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2) if options[-1] else x.new_empty(0)
    return y, image.new_empty(batch, height, width, 3).permute(0, 3, 1, 2)


_act_rgb = Operator(
    "act_rgb(Tensor x, Tensor? bias, Tensor image, Tensor weight, Tensor rgb_bias, Tensor? filter, float slope,"
    " float gain, float? clamp, float? rgb_clamp, bool keep) -> (Tensor y, Tensor picture)",
    fake=_fake,
)
_act_rgb.refuse_derivative("it is for inference; bias_act and resample2d are differentiable")


def _triton(x: Tensor, bias: Tensor | None, image: Tensor, *_: object) -> str | None:
    if reason := no_triton_type(x) or no_triton_type(image):
        return reason
    if x.shape[1] > 1024:
        return f"it holds whole pixels, and {x.shape[1]} channels are too many"
    return TOO_LARGE if x.shape[1:].numel() >= LARGEST else None


_act_rgb.implement("triton", "talk3d.kernels.rgb:act_rgb", supports=_triton)
_act_rgb.implement("torch", "talk3d.composed.rgb:act_rgb")
_act_rgb.implement("reference", "talk3d.reference.rgb:act_rgb")
