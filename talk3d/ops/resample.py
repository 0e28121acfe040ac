"""What StyleGAN does to pictures between its convolutions: resampling with a filter; bias, activation and clamp."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.registry import Operator

__all__ = ["bias_act", "resample2d"]

Pair = int | tuple[int, int]

# slope of the negative side, and gain that keeps the variance of a normal input
_ACTIVATIONS = {"linear": (1.0, 1.0), "lrelu": (0.2, math.sqrt(2))}


def resample2d(
    x: Float[Tensor, "batch channel height width"],
    filter: Float[Tensor, "filter_height filter_width"],
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: int | tuple[int, int, int, int] = 0,
    gain: float = 1.0,
    flip: bool = False,
    impl: str | None = None,
) -> Float[Tensor, "batch channel out_height out_width"]:
    r"""Upsample, filter and downsample each channel of a picture (StyleGAN2, appendix B; ``upfirdn``).

    Zeros are put behind each sample until there are ``up`` as many, the rim is padded with zeros, the result is
    convolved with the filter wherever it fits, and every ``down``-th sample is kept, so that a side of ``n`` becomes

    .. math:: \lfloor (n \cdot up + p_0 + p_1 - n_{filter}) / down \rfloor + 1

    Args:
        x: Pictures ``[B, C, H, W]`` of any floating type; channels-last stays so, and is the fast layout.
        filter: ``[h, w]``, one for all channels. It is a constant: no gradient flows to it.
        up: Factor of upsampling, or one for the width and one for the height.
        down: Factor of downsampling, or one for the width and one for the height.
        padding: Left, right, top and bottom, counted in upsampled samples, or one number for all; negative ones crop.
        gain: Multiplies the filter. ``up**2`` keeps the brightness of an upsampled picture.
        flip: Correlate instead of convolving: do not turn the filter round.
        impl: ``"torch"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Pictures ``[B, C, H', W']``.

    Raises:
        ValueError: On wrong shapes, types or devices, factors below 1, or where nothing remains of the picture.

    Note:
        Differentiable to ``x`` any number of times: the derivative is a resampling too.

    Example:
        >>> resample2d(torch.ones(1, 1, 1, 2), torch.ones(1, 2), up=(2, 1), padding=(1, 0, 0, 0))
        tensor([[[[1., 1., 1., 1.]]]])
    """
    _check_picture(x, filter)
    ups, downs = (_pair(name, factor) for name, factor in (("up", up), ("down", down)))
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(pads) != 4:
        raise ValueError(f"padding must be one number, or left, right, top and bottom, got {padding!r}")
    sizes = _sizes(list(x.shape), filter, ups, downs, pads)
    if min(sizes) < 1:
        raise ValueError(
            f"nothing remains of x {list(x.shape)} with up={up}, padding={padding} under a filter {list(filter.shape)}"
        )
    return _resample(x, filter, ups, downs, pads, float(gain), flip, impl=impl)


def bias_act(
    x: Float[Tensor, "batch channel *spatial"],
    bias: Float[Tensor, " channel"] | None = None,
    act: Literal["linear", "lrelu"] = "lrelu",
    *,
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str | None = None,
) -> Float[Tensor, "batch channel *spatial"]:
    r"""Add a bias to each channel, activate, scale and clamp (StyleGAN2).

    .. math:: y = \mathrm{clamp}(gain \cdot act(x + bias), -clamp, clamp)

    Args:
        x: Activations ``[B, C, ...]`` of any floating type and layout, which the result shares.
        bias: ``[C]``.
        act: ``"linear"``, or ``"lrelu"``: what is negative is multiplied by ``alpha``.
        alpha: 0 or more; by default 0.2. ``"linear"`` has none.
        gain: Positive; by default 1 for ``"linear"`` and the square root of 2 for ``"lrelu"``.
        clamp: Largest magnitude that remains, positive; by default any.
        impl: ``"torch"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Activations ``[B, C, ...]``.

    Raises:
        ValueError: On wrong shapes, types, devices or options.

    Note:
        Differentiable any number of times, to ``x`` and ``bias``. It keeps its result for that, not its input.

    Example:
        >>> bias_act(torch.tensor([[-2.0, 0.0]]), torch.tensor([1.0, 5.0]), gain=1.0, clamp=4.0)
        tensor([[-0.2000,  4.0000]])
    """
    if act not in _ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(_ACTIVATIONS)}, got {act!r}")
    slope, usual_gain = _ACTIVATIONS[act]
    if alpha is not None and (act == "linear" or not alpha >= 0):
        raise ValueError(f"alpha is for act='lrelu', and 0 or more, got {alpha} with {act!r}")
    for name, value in (("gain", gain), ("clamp", clamp)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x must be [batch, channels, ...] of a floating type, got {list(x.shape)} {x.dtype}")
    if bias is not None and bias.shape != x.shape[1:2]:
        raise ValueError(f"bias must have the shape [{x.shape[1]}], got {list(bias.shape)}")
    if bias is not None:
        _check_alike("bias", bias, x)
    return _bias_act(
        x, bias, slope if alpha is None else float(alpha), usual_gain if gain is None else float(gain), clamp, impl=impl
    )


def _check_picture(x: Tensor, filter: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [batch, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    if filter.ndim != 2 or not filter.numel():
        raise ValueError(f"filter must be [height, width], got {list(filter.shape)}")
    if filter.requires_grad:
        raise ValueError(f"filter {list(filter.shape)} requires a gradient, but it is a constant of the operator")
    _check_alike("filter", filter, x)


def _check_alike(name: str, tensor: Tensor, x: Tensor) -> None:
    mixed = tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type)  # which casts both
    if mixed or tensor.device != x.device:
        raise ValueError(
            f"{name} ({tensor.dtype}, {tensor.device}) must have the type and device of x ({x.dtype}, {x.device})"
        )


def _pair(name: str, factor: Pair) -> list[int]:
    pair = [factor, factor] if isinstance(factor, int) else list(factor)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be at least 1: one number, or one for each of width and height, got {factor!r}")
    return pair


def _sizes(shape: list[int], filter: Tensor, up: list[int], down: list[int], padding: list[int]) -> tuple[int, int]:
    """Height and width after resampling."""
    width, height = (
        (shape[3 - axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1] - filter.shape[1 - axis]) // down[axis]
        + 1
        for axis in (0, 1)
    )
    return height, width


def _fake_resample(x, filter, up, down, padding, gain, flip):  # type: ignore[no-untyped-def]
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    shape = (*x.shape[:2], *_sizes(x.shape, filter, up, down, padding))
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_bias_act(x, bias, slope, gain, clamp):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _fake_bias_act_backward(d_y, y, slope, gain, clamp):  # type: ignore[no-untyped-def]
    return torch.empty_like(y)


_resample = Operator(
    "resample2d(Tensor x, Tensor filter, int[] up, int[] down, int[] padding, float gain, bool flip) -> Tensor",
    fake=_fake_resample,
)
_bias_act = Operator(
    "bias_act(Tensor x, Tensor? bias, float slope, float gain, float? clamp) -> Tensor", fake=_fake_bias_act
)
_bias_act_backward = Operator(
    "bias_act_backward(Tensor d_y, Tensor y, float slope, float gain, float? clamp) -> Tensor",
    fake=_fake_bias_act_backward,
)


def _save_filter(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, filter, *ctx.options = inputs
    ctx.save_for_backward(filter)
    ctx.shapes = x.shape, output.shape


def _resample_back(ctx, d_y):  # type: ignore[no-untyped-def]
    """Exchange up and down, turn the filter round, and pad so that the first and last samples meet theirs."""
    (filter,) = ctx.saved_tensors
    up, down, padding, gain, flip = ctx.options
    before, after = ctx.shapes
    pads = []
    for axis in (0, 1):  # width, height
        first = filter.shape[1 - axis] - padding[2 * axis] - 1
        last = before[3 - axis] * up[axis] - after[3 - axis] * down[axis] + padding[2 * axis] - up[axis] + 1
        pads += [first, last]
    d_x = _resample(d_y, filter, down, up, pads, gain, not flip, impl=ctx.impl)
    return d_x, None, None, None, None, None, None


def _save_result(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output)
    ctx.options = inputs[2:]


def _bias_act_back(ctx, d_y):  # type: ignore[no-untyped-def]
    (y,) = ctx.saved_tensors
    d_x = _bias_act_backward(d_y, y, *ctx.options, impl=ctx.impl)
    d_bias = d_x.sum([dim for dim in range(d_x.ndim) if dim != 1]) if ctx.needs_input_grad[1] else None
    return d_x, d_bias, None, None, None


def _save_slopes(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1])
    ctx.options = inputs[2:]


def _bias_act_back_twice(ctx, d_x):  # type: ignore[no-untyped-def]
    # the slopes are constant but at 0 and at the clamp, so that nothing flows to y
    (y,) = ctx.saved_tensors
    return _bias_act_backward(d_x, y, *ctx.options, impl=ctx.impl), None, None, None, None


_resample.differentiate(_save_filter, _resample_back)
_bias_act.differentiate(_save_result, _bias_act_back)
_bias_act_backward.differentiate(_save_slopes, _bias_act_back_twice)

for _operator in (_resample, _bias_act, _bias_act_backward):
    _operator.implement("torch", f"talk3d.composed.resample:{_operator.name}")
    _operator.implement("reference", f"talk3d.reference.resample:{_operator.name}")
