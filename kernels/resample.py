"""Resampling with a filter, and bias with activation, in Triton, in one pass. See docs/kernels/resample_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles


@triton.jit
def _activate(x, slope, gain, clamp, CLAMP: tl.constexpr):
    """Activate, scale and clamp in float32."""
    y = tl.where(x > 0.0, x, x * slope) * gain
    if CLAMP:
        y = tl.minimum(y, clamp, propagate_nan=tl.PropagateNan.ALL)
        y = tl.maximum(y, -clamp, propagate_nan=tl.PropagateNan.ALL)
    return y


@triton.jit
def _tile_of_matrix(rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Which part of a matrix a program takes: its first element, rows and columns from there, and which exist."""
    blocks = tl.cdiv(columns, BLOCK_C)
    first_row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_R
    row, column = tl.arange(0, BLOCK_R), tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (first_row + row < rows)[:, None] & (column < columns)[None, :]
    return first_row, row, column, row[:, None] * columns + column[None, :], inside


@triton.jit
def _bias_act_kernel(
    x_ptr,  # [rows, columns]
    bias_ptr,  # [C], or anything without BIAS
    y_ptr,  # [rows, columns]
    rows,
    columns,
    C,
    slope,
    gain,
    clamp,
    BIAS: tl.constexpr,
    LAST: tl.constexpr,  # columns are channels; else rows are, one picture's after another's
    CLAMP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, row, column, at, inside = _tile_of_matrix(rows, columns, BLOCK_R, BLOCK_C)
    x = tl.load(x_ptr + first * columns + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        if LAST:
            x += tl.load(bias_ptr + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
        else:
            x += tl.load(bias_ptr + ((first % C).to(tl.int32) + row) % C).to(tl.float32)[:, None]
    y = _activate(x, slope, gain, clamp, CLAMP)
    tl.store(y_ptr + first * columns + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _bias_act_bwd_kernel(
    d_y_ptr,  # [count]
    y_ptr,  # [count]
    d_x_ptr,  # [count]
    count,
    slope,
    gain,
    clamp,
    CLAMP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = first + at < count
    y = tl.load(y_ptr + first + at, mask=inside, other=0.0).to(tl.float32)
    d_y = tl.load(d_y_ptr + first + at, mask=inside, other=0.0).to(tl.float32)
    slopes = tl.where(y <= 0.0, gain * slope, gain)
    if CLAMP:
        slopes = tl.where(tl.abs(y) >= clamp, 0.0, slopes)
    tl.store(d_x_ptr + first + at, (slopes * d_y).to(d_x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _resample_kernel(
    x_ptr,  # [B, C, H, W], any strides
    filter_ptr,  # [FH, FW]
    bias_ptr,  # [C], or anything without BIAS
    y_ptr,  # [B, C, OH, OW], channels-last with LAST, else contiguous
    C,
    H,
    W,
    OH,
    OW,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    first_x,  # the sample that the first group of results starts from
    first_y,
    shift_x,  # where that group starts, 0 or less
    shift_y,
    across,  # groups in a row
    along,  # and in a column
    filter_gain,
    slope,
    gain,
    clamp,
    UP: tl.constexpr,  # of the width, of the height
    DOWN: tl.constexpr,
    FH: tl.constexpr,
    FW: tl.constexpr,
    FLIP: tl.constexpr,
    LAST: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATE: tl.constexpr,
    CLAMP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``ROWS`` of groups, one below the other; a group is what lies between two samples: ``UP`` results each way.

    Which taps of the filter meet a sample depends on the place in the group alone, so weights are scalars, inserted
    zeros are never touched, and a sample is loaded once for all results of its column that it has a part in. Along an
    axis either UP or DOWN is 1.
    """
    channel_blocks, blocks = tl.cdiv(C, BLOCK_C), tl.cdiv(across, TILE_W)
    tile = tl.program_id(0) // channel_blocks
    strips = tl.cdiv(along, ROWS)
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = (c < C)[None, :]
    group_x = tile % blocks * TILE_W + tl.arange(0, TILE_W)
    group_y = tile // blocks % strips * ROWS
    batch = (tile // (blocks * strips)).to(tl.int64)
    x_ptr += batch * stride_b

    RESULTS: tl.constexpr = ROWS * UP[1] * UP[0]
    totals = (tl.zeros([TILE_W, BLOCK_C], tl.float32),) * RESULTS
    for i in tl.static_range((ROWS - 1) * DOWN[1] + (FH + UP[1] - 2) // UP[1] + 1):
        y = group_y * DOWN[1] + first_y + i
        for j in tl.static_range((FW + UP[0] - 2) // UP[0] + 1):
            x = group_x * DOWN[0] + first_x + j
            inside = ((x >= 0) & (x < W) & (y >= 0) & (y < H))[:, None] & is_channel
            at = x_ptr + y.to(tl.int64) * stride_h + (x * stride_w)[:, None] + (c if LAST else c * stride_c)[None, :]
            value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
            found = ()
            for result in tl.static_range(RESULTS):
                ky = UP[1] * (i - result // (UP[1] * UP[0]) * DOWN[1]) - result // UP[0] % UP[1]
                kx = UP[0] * j - result % UP[0]
                total = totals[result]
                if ky >= 0 and ky < FH and kx >= 0 and kx < FW:
                    k = ky * FW + kx if FLIP else (FH - 1 - ky) * FW + (FW - 1 - kx)
                    total += tl.load(filter_ptr + k).to(tl.float32) * value
                found += (total,)  # type: ignore[assignment]  # it grows while it is compiled
            totals = found

    if BIAS:
        bias = tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    y_ptr += batch * C * OH * OW
    for result in tl.static_range(RESULTS):
        total = totals[result] * filter_gain
        if BIAS:
            total += bias
        if ACTIVATE:
            total = _activate(total, slope, gain, clamp, CLAMP)
        oy = UP[1] * (group_y + result // (UP[1] * UP[0])) + result // UP[0] % UP[1] + shift_y
        ox = UP[0] * group_x + result % UP[0] + shift_x
        exists = ((oy >= 0) & (oy < OH) & (ox >= 0) & (ox < OW))[:, None] & is_channel
        if LAST:
            at = y_ptr + oy.to(tl.int64) * OW * C + (ox * C)[:, None] + c[None, :]
        else:
            at = y_ptr + oy.to(tl.int64) * OW + ox[:, None] + (c * (OH * OW))[None, :]
        tl.store(at, total.to(y_ptr.dtype.element_ty), mask=exists)


def bias_act(x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    y = torch.empty_like(x, dtype=tiles.result(x.dtype))
    if x.numel():
        x = _laid_out_like(y, x)
        batch, channels, inner = x.shape[0], x.shape[1], x.stride(1)
        last = inner == 1 and channels > 1
        # memory is a matrix whose columns, or whose rows, have a channel each
        columns = channels if last else inner if channels > 1 else x.numel() // batch
        rows = x.numel() // columns
        tile = tiles.bias_act(columns)
        _bias_act_kernel[(triton.cdiv(rows, tile["BLOCK_R"]) * triton.cdiv(columns, tile["BLOCK_C"]),)](
            x, x if bias is None else bias.contiguous(), y, rows, columns, channels, slope, gain,
            _limit(clamp, x.dtype), bias is not None, last, clamp is not None, **tile,
        )  # fmt: skip
    return y.to(x.dtype)


def bias_act_backward(d_y: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    d_x = torch.empty_like(y, dtype=tiles.result(y.dtype))
    if y.numel():
        block = tiles.ELEMENTWISE
        _bias_act_bwd_kernel[(triton.cdiv(y.numel(), block),)](
            _laid_out_like(d_x, d_y), _laid_out_like(d_x, y), d_x, y.numel(), slope, gain, _limit(clamp, y.dtype),
            clamp is not None, block,
        )  # fmt: skip
    return d_x.to(y.dtype)


def resample2d(
    x: Tensor, filter: Tensor, up: list[int], down: list[int], padding: list[int], gain: float, flip: bool
) -> Tensor:
    return _resample(x, filter, None, (up, down, padding, gain, flip), None)


def resample2d_bias_act(x: Tensor, filter: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    return _resample(x, filter, bias, options[:5], options[5:])


def _resample(
    x: Tensor, filter: Tensor, bias: Tensor | None, resampling: tuple[Any, ...], activation: tuple[Any, ...] | None
) -> Tensor:
    up, down, padding, filter_gain, flip = resampling
    if any(min(factors) > 1 for factors in zip(up, down, strict=True)):
        # both ways at once: nothing that talk3d does. What is not kept is computed and left out
        every = _resample(x, filter, bias, (up, [1, 1], padding, filter_gain, flip), activation)
        layout = torch.channels_last if _is_last(x) else torch.contiguous_format
        return every[:, :, :: down[1], :: down[0]].clone(memory_format=layout)
    slope, gain, clamp = activation or (1.0, 1.0, None)
    (B, C, H, W), (FH, FW) = x.shape, filter.shape
    pads = padding[::2]  # left, top
    OW, OH = (
        (size * up[axis] + padding[2 * axis] + padding[2 * axis + 1] - length) // down[axis] + 1
        for axis, (size, length) in enumerate(((W, FW), (H, FH)))
    )
    last = _is_last(x)
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty(B, C, OH, OW, dtype=tiles.result(x.dtype), device=x.device, memory_format=layout)
    if y.numel():
        first = [-pad // factor for pad, factor in zip(pads, up, strict=True)]
        shift = [factor * start + pad for pad, factor, start in zip(pads, up, first, strict=True)]
        groups = [(size - 1 - s) // factor + 1 for size, s, factor in zip((OW, OH), shift, up, strict=True)]
        tile = tiles.resample(C, last, up, down)
        strips = triton.cdiv(groups[0], tile["TILE_W"]) * triton.cdiv(groups[1], tile["ROWS"])
        _resample_kernel[(B * strips * triton.cdiv(C, tile["BLOCK_C"]),)](
            x, filter.contiguous(), x if bias is None else bias.contiguous(), y, C, H, W, OH, OW, *x.stride(), *first,
            *shift, *groups, filter_gain, slope, gain, _limit(clamp, x.dtype), tuple(up), tuple(down), FH, FW, flip,
            last, bias is not None, activation is not None, clamp is not None, **tile,
        )  # fmt: skip
    return y.to(x.dtype)


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _laid_out_like(dense: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, or a copy that has the strides of ``dense``."""
    if tensor.stride() == dense.stride():
        return tensor
    return torch.empty_like(dense, dtype=tensor.dtype).copy_(tensor)


@cache
def _limit(clamp: float | None, dtype: torch.dtype) -> float:
    """The clamp as the type can hold it: what was clamped is then known by its value."""
    return 0.0 if clamp is None else torch.tensor(clamp, dtype=dtype, device="cpu").item()
