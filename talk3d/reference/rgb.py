"""Activation and what it contributes to the picture, in plain PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import conv2d

from talk3d.reference.resample import bias_act, resample2d


def act_rgb(
    x: Tensor, bias: Tensor | None, image: Tensor, weight: Tensor, rgb_bias: Tensor, filter: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Activate, multiply to colours, add to the picture; see ``talk3d.ops.rgb.act_rgb``."""
    slope, gain, clamp, rgb_clamp, keep = options
    y = bias_act(x, bias, slope, gain, clamp)
    found = bias_act(conv2d(y, weight[:, :, None, None]), rgb_bias, 1.0, 1.0, rgb_clamp).to(image.dtype)
    if filter is not None:
        image = resample2d(image, filter.to(image.dtype), [2, 2], [1, 1], [2, 1, 2, 1], 4.0, False)
    return _last(y) if keep else x.new_empty(0), _last(found + image)


def _last(x: Tensor) -> Tensor:
    return x.new_empty(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2).copy_(x)
