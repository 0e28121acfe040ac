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
def multiply(a, b, c, PRECISION: tl.constexpr):
    """``a @ b + c`` in float32, where ``a`` is rounded to the type of ``b``."""
    if PRECISION == "widened":
        return tl.dot(a.to(b.dtype).to(tl.float32), b.to(tl.float32), c)
    return tl.dot(a.to(b.dtype), b, c, input_precision=PRECISION)


@triton.jit
def softplus2(x, PTX: tl.constexpr):
    """log(1 + 2^x) to base 2. PTX takes 5 instructions; Triton's own functions, about 30, to keep denormal numbers."""
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
def slope_of_softplus2(activation, PTX: tl.constexpr):
    """The derivative of :func:`softplus2`, from its value: what led to it need not be kept."""
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .f32 e;
            neg.f32 e, $1;
            ex2.approx.ftz.f32 e, e;
            sub.f32 $0, 0f3F800000, e;
            }""",
            "=f,f", [activation], tl.float32, True, 1,
        )  # fmt: skip
    return 1.0 - tl.exp2(-activation)


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
    e = tl.exp2(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def softplus(x):
    """log(1 + e^x), with all its digits also where it is small."""
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    # log(u) / (u - 1) undoes the rounding of u (Kahan); where nothing is left of e, it is its own logarithm
    rounded = u == 1.0
    return tl.maximum(x, 0.0) + tl.where(rounded, e, tl.log(u) * e / tl.where(rounded, 1.0, u - 1.0))


@triton.jit
def block_of_rays(rays_ptr, R, BLOCK_R: tl.constexpr, SUB: tl.constexpr):
    """Which samples a program takes at a time: ``SUB`` of each of ``BLOCK_R`` rays of one camera, rays fastest.

    Returns the camera, the number of the first ray among those of all cameras, and for each row of the block the ray
    after that, the sample's number, whether the ray exists, its origin, and its direction.
    """
    blocks = tl.cdiv(R, BLOCK_R)
    camera = (tl.program_id(0) // blocks).to(tl.int64)
    begin = tl.program_id(0) % blocks * BLOCK_R
    start = camera * R + begin
    row = tl.arange(0, BLOCK_R * SUB)
    ray = row % BLOCK_R
    exists = begin + ray < R
    at = rays_ptr + start * 8 + ray * 8
    o = (tl.load(at, exists, 0.0), tl.load(at + 1, exists, 0.0), tl.load(at + 2, exists, 0.0))
    d = (tl.load(at + 3, exists, 0.0), tl.load(at + 4, exists, 0.0), tl.load(at + 5, exists, 0.0))
    origin = (o[0].to(tl.float32), o[1].to(tl.float32), o[2].to(tl.float32))
    direction = (d[0].to(tl.float32), d[1].to(tl.float32), d[2].to(tl.float32))
    return camera, start, ray, row // BLOCK_R, exists, origin, direction


@triton.jit
def points(origin, direction, t):
    """Where samples lie: a tuple of three coordinates."""
    return origin[0] + t * direction[0], origin[1] + t * direction[1], origin[2] + t * direction[2]


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return sigmoid2(x * LOG2E, False)


@triton.jit
def span(coordinate, scale, size):
    """The two texels around a coordinate along one axis of ``size``: for each its index, its weight, and its slope.

    Indices are inside the plane; a texel that is not has weight and slope 0. A coordinate that is not a number has a
    weight that is none. Slopes are those of the weights to the position.
    """
    position = coordinate * (scale * 0.5 * size) + (size - 1) * 0.5
    # infinity is like just outside, and a NaN reaches the weights but not the indices
    held = tl.where(position > -1.0, tl.minimum(position, size), -1.0)
    before = tl.floor(held)
    fraction = tl.where(position == position, held - before, position)
    index = before.to(tl.int32)
    low_exists, high_exists = (index >= 0) & (index < size), index + 1 < size
    low_slope = tl.where(low_exists, -1.0, 0.0)
    high_slope = tl.where(high_exists & (position > -1.0), 1.0, 0.0)
    low = tl.minimum(tl.maximum(index, 0), size - 1), tl.where(low_exists, 1.0 - fraction, 0.0), low_slope
    high = tl.minimum(index + 1, size - 1), tl.where(high_exists, fraction, 0.0), high_slope
    return low, high


@triton.jit
def features(planes_ptr, point, scale, H, W, PAIRS: tl.constexpr, SQUARE: tl.constexpr):
    """Sum of the plane features of M points: both halves of the channels, ``[M, 16]`` each.

    The mean's division by 3 is left to the weights of the first layer. Half precision is added up as it is, two
    channels in an instruction and nothing to convert; everything else in float32.
    """
    texels: tl.constexpr = planes_ptr.dtype.element_ty
    SUM: tl.constexpr = tl.float16 if texels == tl.float16 else tl.float32
    c = tl.arange(0, HALF)
    first = tl.zeros([point[0].shape[0], HALF], SUM)
    second = tl.zeros([point[0].shape[0], HALF], SUM)
    for p in tl.static_range(len(PAIRS) // 2):
        columns = span(point[PAIRS[2 * p]], scale, W)
        rows = span(point[PAIRS[2 * p + 1]], scale, W if SQUARE else H)  # the same twice costs once
        for tap in tl.static_range(4):
            column, row = columns[tap % 2], rows[tap // 2]
            texel = ((row[0] + p * H) * W + column[0]) * CHANNELS
            weight = (row[1] * column[1]).to(SUM)[:, None]
            at = planes_ptr + texel[:, None] + c[None, :]
            first += weight * tl.load(at).to(SUM)
            second += weight * tl.load(at + HALF).to(SUM)
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
def before_hidden(first, second, w_first, w_second, bias, PRECISION: tl.constexpr):
    """What goes into the softplus of the hidden layer, ``[M, 64]`` in float32, in base 2."""
    before = tl.zeros([first.shape[0], HIDDEN], tl.float32) + bias[None, :]
    return multiply(second, w_second, multiply(first, w_first, before, PRECISION), PRECISION)


@triton.jit
def density_layer(decoder_ptr):
    """Weights ``[64]`` and bias of the raw density, for hidden activations in base 2."""
    w = tl.load(decoder_ptr + FROM_W1 + tl.arange(0, HIDDEN)).to(tl.float32) * LN2
    return w, tl.load(decoder_ptr + FROM_B1).to(tl.float32)


@triton.jit
def color_layer(decoder_ptr, OPERAND: tl.constexpr):
    """Weights ``[64, 32]`` and bias ``[32]`` of the colours: base 2 logarithms come in, and go out."""
    c, h = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN)
    w = tl.load(decoder_ptr + FROM_W1 + (1 + c[None, :]) * HIDDEN + h[:, None]).to(OPERAND)
    return w, tl.load(decoder_ptr + FROM_B1 + 1 + c).to(tl.float32) * LOG2E


@triton.jit
def squashed_color(activation, w_color, b_color, PRECISION: tl.constexpr, PTX: tl.constexpr):
    """Sigmoid of the second layer, ``[M, 32]``; the colour is 1.002 of it less 0.001."""
    out = tl.zeros([activation.shape[0], CHANNELS], tl.float32) + b_color[None, :]
    return sigmoid2(multiply(activation, w_color, out, PRECISION), PTX)
