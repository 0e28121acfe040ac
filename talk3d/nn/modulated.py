"""Convolutions whose input channels are scaled by a style (StyleGAN2, section 2.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear

from talk3d.nn.equalized import EqualizedLinear, smoothing_filter
from talk3d.ops import Activation, Resampling, bias_act, resample2d, resample2d_bias_act
from talk3d.profiling import annotate

__all__ = ["Noise", "SynthesisLayer", "ToRGB", "modulated_conv2d"]

# the stored map, none, or a fresh one from this generator
Noise = Literal["const", "none"] | torch.Generator

_SMOOTHING = Resampling(padding=1, gain=4.0)  # the low-pass filter behind a transposed convolution of stride 2


def modulated_conv2d(
    x: Float[Tensor, "batch in_channels height width"],
    weight: Float[Tensor, "out_channels in_channels kernel kernel"],
    style: Float[Tensor, "batch in_channels"],
    *,
    demodulate: bool = True,
    up_filter: Float[Tensor, "4 4"] | None = None,
) -> Float[Tensor, "batch out_channels out_height out_width"]:
    r"""Convolve with :math:`w'_{oik} = s_i w_{oik}`, divided by its norm for each output channel.

    It is the activations or the weights that are scaled, whichever is less work: :math:`s` on the input and
    :math:`d_o = (\sum_i s_i^2 \sum_k w_{oik}^2 + 10^{-8})^{-1/2}` on the output are the same convolution.

    Args:
        x: Activations ``[B, I, H, W]``; their type is that of the convolution.
        weight: ``[O, I, k, k]`` with an odd ``k``.
        style: ``[B, I]``.
        demodulate: Whether to divide by the norm.
        up_filter: Doubles the size, for ``k = 3``: a transposed convolution, then this low-pass filter.

    Returns:
        Activations ``[B, O, H, W]``, or ``[B, O, 2H, 2W]``.
    """
    if up_filter is None:
        return _convolve(x, weight, style, demodulate=demodulate)
    spread = _convolve(x, weight, style, demodulate=demodulate, up=2)
    return resample2d(spread, up_filter.to(x.dtype), padding=_SMOOTHING.padding, gain=_SMOOTHING.gain)


def _convolve(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: Literal[1, 2] = 1) -> Tensor:
    """Modulated convolution, or the transposed one ``[B, O, 2H + 1, 2W + 1]`` that the low-pass filter follows."""

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        if up == 1:
            return conv2d(x, weight, padding=weight.shape[2] // 2)
        return conv_transpose2d(x, weight.transpose(0, 1), stride=2)

    if demodulate and x.dtype == torch.float16:
        weight, style = _within_half_range(weight, style)
    d = _demodulation(weight, style) if demodulate else None
    if len(x) == 1 and weight.numel() < x.numel():
        kernel = weight * style[0, :, None, None]
        return convolve(x, kernel if d is None else kernel * d[0, :, None, None, None])
    y = convolve(x * style[:, :, None, None].to(x.dtype), weight)
    return y if d is None else y * d[:, :, None, None].to(y.dtype)


def _demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Inverse norm of each output channel's weights ``[B, O]``."""
    return (linear(style.square(), weight.square().sum((2, 3))) + 1e-8).rsqrt()


def _within_half_range(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Scale weights and style so that float16 does not overflow; demodulation undoes it."""
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    return (
        weight / (largest * math.sqrt(weight[0].numel())),
        style / style.abs().amax(1, keepdim=True),
    )


class SynthesisLayer(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias and leaky ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        w_dim: Width of the latent that gives the style.
        resolution: Side of the output, which the stored noise has.
        up: 2 to double the size.
        clamp: Largest magnitude of the output, if there is one.
    """

    noise_const: Tensor
    filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        up: Literal[1, 2] = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("filter", smoothing_filter() if up == 2 else None, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        w: Float[Tensor, "batch w_dim"],
        *,
        noise: Noise = "const",
        gain: float = 1.0,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Apply the layer; ``gain`` multiplies the result, and the clamp with it."""
        style, bias = self.affine(w), self.bias.to(x.dtype)
        activation = Activation(gain=math.sqrt(2) * gain, clamp=None if self.clamp is None else self.clamp * gain)
        if noise == "none" and self.filter is not None:
            with annotate(".up"):
                spread = _convolve(x, self.weight, style, up=2)
            with annotate(".fir"):
                return resample2d_bias_act(spread, self.filter.to(x.dtype), bias, _SMOOTHING, activation)
        with annotate(".conv"):
            y = modulated_conv2d(x, self.weight, style, up_filter=self.filter)
            if noise != "none":
                y = y + (self._noise(y, noise) * self.noise_strength).to(y.dtype)
            return bias_act(y, bias, gain=activation.gain, clamp=activation.clamp)

    def fold(self, w: Float[Tensor, " w_dim"]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain convolution that this layer is for one ``w``, without noise.

        Modulation, demodulation and the gain of the activation, which is positive, are inside; what remains is a leaky
        ReLU of gain 1 and the clamp.
        """
        style = self.affine(w[None])
        scale = math.sqrt(2) * _demodulation(self.weight, style)[0]
        return self.weight * style[0, :, None, None] * scale[:, None, None, None], self.bias * math.sqrt(2)

    def _noise(self, y: Tensor, noise: Noise) -> Tensor:
        if isinstance(noise, torch.Generator):
            return torch.randn(len(y), 1, *y.shape[2:], generator=noise, device=y.device)
        if noise != "const":
            raise ValueError(f"noise must be 'const', 'none' or a torch.Generator, got {noise!r}")
        return self.noise_const


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to the channels of the picture, without demodulation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the picture.
        w_dim: Width of the latent that gives the style.
        clamp: Largest magnitude of the output, if there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.style_gain = 1 / math.sqrt(in_channels)
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"], w: Float[Tensor, "batch w_dim"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Apply the layer."""
        y = modulated_conv2d(x, self.weight, self.affine(w) * self.style_gain, demodulate=False)
        return bias_act(y, self.bias.to(y.dtype), "linear", clamp=self.clamp)

    def fold(self, w: Float[Tensor, " w_dim"]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain convolution that this layer is for one ``w``; the clamp remains."""
        style = self.affine(w[None])[0] * self.style_gain
        return self.weight * style[:, None, None], self.bias
