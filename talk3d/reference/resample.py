"""Resampling with a filter, and bias with activation, in plain PyTorch, as published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu, pad


def resample2d(
    x: Tensor, filter: Tensor, up: list[int], down: list[int], padding: list[int], gain: float, flip: bool
) -> Tensor:
    """Insert zeros, pad, filter, keep every ``down``-th sample; see ``talk3d.ops.resample2d``."""
    B, C, H, W = x.shape
    spread = x.new_zeros(B, C, H * up[1], W * up[0])
    spread[:, :, :: up[1], :: up[0]] = x
    kernel = filter * gain
    kernel = (kernel if flip else kernel.flip((0, 1))).expand(C, 1, *filter.shape)  # conv2d correlates
    filtered = conv2d(pad(spread, padding), kernel, groups=C)
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    kept = filtered[:, :, :: down[1], :: down[0]]
    return kept.clone(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def bias_act(x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    """Add, activate, scale, clamp; see ``talk3d.ops.bias_act``."""
    biased = x if bias is None else x + bias.view(-1, *[1] * (x.ndim - 2))
    y = leaky_relu(biased, slope) * gain
    return torch.empty_like(x).copy_(y if clamp is None else y.clamp(-clamp, clamp))


def resample2d_bias_act(x: Tensor, filter: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    """Resample with the first five options, activate with the others; see ``talk3d.ops.resample2d_bias_act``."""
    return bias_act(resample2d(x, filter, *options[:5]), bias, *options[5:])


def bias_act_backward(d_y: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    """Gradient of :func:`bias_act` to ``x``, from its result."""
    slopes = torch.full_like(y, gain)
    slopes[y <= 0] = gain * slope
    if clamp is not None:
        slopes[y.abs() >= clamp] = 0
    return slopes * d_y
