"""Linear layers of several planes: one batched product on a GPU, one product after another on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm

# multiplications under which a convolution's overhead is more than what it saves
_FEW = 1 << 23


def plane_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply, and add the bias; see ``talk3d.ops.plane_linear``."""
    if x.device.type != "cpu":
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    # there a batched product of three takes a tenth to a third longer than three products
    y = x.new_empty(*x.shape[:2], weight.shape[1])
    biases = [None] * len(x) if bias is None else bias
    for rows, columns, offset, out in zip(x, weight, biases, y, strict=True):
        _multiply(rows, columns, offset, out)
    return y


def _multiply(rows: Tensor, columns: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write ``rows @ columns.T + bias``.

    torch multiplies float32 by MKL, which keeps to AVX2 where the processor is not Intel's: on a Zen 5 it does 220
    GFLOP/s where oneDNN's convolution of one pixel, which is the same product, does 500.
    """
    many = rows.numel() * len(columns) >= _FEW and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if many and rows.is_contiguous():
        kernels = columns.contiguous()[:, :, None, None]
        out.copy_(conv2d(_picture(rows), kernels, bias)[0, :, :, 0].T)
    elif many and bias is None and rows.T.is_contiguous() and columns.T.is_contiguous():
        # the gradient of a layer's weight: a sum over what are its rows
        given = _picture(rows.T), _picture(columns.T), rows.new_empty(*out.shape, 1, 1)
        geometry = None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1
        out.copy_(torch.ops.aten.convolution_backward(*given, *geometry, [False, True, False])[1][:, :, 0, 0])
    elif bias is None:
        torch.mm(rows, columns.T, out=out)
    else:
        torch.addmm(bias, rows, columns.T, out=out)


def _picture(rows: Tensor) -> Tensor:
    """Rows ``[N, D]`` as pixels ``[1, D, N, 1]``, channels-last; torch looks at the strides of single ones, too."""
    return rows[None, :, None].permute(0, 3, 1, 2)


def plane_linear_act(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, normalise: bool, gate: bool, eps: float
) -> Tensor:
    """Normalise, multiply, gate, add; see ``talk3d.ops.plane_linear_act``."""
    if normalise:
        x = layer_norm(x, x.shape[2:], eps=eps)
    rows = bias.shape[1]
    y = plane_linear(x, weight, bias[:, 0] if rows == 1 else None)
    if rows > 1:
        y.unflatten(1, (-1, rows)).add_(bias[:, None])
    if gate:
        value, gates = y.chunk(2, dim=2)
        y = value * gelu(gates)
    return y if residual is None else y.add_(residual)
