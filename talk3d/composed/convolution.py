"""The 3 x 3 convolution of torch, which adds the bias, and our activation behind it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def conv3x3_bias_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None
) -> Tensor:
    """Convolve, then activate in one pass; see ``talk3d.ops.conv3x3_bias_act``."""
    later = bias is not None and x.device.type != "cpu"  # there torch adds it in a pass of its own
    y = conv2d(x, weight, None if later else bias, padding=1)
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    y = y.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
    if slope == 1 and gain == 1 and clamp is None and not later:
        return y
    # the fastest there is: on a GPU nothing but a kernel of its own reads and writes the picture once
    activated: Tensor = torch.ops.talk3d.bias_act(y, bias if later else None, slope, gain, clamp, "auto")
    return activated


def weight_backward(d_sum: Tensor, x: Tensor) -> Tensor:
    """Gradient of the weights ``[C', C, 3, 3]`` from that of the sums ``[B, C', H, W]``."""
    like = x.new_empty(d_sum.shape[1], x.shape[1], 3, 3)
    options = None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # bias; stride, padding, dilation: 1
    _, found, _ = torch.ops.aten.convolution_backward(d_sum, x, like, *options, [False, True, False])
    d_weight: Tensor = found.contiguous()
    return d_weight
