"""Tri-plane sampling in Triton. One program takes a block of points and all their channels."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles


@triton.jit
def _place(coordinate, scale, size):
    """Where a coordinate falls among the texels: the index before it, and the fraction of the way to the next."""
    position = ((coordinate * scale + 1.0) * size - 1.0) * 0.5
    held = tl.where(position > -2.0, tl.minimum(position, size), -2.0)  # far outside is like just outside
    before = tl.floor(held)
    return before.to(tl.int32), tl.where(position == position, held - before, position)  # a NaN remains one


@triton.jit
def _tap(tap: tl.constexpr, column, row, right, below, W, H):
    """One of the four texels around a position: its indices, its weights along both axes, and whether it exists."""
    x = column + tap % 2
    y = row + tap // 2
    weight_x = right if tap % 2 else 1.0 - right
    weight_y = below if tap // 2 else 1.0 - below
    return x, y, weight_x, weight_y, (x >= 0) & (x < W) & (y >= 0) & (y < H)


@triton.jit
def _sample_triplane_fwd_kernel(
    planes_ptr,  # [1 or B, P, H, W, C]
    points_ptr,  # [B, M, 3]
    features_ptr,  # [B, M, C], or [B, P, M, C] without MEAN
    B,
    M,
    H,
    W,
    C,
    scale,
    PAIRS: tl.constexpr,
    MEAN: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    P: tl.constexpr = len(PAIRS) // 2
    point = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = point // M
    exists = batch < B
    c = tl.arange(0, BLOCK_C)
    in_tile = exists[:, None] & (c < C)[None, :]

    features = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for p in tl.static_range(P):
        u = tl.load(points_ptr + point * 3 + PAIRS[2 * p], mask=exists, other=0.0)
        v = tl.load(points_ptr + point * 3 + PAIRS[2 * p + 1], mask=exists, other=0.0)
        column, right = _place(u, scale, W)
        row, below = _place(v, scale, H)
        plane = (batch * 0 if SHARED else batch) * P + p
        for tap in tl.static_range(4):
            x, y, weight_x, weight_y, inside = _tap(tap, column, row, right, below, W, H)
            texel = ((plane * H + y) * W + x) * C
            value = tl.load(planes_ptr + texel[:, None] + c[None, :], mask=in_tile & inside[:, None], other=0.0)
            features += (weight_x * weight_y)[:, None] * value
        if not MEAN:
            feature = ((batch * P + p) * M + point % M) * C
            tl.store(features_ptr + feature[:, None] + c[None, :], features, mask=in_tile)
            features = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    if MEAN:
        tl.store(features_ptr + point[:, None] * C + c[None, :], features / 3, mask=in_tile)


@triton.jit
def _sample_triplane_bwd_kernel(
    d_features_ptr,  # [B, M, C], or [B, P, M, C] without MEAN
    planes_ptr,  # [1 or B, P, H, W, C]
    points_ptr,  # [B, M, 3]
    d_planes_ptr,  # [1 or B, P, H, W, C], zeroed
    d_points_ptr,  # [B, M, 3]
    B,
    M,
    H,
    W,
    C,
    scale,
    PAIRS: tl.constexpr,
    MEAN: tl.constexpr,
    SHARED: tl.constexpr,
    NEEDS_PLANES: tl.constexpr,
    NEEDS_POINTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    P: tl.constexpr = len(PAIRS) // 2
    point = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = point // M
    exists = batch < B
    c = tl.arange(0, BLOCK_C)
    in_tile = exists[:, None] & (c < C)[None, :]
    axis = tl.arange(0, 4)  # x, y, z, and one that makes it a power of two

    d_point = tl.zeros([BLOCK_M, 4], tl.float32)
    if MEAN:
        d_sampled = tl.load(d_features_ptr + point[:, None] * C + c[None, :], mask=in_tile, other=0.0) / 3
    for p in tl.static_range(P):
        if not MEAN:
            feature = ((batch * P + p) * M + point % M) * C
            d_sampled = tl.load(d_features_ptr + feature[:, None] + c[None, :], mask=in_tile, other=0.0)
        u = tl.load(points_ptr + point * 3 + PAIRS[2 * p], mask=exists, other=0.0)
        v = tl.load(points_ptr + point * 3 + PAIRS[2 * p + 1], mask=exists, other=0.0)
        column, right = _place(u, scale, W)
        row, below = _place(v, scale, H)
        plane = (batch * 0 if SHARED else batch) * P + p
        d_right = tl.zeros([BLOCK_M], tl.float32)
        d_below = tl.zeros([BLOCK_M], tl.float32)
        for tap in tl.static_range(4):
            x, y, weight_x, weight_y, inside = _tap(tap, column, row, right, below, W, H)
            texel = ((plane * H + y) * W + x) * C
            mask = in_tile & inside[:, None]
            if NEEDS_PLANES:
                d_texel = (weight_x * weight_y)[:, None] * d_sampled
                tl.atomic_add(d_planes_ptr + texel[:, None] + c[None, :], d_texel, mask=mask, sem="relaxed")
            if NEEDS_POINTS:
                value = tl.load(planes_ptr + texel[:, None] + c[None, :], mask=mask, other=0.0)
                d_weight = tl.sum(value * d_sampled, 1)
                d_right += d_weight * (weight_y if tap % 2 else -weight_y)
                d_below += d_weight * (weight_x if tap // 2 else -weight_x)
        texels = scale * 0.5  # per unit of length, relative to the size
        d_point += tl.where(axis[None, :] == PAIRS[2 * p], (d_right * texels * W)[:, None], 0.0)
        d_point += tl.where(axis[None, :] == PAIRS[2 * p + 1], (d_below * texels * H)[:, None], 0.0)
    if NEEDS_POINTS:
        tl.store(d_points_ptr + point[:, None] * 3 + axis[None, :], d_point, mask=exists[:, None] & (axis < 3)[None, :])


def forward(planes: Tensor, points: Tensor, pairs: list[int], scale: float, mean: bool) -> Tensor:
    (B, M, _), (_, P, H, W, C) = points.shape, planes.shape
    features = points.new_empty((B, M, C) if mean else (B, P, M, C))
    if features.numel():
        tile = tiles.sample_triplane(C)
        _sample_triplane_fwd_kernel[(triton.cdiv(B * M, tile["BLOCK_M"]),)](
            planes, points, features, B, M, H, W, C, scale, tuple(pairs), mean, planes.shape[0] == 1, **tile
        )  # fmt: skip
    return features


def backward(
    d_features: Tensor,
    planes: Tensor,
    points: Tensor,
    pairs: list[int],
    scale: float,
    mean: bool,
    needs_planes: bool,
    needs_points: bool,
) -> tuple[Tensor, Tensor]:
    (B, M, _), (_, _, H, W, C) = points.shape, planes.shape
    d_planes = torch.zeros_like(planes) if needs_planes else planes.new_empty(0)
    d_points = torch.empty_like(points) if needs_points else points.new_empty(0)
    if d_features.numel() and (needs_planes or needs_points):
        tile = tiles.sample_triplane(C)
        _sample_triplane_bwd_kernel[(triton.cdiv(B * M, tile["BLOCK_M"]),)](
            d_features, planes, points, d_planes, d_points, B, M, H, W, C, scale, tuple(pairs), mean,
            planes.shape[0] == 1, needs_planes, needs_points, **tile
        )  # fmt: skip
    return d_planes, d_points
