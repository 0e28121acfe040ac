"""Along the rays in Triton: where fine samples go, and how much of each sample is seen. A row of a tile is a ray."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from talk3d.kernels.field import LOG2E, sigmoid, softplus

CLEAR = tl.constexpr(1e-10)  # added to each interval's transparency (as published)


@triton.jit
def along(values, k, by: tl.constexpr):
    """Values of the neighbour ``by`` places further along the ray; at the ends, of the last there is."""
    return tl.gather(values, tl.minimum(tl.maximum(k + by, 0), values.shape[1] - 1), 1)


@triton.jit
def opacities(t, raw, k, count):
    """Opacity of the interval after each of ``count`` sorted samples, and the light that reaches it."""
    real = k < count - 1
    gap = tl.where(real, along(t, k, 1) - t, 0.0)
    density = softplus((raw + along(raw, k, 1)) * 0.5 - 1.0)
    alpha = tl.where(real, 1.0 - tl.exp2(-LOG2E * density * gap), 0.0)
    passed = tl.where(k == 0, 1.0, 1.0 - along(alpha, k, -1) + CLEAR)
    return alpha, tl.cumprod(passed, 1)


@triton.jit
def shares(weights, k, min_weight):
    """How much of each sample is seen: half of both intervals, or nothing where neither weighs enough."""
    before = tl.where(k > 0, along(weights, k, -1), 0.0)
    return tl.where((before <= min_weight) & (weights <= min_weight), 0.0, (before + weights) * 0.5)


@triton.jit
def fine_depths(t, weight, u, k, COARSE: tl.constexpr, STEPS: tl.constexpr):
    """Invert the cumulative distribution of weights at quantiles ``u`` (NeRF, section 5.2).

    As ``talk3d.reference.volume.importance_depths``. Returns depths, and how many coarse samples come before each.
    """
    # the larger of each pair of neighbours, averaged over neighbours, without both ends
    bins = COARSE - 3
    left = tl.maximum(along(weight, k, -1), weight)
    right = tl.maximum(weight, along(weight, k, 1))
    pdf = tl.where((k > 0) & (k <= bins), (left + right) * 0.5 + 0.01 + 1e-5, 0.0)
    cdf = tl.cumsum(pdf / tl.sum(pdf, 1)[:, None], 1)  # of bins 0 to k; the first is empty
    above = tl.zeros(u.shape, tl.int32)  # how many of the bins' edges are not above u: by bisection
    for step in tl.static_range(STEPS):
        more = above + (1 << (STEPS - 1 - step))
        edge = tl.gather(cdf, tl.minimum(more - 1, t.shape[1] - 1), 1)
        above = tl.where((more <= bins + 1) & (edge <= u), more, above)
    low, high = tl.maximum(above - 1, 0), tl.minimum(above, bins)
    cdf_low = tl.gather(cdf, low, 1)
    width = tl.gather(cdf, high, 1) - cdf_low
    after_low = tl.gather(t, low + 1, 1)
    start = (tl.gather(t, low, 1) + after_low) * 0.5
    stop = (tl.gather(t, high, 1) + tl.gather(t, high + 1, 1)) * 0.5
    depth = start + (u - cdf_low) / tl.where(width < 1e-5, 1.0, width) * (stop - start)
    # it lies between the middles of two intervals, hence on one side or the other of one coarse sample
    return depth, low + 1 + (after_low <= depth).to(tl.int32)


@triton.jit
def _draw_kernel(
    t_ptr,  # [rays, N]: coarse depths are read, fine ones written behind them in ascending order
    raw_ptr,  # [rays, N]
    u_ptr,  # [rays, FINE], or anything without RANDOM
    place_ptr,  # [rays, FINE]: where the fine samples stand among all of the ray
    rays,
    COARSE: tl.constexpr,
    FINE: tl.constexpr,
    RANDOM: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_F: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Draw the fine samples, and find their places among the coarse ones."""
    N: tl.constexpr = COARSE + FINE
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = (ray < rays)[:, None]
    k = tl.arange(0, BLOCK_S)[None, :] + tl.zeros([BLOCK_R, 1], tl.int32)
    at = ray[:, None] * N + k
    mask = exists & (k < COARSE)
    t = tl.load(t_ptr + at, mask=mask, other=0.0)
    alpha, light = opacities(t, tl.load(raw_ptr + at, mask=mask, other=0.0), k, COARSE)

    f = tl.arange(0, BLOCK_F)[None, :] + tl.zeros([BLOCK_R, 1], tl.int32)
    mask = exists & (f < FINE)
    rank = f
    if RANDOM:
        u = tl.load(u_ptr + ray[:, None] * FINE + f, mask=mask, other=0.0).to(tl.float32)
        rank = tl.zeros([BLOCK_R, BLOCK_F], tl.int32)
        for j in range(0, FINE):
            other = tl.load(u_ptr + ray[:, None] * FINE + j, mask=exists, other=0.0).to(tl.float32)
            rank += ((other < u) | ((other == u) & (j < f))).to(tl.int32)
    else:
        u = (f.to(tl.float32) + 0.5) / FINE
    depth, before = fine_depths(t, alpha * light, u, k, COARSE, STEPS)
    tl.store(t_ptr + ray[:, None] * N + COARSE + rank, depth, mask=mask)
    tl.store(place_ptr + ray[:, None] * FINE + rank, rank + before, mask=mask)


@triton.jit
def _march_kernel(
    t_ptr,  # [rays, N]: the coarse depths, then the fine, each in ascending order
    raw_ptr,  # [rays, N] in the same order
    place_ptr,  # [rays, FINE]: where the fine samples stand among all of the ray
    share_ptr,  # [rays, N] in the same order
    depths_ptr,  # [rays, N], ascending
    transmittance_ptr,  # [rays, N - 1]
    depth_ptr,  # [rays]
    weight_ptr,  # [rays]
    rays,
    min_weight,
    COARSE: tl.constexpr,
    FINE: tl.constexpr,
    CLAMP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Merge the samples of both passes, and march: depth, weight, and the share of each sample in the pixel."""
    N: tl.constexpr = COARSE + FINE
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = ray < rays
    k = tl.arange(0, BLOCK_N)[None, :] + tl.zeros([BLOCK_R, 1], tl.int32)
    mask = exists[:, None] & (k < N)
    fines = tl.zeros([BLOCK_R, BLOCK_N], tl.int32)  # how many of the samples up to here are fine ones: by bisection
    last = fines - 1  # the place of the last of them
    for step in tl.static_range(STEPS):
        more = fines + (1 << (STEPS - 1 - step))
        there = exists[:, None] & (more <= FINE)
        place = tl.load(place_ptr + ray[:, None] * FINE + more - 1, mask=there, other=2147483647)
        fines = tl.where(place <= k, more, fines)
        last = tl.where(place <= k, place, last)
    source = ray[:, None] * N + tl.where(last == k, COARSE + fines - 1, k - fines)
    t = tl.load(t_ptr + source, mask=mask, other=0.0)
    raw = tl.load(raw_ptr + source, mask=mask, other=0.0)
    alpha, light = opacities(t, raw, k, N)
    weights = alpha * light
    tl.store(share_ptr + source, shares(weights, k, min_weight), mask=mask)
    tl.store(depths_ptr + ray[:, None] * N + k, t, mask=mask)
    kept = light.to(transmittance_ptr.dtype.element_ty)
    tl.store(transmittance_ptr + ray[:, None] * (N - 1) + k, kept, mask=mask & (k < N - 1))

    weight = tl.sum(weights, 1)
    middle = tl.sum(weights * (t + along(t, k, 1)) * 0.5, 1)
    depth = tl.where(weight == 0.0, float("inf"), middle / tl.where(weight == 0.0, 1.0, weight))
    if CLAMP:
        nearest = tl.sum(tl.where(k == 0, t, 0.0), 1)
        farthest = tl.sum(tl.where(k == N - 1, t, 0.0), 1)
        # what is not a number stays so, on a GPU as in the interpreter
        depth = tl.maximum(depth, nearest, propagate_nan=tl.PropagateNan.ALL)
        depth = tl.minimum(depth, farthest, propagate_nan=tl.PropagateNan.ALL)
    tl.store(depth_ptr + ray, depth.to(depth_ptr.dtype.element_ty), mask=exists)
    tl.store(weight_ptr + ray, weight.to(weight_ptr.dtype.element_ty), mask=exists)


@triton.jit
def _march_backward_kernel(
    t_ptr,  # [rays, N], ascending
    raw_ptr,  # [rays, N]
    tint_ptr,  # [rays, N]: what each sample's colour is worth to the loss
    d_features_ptr,  # [rays, 32]
    d_depth_ptr,  # [rays]
    d_weight_ptr,  # [rays]
    share_ptr,  # [rays, N]: how much of each sample is seen
    d_raw_ptr,  # [rays, N]
    rays,
    min_weight,
    N: tl.constexpr,
    WHITE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From the gradients of features, depth and weight to those of the raw densities."""
    ray = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = ray < rays
    k = tl.arange(0, BLOCK_N)[None, :] + tl.zeros([BLOCK_R, 1], tl.int32)
    mask = exists[:, None] & (k < N)
    at = ray[:, None] * N + k
    t = tl.load(t_ptr + at, mask=mask, other=0.0).to(tl.float32)
    raw = tl.load(raw_ptr + at, mask=mask, other=0.0)
    alpha, light = opacities(t, raw, k, N)
    weights = alpha * light
    share = shares(weights, k, min_weight)
    tl.store(share_ptr + at, share, mask=mask)

    weight = tl.sum(weights, 1)[:, None]
    seen = tl.where(weight == 0.0, 1.0, weight)  # a ray without weight has no depth to differentiate
    next_t = along(t, k, 1)
    middle = (t + next_t) * 0.5
    depth = tl.sum(weights * middle, 1)[:, None] / seen
    d_depth = tl.load(d_depth_ptr + ray, mask=exists, other=0.0).to(tl.float32)[:, None]
    d_weight = tl.load(d_weight_ptr + ray, mask=exists, other=0.0).to(tl.float32)[:, None]
    tint = tl.where(share == 0.0, 0.0, tl.load(tint_ptr + at, mask=mask, other=0.0))
    worth = (tint + along(tint, k, 1)) * 0.5 + d_weight
    worth += tl.where(weight == 0.0, 0.0, d_depth * (middle - depth) / seen)
    if WHITE:
        c = tl.arange(0, 32)[None, :]
        d_features = tl.load(d_features_ptr + ray[:, None] * 32 + c, mask=exists[:, None], other=0.0)
        worth -= 2.0 * tl.sum(d_features.to(tl.float32), 1)[:, None]

    # behind the last interval weights are 0, and so is all that follows from them
    shadow = along(tl.cumsum(worth * weights, 1, reverse=True), k, 1)  # what later intervals lose to this one
    clear = 1.0 - alpha
    d_alpha = worth * light - shadow / (clear + CLEAR)
    d_middle = d_alpha * (next_t - t) * clear * sigmoid((raw + along(raw, k, 1)) * 0.5 - 1.0) * 0.5
    # an interval that is transparent or out of sight has a gradient below rounding
    d_middle = tl.where(weights <= min_weight, 0.0, d_middle)
    d_raw = d_middle + tl.where(k > 0, along(d_middle, k, -1), 0.0)  # each interval is half of both its samples
    tl.store(d_raw_ptr + at, d_raw, mask=mask)
