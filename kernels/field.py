"""What the samples of a ray see: the tri-plane's features and the decoder's hidden layer, for one block of samples.

Kernels elsewhere call these. A block of M samples is a row each; its 32 channels are held in two halves of 16, so that
two threads instead of four repeat the arithmetic of a row, whose texels they load 16 bytes at a time.
"""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# the decoder as one vector: w0 [64, 32], b0 [64], w1 [1 + 32, 64], b1 [1 + 32]
CHANNELS = tl.constexpr(32)
HALF = tl.constexpr(16)
HIDDEN = tl.constexpr(64)
FROM_B0 = tl.constexpr(64 * 32)
FROM_W1 = tl.constexpr(64 * 32 + 64)
FROM_B1 = tl.constexpr(64 * 32 + 64 + 33 * 64)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus2(x, PTX: tl.constexpr):
    """log(1 + 2^x) to base 2. PTX takes five instructions; Triton's own functions, 32, to keep denormal numbers."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .f32 e, m;
            abs.f32 e, $1;
            neg.f32 e, e;
            ex2.approx.ftz.f32 e, e;
            add.f32 e, e, 0f3F800000;
            lg2.approx.ftz.f32 e, e;
            max.NaN.f32 m, $1, 0f00000000;
            add.f32 $0, e, m;
            }""",
            "=f,f", [x], tl.float32, True, 1,
        )  # fmt: skip
    return tl.maximum(x, 0.0) + tl.log2(1.0 + tl.exp2(-tl.abs(x)))


@triton.jit
def sigmoid2(x, PTX: tl.constexpr):
    """1 / (1 + 2^-x)."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .f32 e;
            neg.f32 e, $1;
            ex2.approx.ftz.f32 e, e;
            add.f32 e, e, 0f3F800000;
            rcp.approx.ftz.f32 $0, e;
            }""",
            "=f,f", [x], tl.float32, True, 1,
        )  # fmt: skip
    return 1.0 / (1.0 + tl.exp2(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x), with all its digits also where it is small."""
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    # log(u) / (u - 1) undoes the rounding of u (Kahan); where nothing is left of e, it is its own logarithm
    rounded = u == 1.0
    return tl.maximum(x, 0.0) + tl.where(rounded, e, tl.log(u) * e / tl.where(rounded, 1.0, u - 1.0))


@triton.jit
def span(coordinate, scale, size):
    """The two texels around a coordinate along one axis of ``size``: indices inside the plane, weights, and slopes.

    A texel that is outside has weight 0. A coordinate that is not a number has a weight that is none.
    """
    position = coordinate * (scale * 0.5 * size) + (size - 1) * 0.5
    # infinity is like just outside, and a NaN reaches the weights but not the indices
    held = tl.where(position > -1.0, tl.minimum(position, size), -1.0)
    before = tl.floor(held)
    fraction = tl.where(position == position, held - before, position)
    low = before.to(tl.int32)
    low_weight = tl.where((low >= 0) & (low < size), 1.0 - fraction, 0.0)
    high_weight = tl.where(low + 1 < size, fraction, 0.0)
    return tl.minimum(tl.maximum(low, 0), size - 1), tl.minimum(low + 1, size - 1), low_weight, high_weight


@triton.jit
def features(planes_ptr, x, y, z, scale, H, W, PAIRS: tl.constexpr, SQUARE: tl.constexpr):
    """Sum of the plane features of points ``[M]``: both halves of the channels, ``[M, 16]`` each.

    The mean's division by 3 is left to the weights of the first layer. Half precision is added up as it is, two
    channels in an instruction and nothing to convert; everything else in float32.
    """
    texels: tl.constexpr = planes_ptr.dtype.element_ty
    SUM: tl.constexpr = tl.float16 if texels == tl.float16 else tl.float32
    c = tl.arange(0, HALF)
    first = tl.zeros([x.shape[0], HALF], SUM)
    second = tl.zeros([x.shape[0], HALF], SUM)
    for p in tl.static_range(len(PAIRS) // 2):
        u = x if PAIRS[2 * p] == 0 else (y if PAIRS[2 * p] == 1 else z)
        v = x if PAIRS[2 * p + 1] == 0 else (y if PAIRS[2 * p + 1] == 1 else z)
        column0, column1, left, right = span(u, scale, W)
        row0, row1, above, below = span(v, scale, W if SQUARE else H)
        for tap in tl.static_range(4):
            row = (row1 if tap // 2 else row0) + p * H
            texel = (row * W + (column1 if tap % 2 else column0)) * CHANNELS
            weight = (below if tap // 2 else above) * (right if tap % 2 else left)
            at = planes_ptr + texel[:, None] + c[None, :]
            first += weight.to(SUM)[:, None] * tl.load(at).to(SUM)
            second += weight.to(SUM)[:, None] * tl.load(at + HALF).to(SUM)
    return first, second


@triton.jit
def first_layer(decoder_ptr, OPERAND: tl.constexpr):
    """Weights of the first layer ``[16, 64]`` for each half of the channels, and its bias ``[64]``.

    They are scaled so that the layer takes the sum over three planes and gives base 2 logarithms.
    """
    k = tl.arange(0, HIDDEN)
    c = tl.arange(0, HALF)
    at = decoder_ptr + k[None, :] * CHANNELS + c[:, None]
    first = (tl.load(at).to(tl.float32) * (LOG2E / 3)).to(OPERAND)
    second = (tl.load(at + HALF).to(tl.float32) * (LOG2E / 3)).to(OPERAND)
    return first, second, tl.load(decoder_ptr + FROM_B0 + k).to(tl.float32) * LOG2E


@triton.jit
def hidden(first, second, w_first, w_second, bias, PRECISION: tl.constexpr, PTX: tl.constexpr):
    """Hidden activations ``[M, 64]`` in float32, divided by log 2: softplus takes two instructions of base 2."""
    before = tl.zeros([first.shape[0], HIDDEN], tl.float32) + bias[None, :]
    before = tl.dot(first.to(w_first.dtype), w_first, before, input_precision=PRECISION)
    before = tl.dot(second.to(w_second.dtype), w_second, before, input_precision=PRECISION)
    return softplus2(before, PTX)
