"""Tri-plane sampling in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def forward(planes: Tensor, points: Tensor, pairs: list[int], scale: float, mean: bool) -> Tensor:
    """Sample ``planes`` [S, P, H, W, C] at ``points`` [B, M, 3]; see ``talk3d.ops.sample_triplane``.

    ``S`` is ``B``, or 1 for planes that all points share.
    """
    (B, M, _), (S, P, _, _, C) = points.shape, planes.shape
    grid = _grid(points, pairs, scale, S)
    sampled: Tensor = grid_sample(_pictures(planes), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    features = sampled.view(S, P, C, B // S, M).permute(0, 3, 1, 4, 2)  # [S, B/S, P, M, C]
    features = features.sum(2) / 3 if mean else features
    return features.flatten(0, 1).contiguous()


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
    """Gradients of :func:`forward`; an empty tensor stands for one that is not needed."""
    (B, M, _), (S, P, H, W, C) = points.shape, planes.shape
    d_sampled = (d_features / 3)[:, None].expand(-1, P, -1, -1) if mean else d_features  # [B, P, M, C]
    d_sampled = d_sampled.view(S, B // S, P, M, C).permute(0, 2, 4, 1, 3)  # [S, P, C, B/S, M]
    d_pictures, d_grid = torch.ops.aten.grid_sampler_2d_backward(
        d_sampled.flatten(0, 1),
        _pictures(planes),
        _grid(points, pairs, scale, S),
        0,  # bilinear
        0,  # zero padding
        False,  # align_corners
        [needs_planes, needs_points],
    )
    d_planes, d_points = planes.new_empty(0), points.new_empty(0)
    if needs_planes:
        d_planes = d_pictures.view(S, P, C, H, W).permute(0, 1, 3, 4, 2).contiguous()
    if needs_points:
        d_seen = d_grid.view(S, P, B // S, M, 2).permute(0, 2, 3, 1, 4).reshape(B, M, 2 * P) * scale
        index = torch.tensor(pairs, device=points.device).expand(B, M, 2 * P)
        d_points = torch.zeros_like(points).scatter_add(2, index, d_seen)
    return d_planes, d_points


def _pictures(planes: Tensor) -> Tensor:
    """Planes as a batch of pictures [S*P, C, H, W]."""
    return planes.flatten(0, 1).permute(0, 3, 1, 2)


def _grid(points: Tensor, pairs: list[int], scale: float, S: int) -> Tensor:
    """What each plane sees of the points, [S*P, B/S, M, 2]; an infinite coordinate is as far outside as any."""
    B, M, _ = points.shape
    seen = (torch.stack([points[..., axis] for axis in pairs], dim=-1) * scale).clamp(-4, 4)  # [B, M, 2P]
    return seen.view(S, B // S, M, len(pairs) // 2, 2).permute(0, 3, 1, 2, 4).flatten(0, 1)
