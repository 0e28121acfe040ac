"""The 3 x 3 convolution with bias and activation, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from talk3d.reference.resample import bias_act


def conv3x3_bias_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None
) -> Tensor:
    """Convolve, add, activate, scale, clamp; see ``talk3d.ops.conv3x3_bias_act``."""
    y = bias_act(conv2d(x, weight, padding=1), bias, slope, gain, clamp)
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def weight_backward(d_sum: Tensor, x: Tensor) -> Tensor:
    """Gradient of the weights: at each tap, every pixel of ``d_sum`` with what the tap sees for it."""
    height, width = x.shape[2:]
    padded = pad(x, (1, 1, 1, 1))
    taps = [
        torch.einsum("bohw,bihw->oi", d_sum, padded[:, :, row : row + height, column : column + width])
        for row in range(3)
        for column in range(3)
    ]
    return torch.stack(taps, dim=2).unflatten(2, (3, 3))
