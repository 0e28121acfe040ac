"""Volume rendering in Triton. See docs/kernels/volume_triton.md for what goes where."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.field import (
    CHANNELS,
    FROM_B1,
    FROM_W1,
    HIDDEN,
    LN2,
    features,
    first_layer,
    hidden,
    sigmoid2,
)
from talk3d.kernels.march import _draw_kernel, _march_kernel


@triton.jit
def block_of_rays(R, BLOCK_R: tl.constexpr, SUB: tl.constexpr):
    """The camera of this program, the number of its first ray, and for each row of the block: ray, sample, validity."""
    tiles_per_camera = tl.cdiv(R, BLOCK_R)
    camera = (tl.program_id(0) // tiles_per_camera).to(tl.int64)
    start = (tl.program_id(0) % tiles_per_camera) * BLOCK_R
    row = tl.arange(0, BLOCK_R * SUB)
    ray = row % BLOCK_R
    return camera, camera * R + start, ray, row // BLOCK_R, start + ray < R


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
    camera, start, ray, sub, exists = block_of_rays(R, BLOCK_R, SUB)
    planes_ptr += 0 if SHARED else camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    rays_ptr += start * 8
    t_ptr += start * N + FIRST
    raw_ptr += start * N + FIRST
    jitter_ptr += start * COUNT
    origin_x = tl.load(rays_ptr + ray * 8, mask=exists, other=0.0).to(tl.float32)
    origin_y = tl.load(rays_ptr + ray * 8 + 1, mask=exists, other=0.0).to(tl.float32)
    origin_z = tl.load(rays_ptr + ray * 8 + 2, mask=exists, other=0.0).to(tl.float32)
    direction_x = tl.load(rays_ptr + ray * 8 + 3, mask=exists, other=0.0).to(tl.float32)
    direction_y = tl.load(rays_ptr + ray * 8 + 4, mask=exists, other=0.0).to(tl.float32)
    direction_z = tl.load(rays_ptr + ray * 8 + 5, mask=exists, other=0.0).to(tl.float32)
    if DRAW:
        near = tl.load(rays_ptr + ray * 8 + 6, mask=exists, other=1.0).to(tl.float32)
        far = tl.load(rays_ptr + ray * 8 + 7, mask=exists, other=1.0).to(tl.float32)
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    w_density = tl.load(decoder_ptr + FROM_W1 + tl.arange(0, HIDDEN)).to(tl.float32) * LN2
    b_density = tl.load(decoder_ptr + FROM_B1).to(tl.float32)

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
        x, y, z = origin_x + t * direction_x, origin_y + t * direction_y, origin_z + t * direction_z
        one, two = features(planes_ptr, x, y, z, scale, H, W, PAIRS, SQUARE)
        activation = hidden(one, two, w_first, w_second, bias, PRECISION, PTX)
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
    camera, start, ray, sub, exists = block_of_rays(R, BLOCK_R, SUB)
    planes_ptr += 0 if SHARED else camera * (len(PAIRS) // 2 * CHANNELS) * H * W
    rays_ptr += start * 8
    t_ptr += start * N
    share_ptr += start * N
    origin_x = tl.load(rays_ptr + ray * 8, mask=exists, other=0.0).to(tl.float32)
    origin_y = tl.load(rays_ptr + ray * 8 + 1, mask=exists, other=0.0).to(tl.float32)
    origin_z = tl.load(rays_ptr + ray * 8 + 2, mask=exists, other=0.0).to(tl.float32)
    direction_x = tl.load(rays_ptr + ray * 8 + 3, mask=exists, other=0.0).to(tl.float32)
    direction_y = tl.load(rays_ptr + ray * 8 + 4, mask=exists, other=0.0).to(tl.float32)
    direction_z = tl.load(rays_ptr + ray * 8 + 5, mask=exists, other=0.0).to(tl.float32)
    w_first, w_second, bias = first_layer(decoder_ptr, OPERAND)
    c, h = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN)
    # base 2 logarithms come in, and go out
    w_color = tl.load(decoder_ptr + FROM_W1 + (1 + c[None, :]) * HIDDEN + h[:, None]).to(OPERAND)
    b_color = tl.load(decoder_ptr + FROM_B1 + 1 + c).to(tl.float32) * (1 / LN2)

    pixel = tl.zeros([BLOCK_R * SUB, CHANNELS], tl.float32)
    for k in range(0, tl.cdiv(N, SUB)):
        s = k * SUB + sub
        mask = exists & (s < N)
        share = tl.load(share_ptr + ray * N + s, mask=mask, other=0.0)
        if tl.max((share != 0.0).to(tl.int32), 0) > 0:
            t = tl.load(t_ptr + ray * N + s, mask=mask, other=0.0)
            x, y, z = origin_x + t * direction_x, origin_y + t * direction_y, origin_z + t * direction_z
            one, two = features(planes_ptr, x, y, z, scale, H, W, PAIRS, SQUARE)
            activation = hidden(one, two, w_first, w_second, bias, PRECISION, PTX)
            out = tl.zeros([BLOCK_R * SUB, CHANNELS], tl.float32) + b_color[None, :]
            out = tl.dot(activation.to(OPERAND), w_color, out, input_precision=PRECISION)
            squashed = sigmoid2(out, PTX)
            pixel += share[:, None] * (squashed * 1.002 - 0.001)
    total = tl.sum(tl.reshape(pixel, [SUB, BLOCK_R, CHANNELS]), 0)

    ray = tl.arange(0, BLOCK_R)
    exists = (tl.program_id(0) % tl.cdiv(R, BLOCK_R)) * BLOCK_R + ray < R
    if WHITE:
        total += 1.0 - tl.load(weight_ptr + start + ray, mask=exists, other=0.0).to(tl.float32)[:, None]
    at = features_ptr + start * CHANNELS + ray[:, None] * CHANNELS + c[None, :]
    tl.store(at, (2.0 * total - 1.0).to(features_ptr.dtype.element_ty), mask=exists[:, None])


_OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def forward(
    planes: Tensor,
    decoder: Tensor,
    rays: Tensor,
    jitter: Tensor | None,
    u: Tensor | None,
    pairs: list[int],
    settings: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    scale, _, coarse, fine, disparity, white_back, clamp_depth, min_weight = settings
    (B, R, _), (S, _, H, W, C) = rays.shape, planes.shape
    coarse, fine = int(coarse), int(fine)
    N = coarse + fine
    features_, depth, weight = rays.new_empty(B, R, C), rays.new_empty(B, R), rays.new_empty(B, R)
    transmittance = rays.new_empty(B, R, N - 1)
    depths, t, raw, share = (rays.new_empty(B, R, N, dtype=torch.float32) for _ in range(4))
    if B * R:
        field = {
            "R": R, "H": H, "W": W, "N": N, "scale": scale, "PAIRS": tuple(pairs), "SHARED": S == 1, "SQUARE": H == W,
            "OPERAND": _OPERANDS[planes.dtype], "PRECISION": tiles.precision(), "PTX": tiles.ptx(), **tiles.render_rays(planes.dtype),
        }  # fmt: skip
        grid = (B * triton.cdiv(R, field["BLOCK_R"]),)
        _density_kernel[grid](
            planes, decoder, rays, jitter if jitter is not None else rays, t, raw, FIRST=0, COUNT=coarse, DRAW=True,
            JITTER=jitter is not None, DISPARITY=bool(disparity), **field,
        )  # fmt: skip
        place = t.new_empty(B, R, max(fine, 1), dtype=torch.int32)
        if fine:
            tile = tiles.draw(coarse, fine)
            _draw_kernel[(triton.cdiv(B * R, tile["BLOCK_R"]),)](
                t, raw, u if u is not None else t, place, B * R, coarse, fine, u is not None, **tile
            )
            _density_kernel[grid](
                planes, decoder, rays, rays, t, raw, FIRST=coarse, COUNT=fine, DRAW=False, JITTER=False,
                DISPARITY=False, **field,
            )  # fmt: skip
        tile = tiles.march(fine, N)
        _march_kernel[(triton.cdiv(B * R, tile["BLOCK_R"]),)](
            t, raw, place, share, depths, transmittance, depth, weight, B * R, min_weight, coarse, fine,
            bool(clamp_depth), **tile
        )  # fmt: skip
        _color_kernel[grid](planes, decoder, rays, t, share, weight, features_, WHITE=bool(white_back), **field)
    return features_, depth, weight, depths.to(rays.dtype), transmittance
