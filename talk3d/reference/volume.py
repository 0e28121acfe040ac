"""Volume rendering in plain PyTorch, as published: two passes, sort, midpoint march."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, linear, max_pool1d, softplus

from talk3d.profiling import annotate
from talk3d.reference import triplane
from talk3d.reference.planes import without_border

_CLEAR = 1e-10  # added to each interval's transparency, so that an opaque one leaves something to divide by


def forward(
    planes: Tensor,
    decoder: Tensor,
    rays: Tensor,
    jitter: Tensor | None,
    u: Tensor | None,
    pairs: list[int],
    settings: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Render rays; see ``talk3d.ops.render_rays``. Differentiable by autograd, which keeps every intermediate.

    Args:
        planes: Texels ``[1 or B, P, H, W, C]``, of the type of the rays or of 16 bits.
        decoder: ``w0, b0, w1, b1``, flattened into one vector.
        rays: Origin, direction, near and far ``[B, R, 8]``.
        jitter: Position of each coarse sample within its stratum ``[B, R, S]``, or None.
        u: Quantiles of the fine samples ``[B, R, F]``, or None.
        pairs: Coordinates that the planes see; none where they have a border.
        settings: The numbers of ``talk3d.ops.volume._Settings``.

    Returns:
        Features ``[B, R, D]``, depth ``[B, R]``, weight ``[B, R]``, and what the backward wants: sorted depths
        ``[B, R, N]`` and transmittance ``[B, R, N - 1]`` with ``N = S + F``.
    """
    scale, hidden, coarse, fine, disparity, white_back, clamp_depth, _ = settings
    planes, pairs = without_border(planes, pairs)
    layers = _layers(decoder, planes.shape[4], int(hidden))
    planes = planes.to(rays.dtype)

    def field(depths: Tensor) -> tuple[Tensor, Tensor]:
        features = triplane.forward(planes, _positions(rays, depths), pairs, scale, True)
        density, color = decode(features, layers)
        return density.view_as(depths), color.unflatten(1, depths.shape[1:])

    with annotate(".coarse"):
        depths = coarse_depths(rays, int(coarse), jitter, bool(disparity))
        density, color = field(depths)  # [B, R, S], [B, R, S, D]
    if fine:
        with annotate(".pdf"), torch.no_grad():
            weights, _ = interval_weights(density, depths)
            more = importance_depths(depths, weights, _quantiles(u, rays, int(fine)))
        with annotate(".fine"):
            more_density, more_color = field(more)
        depths, order = torch.cat([depths, more], dim=2).sort(dim=2)
        density = torch.cat([density, more_density], dim=2).gather(2, order)
        color = torch.cat([color, more_color], dim=2)
        color = color.gather(2, order[..., None].expand_as(color))
    with annotate(".color"):
        seen = march(color, density, depths, bool(white_back), bool(clamp_depth))
        return *seen, depths, interval_weights(density, depths)[1]


def decode(features: Tensor, layers: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Take plane features ``[..., C]`` to raw density ``[...]`` and colours ``[..., D]`` (EG3D, section 4.2)."""
    w0, b0, w1, b1 = layers
    out = linear(softplus(linear(features, w0, b0)), w1, b1)
    return out[..., 0], out[..., 1:].sigmoid() * (1 + 2 * 0.001) - 0.001


def coarse_depths(rays: Tensor, count: int, jitter: Tensor | None, disparity: bool) -> Tensor:
    """One sample in each of ``count`` strata between near and far: ``[B, R, S]``."""
    near, far = rays[..., 6:7], rays[..., 7:8]
    edge = torch.arange(count, dtype=rays.dtype, device=rays.device) / (count - 1)
    within = 0.5 if jitter is None else jitter
    if disparity:
        fraction = edge + within * (1 / (count - 1))
        return 1 / (1 / near * (1 - fraction) + 1 / far * fraction)
    return near + edge * (far - near) + within * ((far - near) / (count - 1))


def importance_depths(depths: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Draw depths where the weights are: invert their cumulative distribution (NeRF, section 5.2).

    Args:
        depths: Coarse depths ``[B, R, S]``.
        weights: Weights of the intervals between them ``[B, R, S - 1]``.
        u: Quantiles ``[B, R, F]``.

    Returns:
        Fine depths ``[B, R, F]``, in the order of ``u``.
    """
    B, R, S = depths.shape
    smooth = avg_pool1d(max_pool1d(weights.reshape(B * R, 1, S - 1), 2, 1, padding=1), 2, 1).view(B, R, S - 1) + 0.01
    bins = (depths[..., :-1] + depths[..., 1:]) / 2  # [B, R, S - 1]
    pdf = smooth[..., 1:-1] + 1e-5
    cdf = torch.nn.functional.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))  # [B, R, S - 2]
    above = torch.searchsorted(cdf, u.contiguous(), right=True)
    low, high = (above - 1).clamp(min=0), above.clamp(max=S - 3)
    cdf_low, cdf_high = cdf.gather(2, low), cdf.gather(2, high)
    bin_low, bin_high = bins.gather(2, low), bins.gather(2, high)
    span = cdf_high - cdf_low
    return bin_low + (u - cdf_low) / span.where(span >= 1e-5, 1) * (bin_high - bin_low)


def interval_weights(density: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of each interval and the light that reaches it, both ``[B, R, N - 1]``."""
    alpha = 1 - torch.exp(-softplus((density[..., :-1] + density[..., 1:]) / 2 - 1) * depths.diff(dim=2))
    passed = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + _CLEAR], dim=2)
    transmittance = passed.cumprod(2)[..., :-1]
    return alpha * transmittance, transmittance


def march(
    color: Tensor, density: Tensor, depths: Tensor, white_back: bool, clamp_depth: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite sorted samples by the midpoint rule (Mip-NeRF's intervals).

    Args:
        color: Colours ``[B, R, N, D]``.
        density: Raw densities ``[B, R, N]``.
        depths: Sorted depths ``[B, R, N]``.
        white_back: Put white behind.
        clamp_depth: Keep depth within the samples; otherwise it is infinite where there is no weight.

    Returns:
        Features ``[B, R, D]`` doubled and less one, depth ``[B, R]``, weight ``[B, R]``.
    """
    weights, _ = interval_weights(density, depths)
    weight = weights.sum(2)
    pixel = torch.einsum("brn,brnd->brd", weights, (color[..., :-1, :] + color[..., 1:, :]) / 2)
    if white_back:
        pixel = pixel + 1 - weight[..., None]
    empty = weight == 0
    depth = (weights * (depths[..., :-1] + depths[..., 1:]) / 2).sum(2) / weight.where(~empty, 1)
    depth = depth.where(~empty, torch.inf)
    if clamp_depth:
        depth = depth.clamp(depths[..., 0], depths[..., -1])
    return 2 * pixel - 1, depth, weight


def backward(
    grads: list[Tensor], saved: list[Tensor], pairs: list[int], settings: list[float], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` to planes, decoder and rays, recomputed from depths and transmittance.

    An empty tensor stands for a gradient that is not needed. Near and far are constants: their gradient is zero.
    """
    planes, decoder, rays, depths, transmittance = saved
    scale, hidden = settings[:2]
    layers = _layers(decoder, planes.shape[4], int(hidden))
    points = _positions(rays, depths)
    texels = planes.to(rays.dtype)
    features = triplane.forward(texels, points, pairs, scale, True)  # [B, R * N, C]
    before = linear(features, *layers[:2])
    activation = softplus(before)
    out = linear(activation, *layers[2:]).unflatten(1, depths.shape[1:])  # [B, R, N, 1 + D]

    d_out = _march_backward(grads, out, depths, transmittance, bool(settings[5])).flatten(1, 2)
    d_before = (d_out @ layers[2]) * before.sigmoid()
    d_planes, d_points = triplane.backward(d_before @ layers[0], texels, points, pairs, scale, True, needs[0], needs[2])
    d_decoder, d_rays = decoder.new_empty(0), rays.new_empty(0)
    if needs[1]:
        parts = (
            torch.einsum("bmk,bmc->kc", d_before, features), d_before.sum((0, 1)),
            torch.einsum("bmo,bmk->ok", d_out, activation), d_out.sum((0, 1)),
        )  # fmt: skip
        d_decoder = torch.cat([part.flatten() for part in parts])
    if needs[2]:
        d_points = d_points.view(*depths.shape, 3)
        d_direction = (d_points * depths[..., None]).sum(2)
        d_rays = torch.cat([d_points.sum(2), d_direction, torch.zeros_like(rays[..., 6:])], dim=2)
    return d_planes.to(planes.dtype), d_decoder, d_rays


def _march_backward(
    grads: list[Tensor], out: Tensor, depths: Tensor, transmittance: Tensor, white_back: bool
) -> Tensor:
    """Gradient to the decoder's output ``[B, R, N, 1 + D]`` for the gradients of features, depth and weight."""
    d_features, d_depth, d_weight = grads
    density, squashed = out[..., 0], out[..., 1:].sigmoid()
    gap, raw = depths.diff(dim=2), (density[..., :-1] + density[..., 1:]) / 2 - 1
    alpha = 1 - torch.exp(-softplus(raw) * gap)
    weights = alpha * transmittance
    weight = weights.sum(2, keepdim=True)
    seen = weight.where(weight != 0, 1)  # a ray without weight has no depth to differentiate

    tint = torch.einsum("brd,brnd->brn", 2 * d_features, squashed * 1.002 - 0.001)
    middle = (depths[..., :-1] + depths[..., 1:]) / 2
    depth = (weights * middle).sum(2, keepdim=True) / seen
    d_weights = (tint[..., :-1] + tint[..., 1:]) / 2 + d_weight[..., None]
    d_weights = d_weights + torch.where(weight != 0, d_depth[..., None] * (middle - depth) / seen, 0)
    if white_back:
        d_weights = d_weights - 2 * d_features.sum(2, keepdim=True)

    light = d_weights * weights
    shadow = light.flip(2).cumsum(2).flip(2) - light  # what later intervals lose to this one
    d_alpha = d_weights * transmittance - shadow / (1 - alpha + _CLEAR)
    d_raw = d_alpha * gap * (1 - alpha) * raw.sigmoid() / 2
    shared = (weights / 2)[..., None] * (2 * d_features)[..., None, :]
    d_color = torch.zeros_like(squashed)
    d_density = torch.zeros_like(density)
    for side in (slice(None, -1), slice(1, None)):  # each interval is half of both its samples
        d_color[..., side, :] += shared
        d_density[..., side] += d_raw
    d_squashed = d_color * 1.002 * squashed * (1 - squashed)
    return torch.cat([d_density[..., None], d_squashed], dim=3)


def _layers(decoder: Tensor, channels: int, hidden: int) -> tuple[Tensor, ...]:
    outputs = (decoder.shape[0] - hidden * (channels + 1)) // (hidden + 1)
    w0, b0, w1, b1 = decoder.split([hidden * channels, hidden, outputs * hidden, outputs])
    return w0.view(hidden, channels), b0, w1.view(outputs, hidden), b1


def _positions(rays: Tensor, depths: Tensor) -> Tensor:
    """Points along the rays, ``[B, R * N, 3]``."""
    return (rays[..., None, :3] + depths[..., None] * rays[..., None, 3:6]).flatten(1, 2)


def _quantiles(u: Tensor | None, rays: Tensor, count: int) -> Tensor:
    if u is None:
        u = (torch.arange(count, dtype=rays.dtype, device=rays.device) + 0.5) / count
    return u.expand(*rays.shape[:2], count)
