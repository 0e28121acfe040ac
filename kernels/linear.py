"""A linear layer of each plane, the norm before it, and what follows it. See docs/kernels/linear_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.attention import OPERANDS
from talk3d.kernels.field import multiply


@triton.jit
def _linear_kernel(
    x_ptr,  # [P, N, D], any strides but the last
    weight_ptr,  # [P, O, D]; with GATE [P, 2 * O, D]: values, then gates
    bias_ptr,  # [P, M, O] or [P, M, 2 * O]
    residual_ptr,  # [P, N, O], any strides but the last, or anything without RESIDUAL
    y_ptr,  # [P, N, O]
    N,
    D: tl.constexpr,
    O,  # noqa: E741
    M,  # rows of the bias, which repeat
    stride_p,
    stride_n,
    residual_p,
    residual_n,
    eps,
    NORMALISE: tl.constexpr,
    GATE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Some rows of one plane and some channels out."""
    blocks = tl.cdiv(N, BLOCK_N)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    x_ptr += plane * stride_p
    rows = 2 * O if GATE else O
    weight_ptr += plane * rows * D
    steps: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    mean, scale = tl.zeros([BLOCK_N], tl.float32), tl.zeros([BLOCK_N], tl.float32)
    if NORMALISE:  # a row is read thrice, the second and third time from L1
        for step in tl.static_range(steps):
            d = step * BLOCK_D + tl.arange(0, BLOCK_D)
            there = (n < N)[:, None] & (d < D)[None, :]
            mean += tl.sum(tl.load(x_ptr + n[:, None] * stride_n + d[None, :], mask=there, other=0.0).to(tl.float32), 1)
        mean = mean / D
        for step in tl.static_range(steps):
            d = step * BLOCK_D + tl.arange(0, BLOCK_D)
            there = (n < N)[:, None] & (d < D)[None, :]
            x = tl.load(x_ptr + n[:, None] * stride_n + d[None, :], mask=there, other=0.0).to(tl.float32)
            x = tl.where(there, x - mean[:, None], 0.0)
            scale += tl.sum(x * x, 1)
        scale = 1.0 / tl.sqrt(tl.where(n < N, scale / D + eps, 1.0))
    total = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
    gate = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
    for step in range(steps):
        d = step * BLOCK_D + tl.arange(0, BLOCK_D)
        there = (n < N)[:, None] & (d < D)[None, :]
        x = tl.load(x_ptr + n[:, None] * stride_n + d[None, :], mask=there, other=0.0)
        if NORMALISE:
            x = tl.where(there, (x.to(tl.float32) - mean[:, None]) * scale[:, None], 0.0)
        at = weight_ptr + o[None, :] * D + d[:, None]
        exists = (o < O)[None, :] & (d < D)[:, None]
        total = multiply(x, tl.load(at, mask=exists, other=0.0).to(OPERAND), total, PRECISION)
        if GATE:
            gates = tl.load(at + O * D, mask=exists, other=0.0).to(OPERAND)
            gate = multiply(x, gates, gate, PRECISION)
    inside = (n < N)[:, None] & (o < O)[None, :]
    at = bias_ptr + plane * M * rows + (n % M)[:, None] * rows + o[None, :]
    total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if GATE:
        gate += tl.load(at + O, mask=inside, other=0.0).to(tl.float32)
        total *= 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    if RESIDUAL:
        at = residual_ptr + plane * residual_p + n[:, None] * residual_n + o[None, :]
        total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    at = y_ptr + plane * N * O + n[:, None] * O + o[None, :]
    tl.store(at, total.to(y_ptr.dtype.element_ty), mask=inside)


def plane_linear_act(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, normalise: bool, gate: bool, eps: float
) -> Tensor:
    P, N, D = x.shape
    O = weight.shape[1] // (1 + gate)  # noqa: E741
    y = x.new_empty(P, N, O, dtype=tiles.result(x.dtype))
    if y.numel():
        x = x if x.stride(2) == 1 else x.contiguous()
        base = x if residual is None else residual if residual.stride(2) == 1 else residual.contiguous()
        tile = tiles.plane_linear(D, O, x.dtype)
        _linear_kernel[(P * triton.cdiv(N, tile["BLOCK_N"]), triton.cdiv(O, tile["BLOCK_O"]))](
            x, weight.contiguous(), bias.contiguous(), base, y, N, D, O, bias.shape[1], *x.stride()[:2],
            *base.stride()[:2], eps, normalise, gate, residual is not None, OPERANDS[x.dtype],
            tiles.precision(x.dtype), **tile,
        )  # fmt: skip
    return y.to(x.dtype)
