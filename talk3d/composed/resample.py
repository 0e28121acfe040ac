"""Resampling without the inserted zeros; bias, gain and activation in place.

Depthwise convolutions of channels-last pictures are what torch is good at: the whole 4 x 4 filter takes no longer than
its two factors one after the other, which write a picture more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad


def resample2d(
    x: Tensor, filter: Tensor, up: list[int], down: list[int], padding: list[int], gain: float, flip: bool
) -> Tensor:
    """Resample with a strided convolution, or a transposed one; see ``talk3d.ops.resample2d``."""
    C = x.shape[1]
    kernel = filter * gain
    if max(up) == 1:
        inside, outside = _split(padding)
        kernel = kernel if flip else kernel.flip((0, 1))
        x = pad(x, outside) if any(outside) else x
        y = conv2d(x, kernel.expand(C, 1, *filter.shape), stride=down[::-1], padding=inside, groups=C)
    else:
        # a transposed convolution scatters the filter: it starts h - 1 samples before the first place where it fits
        crops = []
        for axis in (0, 1):  # width, height
            length = filter.shape[1 - axis]
            crops += [length - 1 - padding[2 * axis], length - up[axis] - padding[2 * axis + 1]]
        inside, outside = _split(crops)
        kernel = kernel.flip((0, 1)) if flip else kernel
        y = conv_transpose2d(x, kernel.expand(C, 1, *filter.shape), stride=up[::-1], padding=inside, groups=C)
        y = pad(y, [-crop for crop in outside]) if any(outside) else y
        y = y[:, :, :: down[1], :: down[0]]
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def bias_act(x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    """Add and scale at once, then work in place; see ``talk3d.ops.bias_act``."""
    y = torch.empty_like(x)
    if bias is not None:
        # gain is positive, so that it may come before the activation
        x = torch.add((bias * gain).view(-1, *[1] * (x.ndim - 2)), x, alpha=gain, out=y)
    elif gain != 1 or slope == 1:
        x = torch.mul(x, gain, out=y)
    if slope != 1:
        torch.ops.aten.leaky_relu(x, slope, out=y)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def resample2d_bias_act(x: Tensor, filter: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    """Resample with the first five options, activate with the others; see ``talk3d.ops.resample2d_bias_act``."""
    return bias_act(resample2d(x, filter, *options[:5]), bias, *options[5:])


def bias_act_backward(d_y: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """Gradient of :func:`bias_act` to ``x``, from its result, whose sign is that of the activation's input."""
    d_x = torch.mul(d_y, gain, out=torch.empty_like(y))
    if slope != 1:
        torch.ops.aten.leaky_relu_backward(d_x, y, slope, True, grad_input=d_x)
    if clamp is not None:
        torch.ops.aten.hardtanh_backward(d_x, y, -clamp, clamp, grad_input=d_x)
    return d_x


def _split(sides: list[int]) -> tuple[list[int], list[int]]:
    """What a convolution does by itself (height, width; the same at both ends), and what is left for each side."""
    both = [max(min(sides[:2]), 0), max(min(sides[2:]), 0)]
    return both[::-1], [sides[0] - both[0], sides[1] - both[0], sides[2] - both[1], sides[3] - both[1]]
