"""Layers with an equalised learning rate: weights are stored with unit variance and scaled when used."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

from talk3d.ops import bias_act, resample2d

__all__ = ["EqualizedConv2d", "EqualizedLinear", "smoothing_filter"]

Activation = Literal["linear", "lrelu"]


def smoothing_filter() -> Float[Tensor, "4 4"]:
    """Make StyleGAN's low-pass filter: the outer product of ``[1, 3, 3, 1] / 8`` with itself."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps)


class EqualizedLinear(nn.Module):
    r"""Linear layer: weight times ``lr_multiplier / sqrt(in_features)`` (Progressive GAN, section 4.1).

    ``[B, in_features]`` to ``[B, out_features]``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        activation: ``"linear"`` or ``"lrelu"``, which has a gain of the square root of 2.
        bias_init: What the bias is at run time before training.
        lr_multiplier: How much slower than others the layer learns. Weight and bias are stored divided by it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation = "linear",
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))

    def forward(self, x: Float[Tensor, "batch in_features"]) -> Float[Tensor, "batch out_features"]:
        """Apply the layer."""
        y = torch.addmm(self.bias, x, self.weight.t(), beta=self.bias_gain, alpha=self.weight_gain)
        return y if self.activation == "linear" else bias_act(y, act=self.activation)

    def scaled(self) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, " out_features"]]:
        """Weight and bias as they are at run time."""
        return self.weight * self.weight_gain, self.bias * self.bias_gain


class EqualizedConv2d(nn.Module):
    """Convolution that keeps the size or, behind a low-pass filter, halves it; then bias and activation.

    ``[B, in_channels, H, W]`` to ``[B, out_channels, H / down, W / down]``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: 1 or 3.
        bias: Whether there is one.
        activation: ``"linear"`` or ``"lrelu"``, which has a gain of the square root of 2.
        down: 1, or 2 to halve an even size.
        gain: Multiplies the result, and the clamp with it.
        clamp: Largest magnitude of the result, if there is one.
    """

    filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: Activation = "lrelu",
        down: Literal[1, 2] = 1,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down = down
        self.gain = gain * (math.sqrt(2) if activation == "lrelu" else 1.0)
        self.clamp = None if clamp is None else clamp * gain
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("filter", smoothing_filter(), persistent=False)

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch out_channels h w"]:
        """Apply the layer."""
        weight = self.weight * self.weight_gain
        kernel_size = weight.shape[2]
        if self.down == 1:
            y = conv2d(x, weight, padding=kernel_size // 2)
        elif kernel_size == 1:
            y = conv2d(resample2d(x, self.filter, down=2, padding=1), weight)
        else:
            y = conv2d(resample2d(x, self.filter, padding=2), weight, stride=2)
        return bias_act(y, self.bias, self.activation, gain=self.gain, clamp=self.clamp)
