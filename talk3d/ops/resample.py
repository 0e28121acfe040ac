"""What StyleGAN does to pictures between its convolutions: resampling with a filter; bias, activation and clamp."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, TOO_LARGE, no_triton_type, require_alike
from talk3d.ops.registry import Operator

__all__ = ["Activation", "Resampling", "bias_act", "resample2d", "resample2d_bias_act"]

Pair = int | tuple[int, int]
Act = Literal["linear", "lrelu"]

# slope of the negative side, and gain that keeps the variance of a normal input
_ACTIVATIONS = {"linear": (1.0, 1.0), "lrelu": (0.2, math.sqrt(2))}


class Resampling(NamedTuple):
    """The options of :func:`resample2d`, which explains them."""

    up: Pair = 1
    down: Pair = 1
    padding: int | tuple[int, int, int, int] = 0
    gain: float = 1.0
    flip: bool = False


class Activation(NamedTuple):
    """The options of :func:`bias_act`, which explains them."""

    act: Act = "lrelu"
    alpha: float | None = None
    gain: float | None = None
    clamp: float | None = None


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
        impl: ``"cpu"`` (float32 and bfloat16, channels-last), ``"triton"`` (those and float16), ``"torch"`` or
            ``"reference"``; by default the fastest that accepts the inputs.

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
    options = _resampling(x, filter, Resampling(up, down, padding, gain, flip))
    return _resample(x, filter, *options, impl=impl)


def bias_act(
    x: Float[Tensor, "batch channel *spatial"],
    bias: Float[Tensor, " channel"] | None = None,
    act: Act = "lrelu",
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
        impl: ``"cpu"`` (float32 and bfloat16), ``"triton"`` (those and float16), ``"torch"`` or ``"reference"``; by
            default the fastest that accepts the inputs.

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
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x must be [batch, channels, ...] of a floating type, got {list(x.shape)} {x.dtype}")
    _check_bias(bias, x, x.shape[1])
    return _bias_act(x, bias, *_activation(Activation(act, alpha, gain, clamp)), impl=impl)


def resample2d_bias_act(
    x: Float[Tensor, "batch channel height width"],
    filter: Float[Tensor, "filter_height filter_width"],
    bias: Float[Tensor, " channel"] | None,
    resampling: Resampling,
    activation: Activation,
    *,
    impl: str | None = None,
) -> Float[Tensor, "batch channel out_height out_width"]:
    r"""Resample, then add a bias, activate, scale and clamp, in one pass over the picture.

    It is :func:`bias_act` of :func:`resample2d`, which explain the options; where memory is 16 bits wide, what lies
    between them is not rounded.

    Args:
        x: Pictures ``[B, C, H, W]`` of any floating type; channels-last stays so, and is the fast layout.
        filter: ``[h, w]``, one for all channels. It is a constant: no gradient flows to it.
        bias: ``[C]``.
        resampling: Factors, padding, gain and direction of the filter.
        activation: Which one, its slope, gain and clamp.
        impl: ``"cpu"`` (float32 and bfloat16, channels-last), ``"triton"`` (those and float16), ``"torch"`` or
            ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Activations ``[B, C, H', W']``.

    Raises:
        ValueError: On wrong shapes, types, devices or options.

    Note:
        Differentiable any number of times, to ``x`` and ``bias``. It keeps its result for that, not its input.

    Example:
        >>> x, filter = torch.tensor([[[[1.0, -2.0]]]]), torch.ones(1, 2)
        >>> resample2d_bias_act(x, filter, None, Resampling(padding=(1, 0, 0, 0)), Activation(gain=1.0))
        tensor([[[[ 1.0000, -0.2000]]]])
    """
    options = _resampling(x, filter, resampling)
    _check_bias(bias, x, x.shape[1])
    return _resample_bias_act(x, filter, bias, *options, *_activation(activation), impl=impl)


def _resampling(x: Tensor, filter: Tensor, options: Resampling) -> tuple[list[int], list[int], list[int], float, bool]:
    """Check the inputs; the options as the schema has them."""
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [batch, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    if filter.ndim != 2 or not filter.numel():
        raise ValueError(f"filter must be [height, width], got {list(filter.shape)}")
    if filter.requires_grad:
        raise ValueError(f"filter {list(filter.shape)} requires a gradient, but it is a constant of the operator")
    require_alike("filter", filter, x)
    ups, downs = (_pair(name, factor) for name, factor in (("up", options.up), ("down", options.down)))
    padding = options.padding
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(pads) != 4:
        raise ValueError(f"padding must be one number, or left, right, top and bottom, got {padding!r}")
    if min(_sizes(list(x.shape), filter, ups, downs, pads)) < 1:
        raise ValueError(
            f"nothing remains of x {list(x.shape)} with up={options.up}, padding={padding} under a filter "
            f"{list(filter.shape)}"
        )
    return ups, downs, pads, float(options.gain), options.flip


def _activation(options: Activation) -> tuple[float, float, float | None]:
    """Check the options; slope, gain and clamp."""
    act, alpha, gain, clamp = options
    if act not in _ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(_ACTIVATIONS)}, got {act!r}")
    slope, usual_gain = _ACTIVATIONS[act]
    if alpha is not None and (act == "linear" or not alpha >= 0):
        raise ValueError(f"alpha is for act='lrelu', and 0 or more, got {alpha} with {act!r}")
    for name, value in (("gain", gain), ("clamp", clamp)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    return slope if alpha is None else float(alpha), usual_gain if gain is None else float(gain), clamp


def _check_bias(bias: Tensor | None, x: Tensor, channels: int) -> None:
    if bias is None:
        return
    if bias.shape != (channels,):
        raise ValueError(f"bias must have the shape [{channels}], got {list(bias.shape)}")
    require_alike("bias", bias, x)


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


def _fake_resample_bias_act(x, filter, bias, *options):  # type: ignore[no-untyped-def]
    *resampling, _, _, _ = options  # slope, gain and clamp change no shape
    return _fake_resample(x, filter, *resampling)  # type: ignore[no-untyped-call]


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
_resample_bias_act = Operator(
    "resample2d_bias_act(Tensor x, Tensor filter, Tensor? bias, int[] up, int[] down, int[] padding, float filter_gain,"
    " bool flip, float slope, float gain, float? clamp) -> Tensor",
    fake=_fake_resample_bias_act,
)


def _save_filter(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, filter, *ctx.options = inputs
    ctx.save_for_backward(filter)
    ctx.shapes = x.shape, output.shape, x.is_contiguous(memory_format=torch.channels_last)


def _resample_back(ctx, d_y):  # type: ignore[no-untyped-def]
    (filter,) = ctx.saved_tensors
    return _resample_transposed(d_y, filter, ctx.shapes, ctx.options, ctx.impl), None, None, None, None, None, None


def _resample_transposed(d_y: Tensor, filter: Tensor, shapes: Any, options: Any, impl: str) -> Any:
    """Exchange up and down, turn the filter round, and pad so that the first and last samples meet theirs."""
    up, down, padding, gain, flip = options
    before, after, is_last = shapes
    if is_last:
        d_y = d_y.contiguous(memory_format=torch.channels_last)
    pads = []
    for axis in (0, 1):  # width, height
        first = filter.shape[1 - axis] - padding[2 * axis] - 1
        last = before[3 - axis] * up[axis] - after[3 - axis] * down[axis] + padding[2 * axis] - up[axis] + 1
        pads += [first, last]
    return _resample(d_y, filter, down, up, pads, gain, not flip, impl=impl)


def _save_result(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output)
    ctx.options = inputs[2:]


def _bias_act_back(ctx, d_y):  # type: ignore[no-untyped-def]
    (y,) = ctx.saved_tensors
    d_x = _bias_act_backward(d_y, y, *ctx.options, impl=ctx.impl)
    return d_x, _sum_to_channels(d_x) if ctx.needs_input_grad[1] else None, None, None, None


def _sum_to_channels(d_x: Tensor) -> Tensor:
    return d_x.sum([dim for dim in range(d_x.ndim) if dim != 1])


def _save_filter_and_result(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, filter, _, *options = inputs
    ctx.save_for_backward(filter, output)
    ctx.resampling, ctx.activation = options[:5], options[5:]
    ctx.shapes = x.shape, output.shape, x.is_contiguous(memory_format=torch.channels_last)


def _resample_bias_act_back(ctx, d_y):  # type: ignore[no-untyped-def]
    filter, y = ctx.saved_tensors
    needs_x, _, needs_bias, *_ = ctx.needs_input_grad
    d_smooth = _bias_act_backward(d_y, y, *ctx.activation, impl=ctx.impl)
    d_x = _resample_transposed(d_smooth, filter, ctx.shapes, ctx.resampling, ctx.impl) if needs_x else None
    return d_x, None, _sum_to_channels(d_smooth) if needs_bias else None, *[None] * 8


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
_resample_bias_act.differentiate(_save_filter_and_result, _resample_bias_act_back)


def _float32_or_bfloat16(x: Tensor, *_: object) -> str | None:
    return None if x.dtype in (torch.float32, torch.bfloat16) else f"it takes float32 and bfloat16, not {x.dtype}"


def _channels_last(x: Tensor, *_: object) -> str | None:
    if not x.is_contiguous(memory_format=torch.channels_last):
        return f"it takes channels-last pictures, not the strides {x.stride()}"  # elsewhere torch is as fast
    return _float32_or_bfloat16(x)


def _triton(x: Tensor, *_: object) -> str | None:
    span = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    return no_triton_type(x) or (TOO_LARGE if span >= LARGEST else None)


def _triton_resample(
    x: Tensor, filter: Tensor, up: list[int], down: list[int], padding: list[int], *_: object
) -> str | None:
    after = math.prod(_sizes(list(x.shape), filter, up, down, padding)) * x.shape[1]
    return TOO_LARGE if after >= LARGEST else _triton(x)


for _operator, _supports, _triton_supports in (
    (_resample, _channels_last, _triton_resample),
    (_bias_act, _float32_or_bfloat16, _triton),
    (_bias_act_backward, _float32_or_bfloat16, _triton),
    (_resample_bias_act, _channels_last, lambda x, filter, _, *options: _triton_resample(x, filter, *options)),
):
    _operator.implement("cpu", supports=_supports)
    _operator.implement("triton", f"talk3d.kernels.resample:{_operator.name}", supports=_triton_supports)
    _operator.implement("torch", f"talk3d.composed.resample:{_operator.name}")
    _operator.implement("reference", f"talk3d.reference.resample:{_operator.name}")
