"""Linear layers of several planes, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm


def plane_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply, and add the bias; see ``talk3d.ops.plane_linear``."""
    y = torch.einsum("pnd,pod->pno", x, weight).contiguous()
    return y if bias is None else y + bias[:, None]


def plane_linear_act(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, normalise: bool, gate: bool, eps: float
) -> Tensor:
    """Normalise, multiply, gate, add; see ``talk3d.ops.plane_linear_act``."""
    if normalise:
        x = layer_norm(x, x.shape[2:], eps=eps)
    y = plane_linear(x, weight, None).unflatten(1, (-1, bias.shape[1])) + bias[:, None]
    y = y.flatten(1, 2)
    if gate:
        value, gates = y.chunk(2, dim=2)
        y = value * gelu(gates)
    return y.contiguous() if residual is None else (y + residual).contiguous()
