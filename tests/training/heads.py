"""A head that is an ellipsoid: a face mesh on it, cameras around it, and what they see."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from talk3d import cameras as cams
from talk3d.data.facemesh import OVAL, anchors
from talk3d.training.proxy import Mattes

CENTER, RADII = torch.tensor([0.0, 0.05, -0.03]), torch.tensor([0.24, 0.3, 0.26])


def face_mesh() -> Tensor:
    """478 vertices on its front; those with a name are about where they belong."""
    count = 478
    turn = torch.arange(count) * (math.pi * (3 - 5**0.5))
    reach = 0.93 * torch.sqrt((torch.arange(count) + 0.5) / count)
    flat = torch.stack((reach * turn.sin(), reach * turn.cos()), 1) * torch.tensor([0.2, 0.25])
    around = torch.arange(len(OVAL)) * (2 * math.pi / len(OVAL))
    flat[list(OVAL)] = torch.stack((-around.sin() * 0.2, around.cos() * 0.25), 1)
    names, places = anchors()
    flat[names] = torch.from_numpy(places[:, :2]).float() - CENTER[:2]
    depth = RADII[2] * (1 - (flat / RADII[:2]).square().sum(1)).clamp(min=0.01).sqrt()
    return CENTER + torch.cat((flat, depth[:, None]), 1)


def views(yaws: Tensor) -> Tensor:
    """Cameras at these yaws."""
    return cams.pack(cams.look_at(yaws, 0.3 * yaws), cams.intrinsics(cams.FFHQ_FOCAL))


def texture(points: Tensor) -> Tensor:
    """Colour of points on it, -1 to 1."""
    waves = torch.tensor([[31.0, 17, 5], [-11, 37, 23], [19, -29, 41]])
    return torch.stack([torch.sin(points @ (waves * k)).mean(-1) for k in (1.0, 1.3, 0.7)], -1)


def photograph(cameras: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colour ``[K, 3, S, S]``, matte and depth ``[K, 1, S, S]`` of the head; the background is 0."""
    origins, directions = cams.rays(*cams.unpack(cameras), side)
    offset, ahead = (origins - CENTER) / RADII, directions / RADII
    square, along = ahead.square().sum(-1), (offset * ahead).sum(-1)
    inside = along.square() - square * (offset.square().sum(-1) - 1)
    hit = inside > 0
    depth = (-along - inside.clamp(min=0).sqrt()) / square
    colors = texture(origins + depth[..., None] * directions) * hit[..., None]
    picture = colors.mT.unflatten(2, (side, side))
    return picture, *(part.float().view(-1, 1, side, side) for part in (hit, depth))


def mattes(count: int = 6, side: int = 64) -> Mattes:
    """Its mattes from a few sides; the face is its middle."""
    cameras = views(torch.linspace(-12, 12, count))
    _, matte, _ = photograph(cameras, side)
    x = torch.linspace(-1, 1, side)
    face = (x.square() + x[:, None].square() < 0.3).float().expand(count, 1, -1, -1)
    return Mattes(cameras, matte, face)
