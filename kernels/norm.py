"""Group norm of several planes in Triton: statistics of parts of each picture, then everything else in one pass."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles


@triton.jit
def _texels(
    x_ptr, bias_ptr, n, N, C, BIAS: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr
):
    """Texels ``n`` of a picture ``[len(n), GROUPS, PADDED]`` with their bias, where they lie, and which exist."""
    group, within = tl.arange(0, GROUPS)[None, :, None], tl.arange(0, PADDED)[None, None, :]
    c = group * WIDTH + within
    inside = (n < N)[:, None, None] & (within < WIDTH) & (c < C)
    at = n[:, None, None] * C + c
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + c, mask=(within < WIDTH) & (c < C), other=0.0).to(tl.float32)
    return x, at, c, inside


@triton.jit
def _statistics_kernel(
    x_ptr,  # [pictures, N, C]
    bias_ptr,  # [planes, C], or anything without BIAS
    parts_ptr,  # [pictures, PARTS, 2, GROUPS], float32: mean, and sum of squares about it
    N,
    C,
    batch,  # pictures of a plane
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,  # channels of a group
    GROUPS: tl.constexpr,
    PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,  # texels of a part
    BLOCK_N: tl.constexpr,
):
    picture, part = (tl.program_id(0) // PARTS).to(tl.int64), tl.program_id(0) % PARTS
    x_ptr += picture * N * C
    bias_ptr += picture // batch * C
    count = (tl.minimum(N - part * PART, PART) * WIDTH).to(tl.float32)
    total = tl.zeros([BLOCK_N, GROUPS, PADDED], tl.float32)
    for block in range(PART // BLOCK_N):
        n = part * PART + block * BLOCK_N + tl.arange(0, BLOCK_N)
        x, _, _, inside = _texels(x_ptr, bias_ptr, n, N, C, BIAS, WIDTH, GROUPS, PADDED)
        total += tl.where(inside, x, 0.0)
    mean = tl.sum(tl.sum(total, 2), 0) / count
    total = tl.zeros([BLOCK_N, GROUPS, PADDED], tl.float32)
    for block in range(PART // BLOCK_N):
        n = part * PART + block * BLOCK_N + tl.arange(0, BLOCK_N)
        x, _, _, inside = _texels(x_ptr, bias_ptr, n, N, C, BIAS, WIDTH, GROUPS, PADDED)
        centred = tl.where(inside, x - mean[None, :, None], 0.0)
        total += centred * centred
    at = parts_ptr + (picture * PARTS + part) * 2 * GROUPS + tl.arange(0, GROUPS)
    tl.store(at, mean)
    tl.store(at + GROUPS, tl.sum(tl.sum(total, 2), 0))


@triton.jit
def _normalise_kernel(
    x_ptr,  # [pictures, N, C]
    bias_ptr,  # [planes, C], or anything without BIAS
    weight_ptr,  # [planes, C]
    offset_ptr,  # [planes, C]
    parts_ptr,  # [pictures, PARTS, 2, GROUPS]
    y_ptr,  # [pictures, N, C]
    N,
    C,
    batch,
    eps,
    slope,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Put the parts' statistics together (Chan et al. 1983), then normalise, scale, shift and activate."""
    blocks = tl.cdiv(N, BLOCK_N)
    picture, plane = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) // blocks // batch
    part = tl.arange(0, PADDED_PARTS)[:, None]
    counts = tl.where(part < PARTS, tl.minimum(N - part * PART, PART), 0).to(tl.float32)
    at = parts_ptr + (picture * PARTS + part) * 2 * GROUPS + tl.arange(0, GROUPS)[None, :]
    means = tl.load(at, mask=part < PARTS, other=0.0)
    mean = tl.sum(means * counts, 0) / N
    apart = (means - mean[None, :]) * (means - mean[None, :]) * counts * WIDTH
    squares = tl.load(at + GROUPS, mask=part < PARTS, other=0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(squares + apart, 0) / (N * WIDTH) + eps)

    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    x_ptr += picture * N * C
    x, at, c, inside = _texels(x_ptr, bias_ptr + plane * C, n, N, C, BIAS, WIDTH, GROUPS, PADDED)
    there = c < C
    gain = tl.load(weight_ptr + plane * C + c, mask=there, other=0.0).to(tl.float32) * rstd[None, :, None]
    shift = tl.load(offset_ptr + plane * C + c, mask=there, other=0.0).to(tl.float32)
    y = (x - mean[None, :, None]) * gain + shift
    y = tl.where(y > 0.0, y, y * slope)
    tl.store(y_ptr + picture * N * C + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def group_norm_act(
    x: Tensor, bias: Tensor | None, weight: Tensor, offset: Tensor, groups: int, eps: float, slope: float
) -> Tensor:
    y = torch.empty_like(x, dtype=tiles.result(x.dtype))
    if y.numel():
        pictures, C, H, W = x.shape
        N = H * W
        tile = tiles.group_norm(N, C, groups)
        common = {"BIAS": bias is not None, **tile}
        first = weight if bias is None else bias.contiguous()
        parts = x.new_empty(pictures, tile["PARTS"], 2, tile["GROUPS"], dtype=torch.float32)
        batch = pictures // len(weight)
        _statistics_kernel[(pictures * tile["PARTS"],)](x, first, parts, N, C, batch, **common)
        _normalise_kernel[(pictures * triton.cdiv(N, tile["BLOCK_N"]),)](
            x, first, weight.contiguous(), offset.contiguous(), parts, y, N, C, batch, eps, slope,
            PADDED_PARTS=triton.next_power_of_2(tile["PARTS"]), **common,
        )  # fmt: skip
    return y.to(x.dtype)
