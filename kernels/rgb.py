"""Activation and what it contributes to the picture in one pass, in Triton. See docs/kernels/rgb_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.resample import _activate, _limit


@triton.jit
def _act_rgb_kernel(
    x_ptr,  # [B, H, W, C]
    bias_ptr,  # [C], or anything without BIAS
    image_ptr,  # [B, 3, H, W], or half as large with UP, any strides
    weight_ptr,  # [3, C]
    rgb_bias_ptr,  # [3]
    filter_ptr,  # [4, 4], or anything without UP
    y_ptr,  # [B, H, W, C], or anything without KEEP
    picture_ptr,  # [B, H, W, 3]
    H,
    W,
    C,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    slope,
    gain,
    clamp,
    rgb_clamp,
    BIAS: tl.constexpr,
    UP: tl.constexpr,
    KEEP: tl.constexpr,
    CLAMP: tl.constexpr,
    RGB_CLAMP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Some pixels with all their channels: activated, written if they are wanted, and multiplied to three colours."""
    blocks = tl.cdiv(H * W, BLOCK_N)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    n, c = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    is_pixel, is_channel = n < H * W, c < C
    at, inside = n[:, None] * C + c[None, :], is_pixel[:, None] & is_channel[None, :]
    x = tl.load(x_ptr + batch * H * W * C + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + c, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    x = _activate(x, slope, gain, clamp, CLAMP)
    if KEEP:
        tl.store(y_ptr + batch * H * W * C + at, x.to(y_ptr.dtype.element_ty), mask=inside)
    h, w = n // W, n % W
    image_ptr += batch * stride_b
    for color in tl.static_range(3):
        weight = tl.load(weight_ptr + color * C + c, mask=is_channel, other=0.0).to(tl.float32)
        rgb = tl.sum(tl.where(is_channel[None, :], x * weight[None, :], 0.0), 1)
        rgb += tl.load(rgb_bias_ptr + color).to(tl.float32)
        rgb = _activate(rgb, 1.0, 1.0, rgb_clamp, RGB_CLAMP)
        here = image_ptr + color * stride_c
        if UP:
            # an even place lies between the sample before and its own, an odd one between its own and the next
            first_h, first_w = (h + 1) // 2 - 1, (w + 1) // 2 - 1
            for tap in tl.static_range(4):
                there_h, there_w = first_h + tap // 2, first_w + tap % 2
                k = (3 - 2 * (tap // 2) - h % 2) * 4 + 3 - 2 * (tap % 2) - w % 2
                share = 4.0 * tl.load(filter_ptr + k).to(tl.float32)
                exists = is_pixel & (there_h >= 0) & (there_h < H // 2) & (there_w >= 0) & (there_w < W // 2)
                sample = tl.load(here + there_h.to(tl.int64) * stride_h + there_w * stride_w, mask=exists, other=0.0)
                rgb += share * sample.to(tl.float32)
        else:
            rgb += tl.load(here + h.to(tl.int64) * stride_h + w * stride_w, mask=is_pixel, other=0.0).to(tl.float32)
        at = picture_ptr + (batch * H * W + n) * 3 + color
        tl.store(at, rgb.to(picture_ptr.dtype.element_ty), mask=is_pixel)


def act_rgb(
    x: Tensor, bias: Tensor | None, image: Tensor, weight: Tensor, rgb_bias: Tensor, filter: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    slope, gain, clamp, rgb_clamp, keep = options
    B, C, H, W = x.shape
    last = x.permute(0, 2, 3, 1).contiguous()
    y = torch.empty_like(last, dtype=tiles.result(x.dtype)) if keep else x.new_empty(0)
    picture = image.new_empty(B, H, W, 3, dtype=tiles.result(image.dtype))
    if picture.numel():
        first = x if bias is None else bias.contiguous()
        taps = rgb_bias if filter is None else filter.contiguous()
        tile = tiles.act_rgb(C)
        _act_rgb_kernel[(B * triton.cdiv(H * W, tile["BLOCK_N"]),)](
            last, first, image, weight.contiguous(), rgb_bias.contiguous(), taps, y, picture, H, W, C, *image.stride(),
            slope, gain, _limit(clamp, x.dtype), _limit(rgb_clamp, x.dtype), bias is not None, filter is not None, keep,
            clamp is not None, rgb_clamp is not None, **tile,
        )  # fmt: skip
    kept = y.to(x.dtype).permute(0, 3, 1, 2) if keep else y
    return kept, picture.to(image.dtype).permute(0, 3, 1, 2)
