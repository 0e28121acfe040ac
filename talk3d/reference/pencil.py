"""Rays of pencils, with where they begin and end, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def pencil_rays(
    pencils: Tensor, side: int, near: float | None, far: float | None, box_warp: float, coarse: int
) -> Tensor:
    """Origins, unit directions and limits ``[B, R * R, 8]``; see ``talk3d.ops.pencil.pencil_rays``."""
    centers = (torch.arange(side, device=pencils.device, dtype=pencils.dtype) + 0.5) / side
    down, across = torch.meshgrid(centers, centers, indexing="ij")
    right, below, corner, origins = pencils.unsqueeze(2).unbind(1)  # [B, 1, 3]
    directions = corner + across.reshape(-1, 1) * right + down.reshape(-1, 1) * below
    directions = directions / torch.linalg.vector_norm(directions, dim=2, keepdim=True)
    origins = origins.expand_as(directions)
    if near is not None and far is not None:
        ends = torch.stack([torch.full_like(directions[..., 0], end) for end in (near, far)], dim=2)
    else:
        ends = _crossing(origins, directions, box_warp, coarse)
    return torch.cat([origins, directions, ends], dim=2)


def _crossing(origins: Tensor, directions: Tensor, box_warp: float, coarse: int) -> Tensor:
    """Where rays enter the box, and where they leave it less an interval."""
    half = box_warp / 2
    faces = torch.stack([-half - origins, half - origins]) / directions  # [2, B, R, 3]
    near = faces.amin(0).nan_to_num(-torch.inf).amax(-1)
    far = faces.amax(0).nan_to_num(torch.inf).amin(-1)
    nearest = 1e-3 * box_warp
    near = near.clamp(min=nearest)
    passing = -(origins * directions).sum(-1).clamp(max=-nearest)  # of rays that miss
    misses = near >= far
    near, far = near.where(~misses, passing), far.where(~misses, passing)
    return torch.stack([near, near + (far - near) * (1 - 1 / coarse)], dim=2)
