"""Activation and what it contributes to the picture, one pass after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def act_rgb(
    x: Tensor, bias: Tensor | None, image: Tensor, weight: Tensor, rgb_bias: Tensor, filter: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Activate, multiply to colours, add to the picture; see ``talk3d.ops.rgb.act_rgb``."""
    slope, gain, clamp, rgb_clamp, keep = options
    ops = torch.ops.talk3d
    if keep or bias is not None or slope != 1 or gain != 1 or clamp is not None:
        last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        x = ops.bias_act(last, bias, slope, gain, clamp, "auto")
    found = ops.bias_act(conv2d(x, weight[:, :, None, None]), rgb_bias, 1.0, 1.0, rgb_clamp, "auto")
    if filter is not None:
        up = [2, 2], [1, 1], [2, 1, 2, 1], 4.0, False
        image = ops.resample2d(image, filter.to(image.dtype), *up, "auto")
    B, _, H, W = found.shape
    picture = image.new_empty(B, H, W, 3).permute(0, 3, 1, 2)
    return x if keep else x.new_empty(0), torch.add(found, image, out=picture)
