"""The 3 x 3 convolution with bias and activation, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from talk3d.reference.resample import bias_act


def conv3x3_bias_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None
) -> Tensor:
    """Convolve, add, activate, scale, clamp; see ``talk3d.ops.conv3x3_bias_act``."""
    y = bias_act(conv2d(x, weight, padding=1), bias, slope, gain, clamp)
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
