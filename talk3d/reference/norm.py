"""Group norm of several planes in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu


def group_norm_act(
    x: Tensor, bias: Tensor | None, weight: Tensor, offset: Tensor, groups: int, eps: float, slope: float
) -> Tensor:
    """Add, normalise, scale, activate, plane by plane; see ``talk3d.ops.norm.group_norm_act``."""
    y = torch.empty_like(x)
    planes = zip(x.chunk(len(weight)), y.chunk(len(weight)), weight, offset, strict=True) if len(x) else ()
    for plane, (pictures, result, gain, shift) in enumerate(planes):
        pictures = pictures if bias is None else pictures + bias[plane, :, None, None]
        result.copy_(leaky_relu(torch.group_norm(pictures, groups, gain, shift, eps), slope))
    return y
