"""The backward of volume rendering in Triton: what the samples' colours are worth, and gradients of all that made them.

Everything is recomputed from the sorted depths, which the forward leaves.
"""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from talk3d.kernels.field import (
    CHANNELS,
    FROM_B0,
    FROM_B1,
    FROM_W1,
    HALF,
    HIDDEN,
    LN2,
    before_hidden,
    block_of_rays,
    color_layer,
    density_layer,
    features,
    first_layer,
    points,
    slope_of_softplus2,
    softplus2,
    span,
    squashed_color,
)


@triton.jit
def _tint_kernel(
    planes_ptr,  # [1 or B, P, H, W, 32]
    decoder_ptr,
    rays_ptr,  # [B, R, 8]
    t_ptr,  # [B, R, N]
    d_features_ptr,  # [B, R, 32]
    raw_ptr,  # [B, R, N], float32
    tint_ptr,  # [B, R, N], float32
    R,
    H,
    W,
    scale,
    N: tl.constexpr,
    PAIRS: tl.constexpr,
    SHARED: tl.constexpr,
    SQUARE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SUB: tl.constexpr,
):
    """Raw densities of all samples, and what their colours are worth to the loss."""
    camera, start, ray, sub, exists, origin, direction = block_of_rays(rays_ptr, R, BLOCK_R, SUB)
    planes_ptr += 0 if SHARED else camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    t_ptr += start * N
    raw_ptr += start * N
    tint_ptr += start * N
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    w_density, b_density = density_layer(decoder_ptr)
    w_color, b_color = color_layer(decoder_ptr, OPERAND)
    c = tl.arange(0, CHANNELS)
    at = d_features_ptr + start * CHANNELS + ray[:, None] * CHANNELS + c[None, :]
    d_pixel = 2.0 * tl.load(at, mask=exists[:, None], other=0.0).to(tl.float32)

    for k in range(0, tl.cdiv(N, SUB)):
        s = k * SUB + sub
        mask = exists & (s < N)
        t = tl.load(t_ptr + ray * N + s, mask=mask, other=0.0).to(tl.float32)
        one, two = features(planes_ptr, points(origin, direction, t), scale, H, W, PAIRS, SQUARE)
        activation = softplus2(before_hidden(one, two, w_first, w_second, bias, PRECISION), PTX)
        raw = tl.sum(activation * w_density[None, :], 1) + b_density
        tl.store(raw_ptr + ray * N + s, raw, mask=mask)
        squashed = squashed_color(activation, w_color, b_color, PRECISION, PTX)
        tl.store(tint_ptr + ray * N + s, tl.sum((squashed * 1.002 - 0.001) * d_pixel, 1), mask=mask)


@triton.jit
def _field_backward_kernel(
    planes_ptr,  # [1 or B, P, H, W, 32]
    decoder_ptr,
    rays_ptr,  # [B, R, 8]
    t_ptr,  # [B, R, N]
    d_features_ptr,  # [B, R, 32]
    share_ptr,  # [B, R, N], float32
    d_raw_ptr,  # [B, R, N], float32
    d_planes_ptr,  # [1 or B, P, H, W, 32], float32, zeroed
    d_decoder_ptr,  # float32, zeroed
    d_rays_ptr,  # [B, R, 8]
    R,
    H,
    W,
    scale,
    N: tl.constexpr,
    PAIRS: tl.constexpr,
    SHARED: tl.constexpr,
    SQUARE: tl.constexpr,
    NEEDS_PLANES: tl.constexpr,
    NEEDS_DECODER: tl.constexpr,
    NEEDS_RAYS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    D_PRECISION: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SUB: tl.constexpr,
):
    """From the gradients of raw densities and pixels to planes, decoder and rays.

    Gradients are multiplied in float32 or tf32 whatever the planes are: half precision would lose the small ones. A
    block of which nothing is seen is skipped.
    """
    M: tl.constexpr = BLOCK_R * SUB
    camera, start, ray, sub, exists, origin, direction = block_of_rays(rays_ptr, R, BLOCK_R, SUB)
    if not SHARED:
        planes_ptr += camera * (len(PAIRS) // 2 * CHANNELS) * H * W
        d_planes_ptr += camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    t_ptr += start * N
    share_ptr += start * N
    d_raw_ptr += start * N
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    w_density, b_density = density_layer(decoder_ptr)
    w_color, b_color = color_layer(decoder_ptr, OPERAND)
    c, h, half = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN), tl.arange(0, HALF)
    # the layers the other way round, as they are
    back = decoder_ptr + h[:, None] * CHANNELS + half[None, :]
    back_first, back_second = tl.load(back).to(tl.float32), tl.load(back + HALF).to(tl.float32)
    back_color = tl.load(decoder_ptr + FROM_W1 + (1 + c[:, None]) * HIDDEN + h[None, :]).to(tl.float32)
    back_density = tl.load(decoder_ptr + FROM_W1 + h).to(tl.float32)
    at = d_features_ptr + start * CHANNELS + ray[:, None] * CHANNELS + c[None, :]
    d_pixel = 2.0 * tl.load(at, mask=exists[:, None], other=0.0).to(tl.float32)

    if NEEDS_DECODER:
        d_w_first, d_w_second = tl.zeros([HIDDEN, HALF], tl.float32), tl.zeros([HIDDEN, HALF], tl.float32)
        d_w_color = tl.zeros([CHANNELS, HIDDEN], tl.float32)
        d_bias, d_w_density = tl.zeros([HIDDEN], tl.float32), tl.zeros([HIDDEN], tl.float32)
        d_b_color, d_b_density = tl.zeros([CHANNELS], tl.float32), tl.zeros([M], tl.float32)
    d_x, d_y, d_z = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    d_along_x, d_along_y, d_along_z = d_x, d_y, d_z

    for k in range(0, tl.cdiv(N, SUB)):
        s = k * SUB + sub
        mask = exists & (s < N)
        share = tl.load(share_ptr + ray * N + s, mask=mask, other=0.0)
        d_raw = tl.load(d_raw_ptr + ray * N + s, mask=mask, other=0.0)
        if tl.max(((share != 0.0) | (d_raw != 0.0)).to(tl.int32), 0) > 0:
            t = tl.load(t_ptr + ray * N + s, mask=mask, other=0.0).to(tl.float32)
            point = points(origin, direction, t)
            one, two = features(planes_ptr, point, scale, H, W, PAIRS, SQUARE)
            activation = softplus2(before_hidden(one, two, w_first, w_second, bias, PRECISION), PTX)
            squashed = squashed_color(activation, w_color, b_color, PRECISION, PTX)
            d_out = share[:, None] * d_pixel * 1.002 * squashed * (1.0 - squashed)  # [M, 32]
            d_hidden = d_raw[:, None] * back_density[None, :]
            d_hidden = tl.dot(d_out, back_color, d_hidden, input_precision=D_PRECISION)
            d_before = d_hidden * slope_of_softplus2(activation, PTX)  # [M, 64]
            if NEEDS_DECODER:
                d_w_first = tl.dot(tl.trans(d_before), one.to(tl.float32), d_w_first, input_precision=D_PRECISION)
                d_w_second = tl.dot(tl.trans(d_before), two.to(tl.float32), d_w_second, input_precision=D_PRECISION)
                d_bias += tl.sum(d_before, 0)
                d_w_color = tl.dot(tl.trans(d_out), activation, d_w_color, input_precision=D_PRECISION)
                d_b_color += tl.sum(d_out, 0)
                d_w_density += tl.sum(d_raw[:, None] * activation, 0)
                d_b_density += d_raw
            if NEEDS_PLANES or NEEDS_RAYS:
                nothing = tl.zeros([M, HALF], tl.float32)
                d_one = tl.dot(d_before, back_first, nothing, input_precision=D_PRECISION) / 3
                d_two = tl.dot(d_before, back_second, nothing, input_precision=D_PRECISION) / 3
                d_point = (tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32))
                for p in tl.static_range(len(PAIRS) // 2):
                    columns = span(point[PAIRS[2 * p]], scale, W)
                    rows = span(point[PAIRS[2 * p + 1]], scale, W if SQUARE else H)
                    d_column, d_row = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
                    for tap in tl.static_range(4):
                        column, row = columns[tap % 2], rows[tap // 2]
                        texel = (((row[0] + p * H) * W + column[0]) * CHANNELS)[:, None] + half[None, :]
                        if NEEDS_PLANES:
                            weight = row[1] * column[1]
                            there = (mask & (weight != 0.0))[:, None]
                            to = d_planes_ptr + texel
                            tl.atomic_add(to, weight[:, None] * d_one, mask=there, sem="relaxed")
                            tl.atomic_add(to + HALF, weight[:, None] * d_two, mask=there, sem="relaxed")
                        if NEEDS_RAYS:
                            value = tl.load(planes_ptr + texel).to(tl.float32) * d_one
                            value += tl.load(planes_ptr + texel + HALF).to(tl.float32) * d_two
                            d_weight = tl.sum(value, 1)
                            d_column += d_weight * column[2] * row[1]
                            d_row += d_weight * column[1] * row[2]
                    d_column *= scale * 0.5 * W
                    d_row *= scale * 0.5 * H
                    d_point = (
                        d_point[0] + (d_column if PAIRS[2 * p] == 0 else (d_row if PAIRS[2 * p + 1] == 0 else 0.0)),
                        d_point[1] + (d_column if PAIRS[2 * p] == 1 else (d_row if PAIRS[2 * p + 1] == 1 else 0.0)),
                        d_point[2] + (d_column if PAIRS[2 * p] == 2 else (d_row if PAIRS[2 * p + 1] == 2 else 0.0)),
                    )
                d_x += d_point[0]
                d_y += d_point[1]
                d_z += d_point[2]
                d_along_x += d_point[0] * t
                d_along_y += d_point[1] * t
                d_along_z += d_point[2] * t

    if NEEDS_DECODER:
        # hidden activations came in base 2, features as a sum over planes
        at = d_decoder_ptr + h[:, None] * CHANNELS + half[None, :]
        tl.atomic_add(at, d_w_first / 3, sem="relaxed")
        tl.atomic_add(at + HALF, d_w_second / 3, sem="relaxed")
        tl.atomic_add(d_decoder_ptr + FROM_B0 + h, d_bias, sem="relaxed")
        tl.atomic_add(d_decoder_ptr + FROM_W1 + h, d_w_density * LN2, sem="relaxed")
        at = d_decoder_ptr + FROM_W1 + (1 + c[:, None]) * HIDDEN + h[None, :]
        tl.atomic_add(at, d_w_color * LN2, sem="relaxed")
        tl.atomic_add(d_decoder_ptr + FROM_B1, tl.sum(d_b_density, 0), sem="relaxed")
        tl.atomic_add(d_decoder_ptr + FROM_B1 + 1 + c, d_b_color, sem="relaxed")
    if NEEDS_RAYS:
        ray = tl.arange(0, BLOCK_R)
        exists = (tl.program_id(0) % tl.cdiv(R, BLOCK_R)) * BLOCK_R + ray < R
        at = d_rays_ptr + start * 8 + ray * 8
        element: tl.constexpr = d_rays_ptr.dtype.element_ty
        tl.store(at, tl.sum(tl.reshape(d_x, [SUB, BLOCK_R]), 0).to(element), mask=exists)
        tl.store(at + 1, tl.sum(tl.reshape(d_y, [SUB, BLOCK_R]), 0).to(element), mask=exists)
        tl.store(at + 2, tl.sum(tl.reshape(d_z, [SUB, BLOCK_R]), 0).to(element), mask=exists)
        tl.store(at + 3, tl.sum(tl.reshape(d_along_x, [SUB, BLOCK_R]), 0).to(element), mask=exists)
        tl.store(at + 4, tl.sum(tl.reshape(d_along_y, [SUB, BLOCK_R]), 0).to(element), mask=exists)
        tl.store(at + 5, tl.sum(tl.reshape(d_along_z, [SUB, BLOCK_R]), 0).to(element), mask=exists)
