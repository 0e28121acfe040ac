"""How many sums of texels the backward of ``render_rays`` in CUDA sends to memory: counted, without a GPU.

    python benchmarks/texel_sums.py

A camera in front of the head or turned, 128 x 128 rays, 48 + 48 samples, planes of 256 x 256.
``csrc/cuda/volume_texels.h`` adds up over 32 samples: 4 x 4 rays at two depths. What else could be chosen is counted
beside it. Samples are spread evenly, or half of them lie around a sphere; and of the latter only those near its surface
may have a gradient, as in training, where the others weigh nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIZE, SIDE, COARSE = 256, 128, 48
CHOICES = ((4, 1), (4, 2), (4, 4), (8, 2), (8, 4))  # pixels across, depths
MOST_PRODUCTS = 5  # of csrc/cuda/volume_texels.h


class Count(NamedTuple):
    """What is counted; ``products`` and ``strips`` are those of all planes for a group of samples."""

    taps: float  # texels that would be added to, tap by tap
    sums: float  # those that are
    products: float
    strips: float


def cells(yaw: float, pitch: float, scene: str) -> tuple[Tensor, Tensor]:
    """Cells ``[SIDE, SIDE, 96, 3]`` of all samples in their order, and which of them have a gradient."""
    eye = 2.7 * torch.tensor(
        [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)], dtype=torch.float64
    )
    ahead = -eye / eye.norm()
    right = torch.nn.functional.normalize(torch.linalg.cross(ahead, torch.tensor([0.0, 1.0, 0.0]).double()), dim=0)
    at = ((torch.arange(SIDE) + 0.5) / SIDE - 0.5).double() / 4.2647  # the published focal length
    v, u = torch.meshgrid(at, at, indexing="ij")
    rays = ahead + u[..., None] * right + v[..., None] * torch.linalg.cross(right, ahead)
    rays = torch.nn.functional.normalize(rays, dim=2)
    k = (torch.arange(COARSE) + 0.5).double() / COARSE
    coarse = (2.25 + 1.05 * k).expand(SIDE, SIDE, -1)
    along = rays @ eye
    inside = along**2 - eye @ eye + 0.35**2
    surface = (-along - inside.clamp(min=0).sqrt())[..., None]
    hits = (inside > 0)[..., None]
    between = coarse + 1.05 / COARSE / 2
    fine = between if scene == "even" else torch.where(hits, surface + 0.09 * (k - 0.5), between)
    depths = torch.cat((coarse, fine), dim=2).sort(dim=2).values
    points = eye + rays[:, :, None] * depths[..., None]
    found = (points * SIZE + (SIZE + 1) / 2).clamp(0, SIZE + 1 - 1e-3).floor().long()
    seen = torch.ones_like(depths, dtype=torch.bool)
    return found, hits & ((depths - surface).abs() < 0.05) if scene == "surface" else seen


def count(found: Tensor, seen: Tensor, across: int, depths: int) -> Count:
    """Count for groups of ``across x across`` rays at ``depths`` depths."""
    tiles, steps = SIDE // across, found.shape[2] // depths
    shape = (tiles, across, tiles, across, steps, depths)
    groups = found.view(*shape, 3).permute(0, 2, 4, 1, 3, 5, 6).reshape(tiles * tiles * steps, -1, 3)
    inside = seen.view(shape).permute(0, 2, 4, 1, 3, 5).reshape(tiles * tiles * steps, -1)
    groups, inside = groups[inside.any(1)], inside[inside.any(1)]
    first = groups.where(inside[..., None], 1 << 20).amin(1)
    size = groups.where(inside[..., None], -1).amax(1) - first + 2
    most = MOST_PRODUCTS * across**2 * depths // 32
    taps, sums, products, strips = 12.0 * inside.sum().item(), 0.0, 0.0, 0.0
    for one, other in ((0, 1), (0, 2), (2, 1)):  # the planes
        width, height = size[:, one], size[:, other]
        ways = torch.stack(((width + 7) // 8 * ((height + 1) // 2), (height + 7) // 8 * ((width + 1) // 2)))
        fewest, way = ways.min(0)
        fits = fewest <= most
        sums += (width * height).where(fits, 4 * inside.sum(1)).sum().item()
        products += fewest.where(fits, 0).sum().item()
        strips += ((torch.where(way == 0, width, height) + 7) // 8).where(fits, 0).sum().item()
    return Count(taps, sums, products / len(groups), strips / len(groups))


def main() -> None:
    """Print a line for each view, scene and choice."""
    for view, (yaw, pitch) in {"in front": (0.0, 0.0), "turned": (0.4, 0.2)}.items():
        for scene in ("even", "sphere", "surface"):
            found, seen = cells(yaw, pitch, scene)
            for across, depths in CHOICES:
                c = count(found, seen, across, depths)
                print(
                    f"{view:8} {scene:8} {across} x {across} rays, {depths} depths: {c.taps / 1e6:5.2f} M taps, "
                    f"{c.sums / 1e6:5.2f} M sums, {c.taps / c.sums:4.2f} times fewer; for {across**2 * depths} samples "
                    f"{c.products:.1f} products in {c.strips:.1f} strips"
                )


if __name__ == "__main__":
    main()
