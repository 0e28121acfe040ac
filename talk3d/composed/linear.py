"""Linear layers of several planes: one batched product on a GPU, one product after another on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def plane_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply, and add the bias; see ``talk3d.ops.plane_linear``."""
    if x.device.type != "cpu":
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    # there a batched product of three takes a tenth to a third longer than three products
    y = x.new_empty(*x.shape[:2], weight.shape[1])
    for plane, rows in enumerate(x):
        columns = weight[plane].T
        if bias is None:
            torch.mm(rows, columns, out=y[plane])
        else:
            torch.addmm(bias[plane], rows, columns, out=y[plane])
    return y
