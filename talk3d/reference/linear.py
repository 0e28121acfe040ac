"""Linear layers of several planes, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def plane_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply, and add the bias; see ``talk3d.ops.plane_linear``."""
    y = torch.einsum("pnd,pod->pno", x, weight).contiguous()
    return y if bias is None else y + bias[:, None]
