"""3 x 3 convolutions of all planes in one launch, with what follows them. See docs/kernels/grouped_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.attention import OPERANDS
from talk3d.kernels.field import multiply
from talk3d.kernels.rollout import bits, end_of, respond


@triton.jit
def _conv_kernel(
    x_ptr,  # [P, B, H, W, C]
    weight_ptr,  # [P, O, C, 9], any strides
    bias_ptr,  # [P, O], or anything without BIAS
    offset_ptr,  # [P, H, W, O], float32, or anything without ROLLOUT
    responses_ptr,  # [6, B, 3 (ends), R, O], float32, or anything without ROLLOUT
    y_ptr,  # [P, B, H, W, O]
    B,
    H,
    W,
    C: tl.constexpr,
    O,  # noqa: E741
    stride_p,
    stride_o,
    stride_c,
    stride_t,
    slope,
    laid_bits,
    BIAS: tl.constexpr,
    ROLLOUT: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Some texels of one picture and some channels out: nine products, and everything that is added to them."""
    blocks = tl.cdiv(H * W, BLOCK_N)
    place = tl.program_id(0) // blocks
    plane, batch = place // B, place % B
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    h, w = n // W, n % W
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    x_ptr += place.to(tl.int64) * H * W * C
    weight_ptr += plane.to(tl.int64) * stride_p
    steps: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    total = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
    for step in range(9 * steps):
        tap = step // steps
        c = step % steps * BLOCK_C + tl.arange(0, BLOCK_C)
        there_h, there_w = h + tap // 3 - 1, w + tap % 3 - 1
        seen = (n < H * W) & (there_h >= 0) & (there_h < H) & (there_w >= 0) & (there_w < W)
        at = (there_h * W + there_w)[:, None] * C + c[None, :]
        x = tl.load(x_ptr + at, mask=seen[:, None] & (c < C)[None, :], other=0.0)
        at = o[None, :] * stride_o + c[:, None] * stride_c + tap * stride_t
        kernels = tl.load(weight_ptr + at, mask=(c < C)[:, None] & (o < O)[None, :], other=0.0)
        total = multiply(x, kernels.to(OPERAND), total, PRECISION)
    inside = (n < H * W)[:, None] & (o < O)[None, :]
    if BIAS:
        total += tl.load(bias_ptr + plane * O + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    at = n[:, None] * O + o[None, :]
    if ROLLOUT:
        total += tl.load(offset_ptr + plane.to(tl.int64) * H * W * O + at, mask=inside, other=0.0)
        for k in tl.static_range(2):
            route = 2 * plane + k
            laid = (laid_bits >> route) & 1
            end = tl.where(laid == 0, end_of(w, W), end_of(h, H))
            line = ((route * B + batch) * 3 + end) * H + tl.where(laid == 0, h, w)
            total += tl.load(responses_ptr + line[:, None] * O + o[None, :], mask=inside, other=0.0)
    total = tl.where(total > 0.0, total, total * slope)
    tl.store(y_ptr + place.to(tl.int64) * H * W * O + at, total.to(y_ptr.dtype.element_ty), mask=inside)


def plane_conv_act(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    P, O, C = weight.shape[:3]  # noqa: E741
    pictures, _, H, W = x.shape
    y = x.new_empty(pictures, H, W, O, dtype=tiles.result(x.dtype))
    if y.numel():
        taps = weight if weight.stride(3) == 3 * weight.stride(4) else weight.contiguous()
        tile = tiles.grouped(C, O, x.dtype)
        first = x if bias is None else bias.contiguous()
        _conv_kernel[(pictures * triton.cdiv(H * W, tile["BLOCK_N"]), triton.cdiv(O, tile["BLOCK_O"]))](
            x.permute(0, 2, 3, 1).contiguous(), taps, first, x, x, y, pictures // P, H, W, C, O, *taps.stride()[:3],
            taps.stride(4), slope, 0, bias is not None, False, OPERANDS[x.dtype], tiles.precision(x.dtype), **tile,
        )  # fmt: skip
    return y.to(x.dtype).permute(0, 3, 1, 2)


def rollout_conv_act(planes: Tensor, weight: Tensor, offset: Tensor, exchanges: list[int], slope: float) -> Tensor:
    texels = planes.permute(1, 0, 3, 4, 2).contiguous()  # [3, B, R, R, C]
    _, B, R, _, C = texels.shape
    O = weight.shape[1]  # noqa: E741
    y = texels.new_empty(3, B, R, R, O, dtype=tiles.result(planes.dtype))
    if y.numel():
        taps = weight if weight.stride(3) == 3 * weight.stride(4) else weight.contiguous()
        stride_p, stride_o, stride_c, _, stride_t = taps.stride()
        tile = tiles.grouped(C, O, texels.dtype)
        # the receiver's own channels are one group further for each plane
        _conv_kernel[(3 * B * triton.cdiv(R * R, tile["BLOCK_N"]), triton.cdiv(O, tile["BLOCK_O"]))](
            texels, taps, offset, offset.permute(0, 2, 3, 1).contiguous(), respond(texels, taps, exchanges), y, B, R, R,
            C, O, stride_p + C * stride_c, stride_o, stride_c, stride_t, slope, bits(exchanges)[1], False, True,
            OPERANDS[planes.dtype], tiles.precision(planes.dtype), **tile,
        )  # fmt: skip
    return y.to(planes.dtype).permute(1, 0, 4, 2, 3)
