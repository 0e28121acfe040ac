"""The 3 x 3 convolution of StyleGAN's blocks with what follows it: bias, activation, gain and clamp."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import require_alike
from talk3d.ops.registry import Operator
from talk3d.ops.resample import (
    Activation,
    _activation,
    _bias_act_backward,
    _check_bias,
    _float32_or_bfloat16,
    _sum_to_channels,
)

__all__ = ["conv3x3_bias_act"]

_VECTORS = 32  # channels come in two vectors of the widest kind
_ENOUGH = 1024  # pixels from which on the multiplications that are saved pay for the transformed weights


def conv3x3_bias_act(
    x: Float[Tensor, "batch in_channel height width"],
    weight: Float[Tensor, "out_channel in_channel 3 3"],
    bias: Float[Tensor, " out_channel"] | None,
    activation: Activation,
    *,
    impl: str | None = None,
) -> Float[Tensor, "batch out_channel height width"]:
    r"""Convolve with 3 x 3 weights, then add a bias, activate, scale and clamp.

    It is :func:`talk3d.ops.bias_act` of ``conv2d(x, weight, padding=1)``.

    Args:
        x: Pictures ``[B, C, H, W]`` of any floating type; channels-last stays so, and is the fast layout.
        weight: ``[C', C, 3, 3]``.
        bias: ``[C']``.
        activation: Which one, its slope, gain and clamp.
        impl: ``"cpu"`` (float32 and bfloat16, channels in thirty-twos), ``"torch"`` or ``"reference"``; by default the
            fastest that accepts the inputs.

    Returns:
        Activations ``[B, C', H, W]``.

    Raises:
        ValueError: On wrong shapes, types, devices or options.

    Note:
        Differentiable any number of times, to ``x``, ``weight`` and ``bias``. It keeps its result for that,
        unless there is nothing but a sum. Under autocast it runs in bfloat16.

        ``"cpu"`` is Winograd's minimal filtering F(4 x 4, 3 x 3) in float32 (Winograd 1980; Lavin and Gray 2016), which
        multiplies a quarter as often, in one pass over the picture; bfloat16 is rounded once, at its end. In float32
        its error is one to two times that of torch's sum over channels-last pictures, 7e-7 of the result's deviation at
        256 channels, as far as the magnitudes within 6 x 6 pixels are alike. What is not finite stays where it would be
        in the plain sum. So it is with the gradients: that to ``x`` is such a convolution, that to ``weight`` takes a
        quarter of the products too, F(3 x 3, 4 x 4). The latter is off by 5e-7 to 8e-7 of its deviation, where torch
        is by 3e-7 to 9e-7 (64 x 64 to 256 x 256 pixels).

    Example:
        >>> x, weight = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 3, 3)
        >>> conv3x3_bias_act(x, weight, None, Activation("linear", clamp=5.0))
        tensor([[[[4., 5., 4.],
                  [4., 5., 4.]]]])
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(
            f"x must be [batch, channels, height, width] of a floating type, got {list(x.shape)} {x.dtype}"
        )
    if weight.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3) or not len(weight):
        raise ValueError(f"weight must have the shape [out, {x.shape[1]}, 3, 3], got {list(weight.shape)}")
    require_alike("weight", weight, x)
    _check_bias(bias, x, len(weight))
    return _conv3x3_bias_act(x, weight, bias, *_activation(activation), impl=impl)


def _fake(x, weight, bias, slope, gain, clamp):  # type: ignore[no-untyped-def]
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if is_last else torch.contiguous_format
    shape = x.shape[0], weight.shape[0], *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_weight_backward(d_sum, x):  # type: ignore[no-untyped-def]
    return x.new_empty(d_sum.shape[1], x.shape[1], 3, 3)


_conv3x3_bias_act = Operator(
    "conv3x3_bias_act(Tensor x, Tensor weight, Tensor? bias, float slope, float gain, float? clamp) -> Tensor",
    fake=_fake,
    autocast=torch.bfloat16,
)
_weight_backward = Operator(
    "conv3x3_weight_backward(Tensor d_sum, Tensor x) -> Tensor", fake=_fake_weight_backward, autocast=torch.bfloat16
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, weight, _, *ctx.activation = inputs
    ctx.save_for_backward(x, weight, None if _is_linear(*ctx.activation) else output)


def _is_linear(slope: float, gain: float, clamp: float | None) -> bool:
    return slope == 1 and gain == 1 and clamp is None


def _back(ctx, d_y):  # type: ignore[no-untyped-def]
    x, weight, y = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    d_sum = d_y if _is_linear(*ctx.activation) else _bias_act_backward(d_y, y, *ctx.activation, impl=ctx.impl)
    d_x = _convolve_back(d_sum, weight, ctx.impl) if needs_x else None
    d_weight = _weight_backward(d_sum, x, impl=ctx.impl) if needs_weight else None
    return d_x, d_weight, _sum_to_channels(d_sum) if needs_bias else None, None, None, None


def _convolve_back(d_sum: Tensor, weight: Tensor, impl: str) -> Any:
    """Convolve the other way, with the weights turned round."""
    turned = weight.transpose(0, 1).flip((2, 3))
    return _conv3x3_bias_act(d_sum, turned, None, 1.0, 1.0, None, impl=impl)


def _save_both(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _weight_back(ctx, d_weight):  # type: ignore[no-untyped-def]
    # the gradient is bilinear, and its transposes are convolutions with what comes in as weights
    d_sum, x = ctx.saved_tensors
    needs_sum, needs_x = ctx.needs_input_grad[:2]
    d_d_sum = _conv3x3_bias_act(x, d_weight, None, 1.0, 1.0, None, impl=ctx.impl) if needs_sum else None
    return d_d_sum, _convolve_back(d_sum, d_weight, ctx.impl) if needs_x else None


_conv3x3_bias_act.differentiate(_save, _back)
_weight_backward.differentiate(_save_both, _weight_back)


@cache
def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


def _supports(x: Tensor, weight: Tensor, *_: object) -> str | None:
    return _supports_channels(x, len(weight))


def _supports_gradient(d_sum: Tensor, x: Tensor) -> str | None:
    return _supports_channels(x, d_sum.shape[1])


def _supports_channels(x: Tensor, out: int) -> str | None:
    if out % _VECTORS or x.shape[1] % _VECTORS:
        return f"it takes channels in multiples of {_VECTORS}, not {x.shape[1]} to {out}"
    if x.shape[0] * x.shape[2] * x.shape[3] < _ENOUGH:
        return f"it pays from {_ENOUGH} pixels on, not for {list(x.shape)}"
    if x.dtype == torch.bfloat16 and _has_amx():
        return "matrix units that multiply bfloat16 (AMX) are faster, and torch uses them"
    return _float32_or_bfloat16(x)


_conv3x3_bias_act.implement("cpu", supports=_supports)
_conv3x3_bias_act.implement("torch", "talk3d.composed.convolution:conv3x3_bias_act")
_conv3x3_bias_act.implement("reference", "talk3d.reference.convolution:conv3x3_bias_act")
_weight_backward.implement("cpu", supports=_supports_gradient)
_weight_backward.implement("torch", "talk3d.composed.convolution:weight_backward")
_weight_backward.implement("reference", "talk3d.reference.convolution:weight_backward")
