"""The forward of volume rendering in Triton: densities of a pass, and the colours that are seen."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from talk3d.kernels.field import (
    CHANNELS,
    before_hidden,
    block_of_rays,
    color_layer,
    density_layer,
    features,
    first_layer,
    points,
    softplus2,
    squashed_color,
)


@triton.jit
def coarse_depth(s, near, far, within, COARSE: tl.constexpr, DISPARITY: tl.constexpr):
    """Depth of sample ``s`` of the first pass, rounded step by step as in the published code."""
    edge = s.to(tl.float32) / (COARSE - 1)
    if DISPARITY:
        fraction = edge + within * (1.0 / (COARSE - 1))
        return 1.0 / (1.0 / near * (1.0 - fraction) + 1.0 / far * fraction)
    return near + edge * (far - near) + within * ((far - near) / (COARSE - 1))


@triton.jit
def _density_kernel(
    planes_ptr,  # [1 or B, P, H, W, 32]
    decoder_ptr,
    rays_ptr,  # [B, R, 8]
    jitter_ptr,  # [B, R, COUNT], or anything without JITTER
    t_ptr,  # [B, R, N], float32: written if DRAW, else read
    raw_ptr,  # [B, R, N], float32
    R,
    H,
    W,
    scale,
    N: tl.constexpr,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    PAIRS: tl.constexpr,
    SHARED: tl.constexpr,
    SQUARE: tl.constexpr,
    DRAW: tl.constexpr,
    JITTER: tl.constexpr,
    DISPARITY: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SUB: tl.constexpr,
):
    """Raw densities of samples [FIRST, FIRST + COUNT) of each ray."""
    camera, start, ray, sub, exists, origin, direction = block_of_rays(rays_ptr, R, BLOCK_R, SUB)
    planes_ptr += 0 if SHARED else camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    t_ptr += start * N + FIRST
    raw_ptr += start * N + FIRST
    jitter_ptr += start * COUNT
    if DRAW:
        limits_ptr = rays_ptr + start * 8 + ray * 8 + 6
        near = tl.load(limits_ptr, mask=exists, other=1.0).to(tl.float32)
        far = tl.load(limits_ptr + 1, mask=exists, other=1.0).to(tl.float32)
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    w_density, b_density = density_layer(decoder_ptr)

    for k in range(0, tl.cdiv(COUNT, SUB)):
        s = k * SUB + sub
        mask = exists & (s < COUNT)
        if DRAW:
            within = 0.5
            if JITTER:
                within = tl.load(jitter_ptr + ray * COUNT + s, mask=mask, other=0.5).to(tl.float32)
            t = coarse_depth(s, near, far, within, COUNT, DISPARITY)
            tl.store(t_ptr + ray * N + s, t, mask=mask)
        else:
            t = tl.load(t_ptr + ray * N + s, mask=mask, other=0.0)
        one, two = features(planes_ptr, points(origin, direction, t), scale, H, W, PAIRS, SQUARE)
        activation = softplus2(before_hidden(one, two, w_first, w_second, bias, PRECISION), PTX)
        raw = tl.sum(activation * w_density[None, :], 1) + b_density
        tl.store(raw_ptr + ray * N + s, raw, mask=mask)


@triton.jit
def _color_kernel(
    planes_ptr,  # [1 or B, P, H, W, 32]
    decoder_ptr,
    rays_ptr,  # [B, R, 8]
    t_ptr,  # [B, R, N], float32, in any order
    share_ptr,  # [B, R, N], float32: how much of each sample is seen
    weight_ptr,  # [B, R]
    features_ptr,  # [B, R, 32]
    R,
    H,
    W,
    scale,
    N: tl.constexpr,
    PAIRS: tl.constexpr,
    SHARED: tl.constexpr,
    SQUARE: tl.constexpr,
    WHITE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SUB: tl.constexpr,
):
    """Colours of the samples that are seen, added up along the rays. A block of which nothing is seen is skipped."""
    camera, start, ray, sub, exists, origin, direction = block_of_rays(rays_ptr, R, BLOCK_R, SUB)
    planes_ptr += 0 if SHARED else camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    t_ptr += start * N
    share_ptr += start * N
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    w_color, b_color = color_layer(decoder_ptr, OPERAND)

    pixel = tl.zeros([BLOCK_R * SUB, CHANNELS], tl.float32)
    for k in range(0, tl.cdiv(N, SUB)):
        s = k * SUB + sub
        mask = exists & (s < N)
        share = tl.load(share_ptr + ray * N + s, mask=mask, other=0.0)
        if tl.max((share != 0.0).to(tl.int32), 0) > 0:
            t = tl.load(t_ptr + ray * N + s, mask=mask, other=0.0)
            one, two = features(planes_ptr, points(origin, direction, t), scale, H, W, PAIRS, SQUARE)
            activation = softplus2(before_hidden(one, two, w_first, w_second, bias, PRECISION), PTX)
            squashed = squashed_color(activation, w_color, b_color, PRECISION, PTX)
            pixel += share[:, None] * (squashed * 1.002 - 0.001)
    total = tl.sum(tl.reshape(pixel, [SUB, BLOCK_R, CHANNELS]), 0)

    ray = tl.arange(0, BLOCK_R)
    exists = (tl.program_id(0) % tl.cdiv(R, BLOCK_R)) * BLOCK_R + ray < R
    if WHITE:
        total += 1.0 - tl.load(weight_ptr + start + ray, mask=exists, other=0.0).to(tl.float32)[:, None]
    at = features_ptr + start * CHANNELS + ray[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    tl.store(at, (2.0 * total - 1.0).to(features_ptr.dtype.element_ty), mask=exists[:, None])
