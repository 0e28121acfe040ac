"""The demo: a tri-plane learns a head from pictures, by gradient descent through the renderer; nothing is downloaded.

The head is made of ellipsoids that flow into each other. Sphere tracing takes its pictures; from these alone, planes
and decoder are fitted through :func:`talk3d.ops.render_rays`, and then seen from where no picture was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize

from talk3d import cameras
from talk3d.ops import RenderOptions, render_rays
from talk3d.ops.volume import Decoder

__all__ = ["Size", "main", "make"]

_SKIN, _HAIR, _WHITE, _WOOL, _DARK = (1, 0.78, 0.64), (0.36, 0.2, 0.13), (1, 1, 1), (0.13, 0.52, 0.56), (0.05, 0.04, 0.05)
# ellipsoids: centre, radii, colour, whether there is one on each side
_PARTS = (
    ((0, 0.11, -0.005), (0.19, 0.19, 0.19), _SKIN, False),  # skull
    ((0, 0.01, 0.04), (0.165, 0.165, 0.145), _SKIN, False),  # face
    ((0, -0.085, 0.085), (0.08, 0.06, 0.075), _SKIN, False),  # chin
    ((0.08, -0.02, 0.095), (0.065, 0.062, 0.065), _SKIN, True),  # cheeks
    ((0, 0.02, 0.192), (0.027, 0.025, 0.03), _SKIN, False),  # nose
    ((0, 0.055, 0.168), (0.018, 0.045, 0.022), _SKIN, False),
    ((0.188, 0.03, -0.005), (0.022, 0.05, 0.034), _SKIN, True),  # ears
    ((0, -0.18, -0.025), (0.072, 0.12, 0.072), _SKIN, False),  # neck
    ((0.07, 0.074, 0.118), (0.048, 0.05, 0.058), _WHITE, True),  # eyes
    ((0.072, 0.116, 0.108), (0.056, 0.03, 0.06), _SKIN, True),  # lids
    ((0, 0.18, -0.055), (0.218, 0.195, 0.205), _HAIR, False),
    ((0, 0.04, -0.11), (0.205, 0.19, 0.135), _HAIR, False),
    ((0.178, 0.125, -0.035), (0.045, 0.115, 0.08), _HAIR, True),
    ((-0.055, 0.268, 0.08), (0.15, 0.066, 0.105), _HAIR, False),
    ((0.115, 0.238, 0.075), (0.085, 0.06, 0.095), _HAIR, False),
    ((0.03, 0.335, 0.02), (0.14, 0.05, 0.12), _HAIR, False),
    ((0, -0.46, -0.03), (0.33, 0.2, 0.17), _WOOL, False),  # jumper
    ((0.19, -0.38, -0.03), (0.15, 0.1, 0.12), _WOOL, True),
    ((0, -0.255, -0.025), (0.084, 0.05, 0.086), _WOOL, False),
)
# painted on from the front: on what, centre, radii, bend, softness, colour, opacity, whether there is one on each side
_PAINT = (
    (_WHITE, (0.066, 0.068), (0.031, 0.032), 0, 0.06, (0.18, 0.42, 0.44), 1, True),  # iris
    (_WHITE, (0.066, 0.063), (0.02, 0.02), 0, 0.1, (0.36, 0.68, 0.64), 0.8, True),
    (_WHITE, (0.066, 0.068), (0.015, 0.016), 0, 0.1, _DARK, 1, True),  # pupil
    (_WHITE, (0.056, 0.081), (0.0085, 0.0085), 0, 0.2, _WHITE, 1, False),  # the light in the eyes
    (_WHITE, (-0.076, 0.081), (0.0085, 0.0085), 0, 0.2, _WHITE, 1, False),
    (_SKIN, (0.078, 0.16), (0.042, 0.009), -4, 0.2, _HAIR, 1, True),  # brows
    (_SKIN, (0, -0.07), (0.056, 0.0085), 7, 0.2, (0.6, 0.2, 0.2), 1, False),  # mouth
    (_SKIN, (0, -0.088), (0.03, 0.008), 6, 0.2, (0.93, 0.5, 0.46), 0.8, False),
    (_SKIN, (0.108, -0.022), (0.032, 0.024), 0, 0.3, (1, 0.45, 0.38), 0.45, True),  # blush
)
_VIEW: dict[str, Any] = {"radius": 2.7, "pivot": (0.0, 0.02, 0.0)}
_PLATE = (0.93, 0.94, 0.955)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        plane: Texels along a side of each plane.
        views: Training cameras in each of three rows, at pitches -20, 0 and 20.
        view: Pixels along a side of a training picture.
        steps: Steps of gradient descent.
        rays: Rays in each step.
        samples: Samples along a training ray in each of two passes; pictures of the result take twice as many.
        tile: Pixels along a side of a picture of the result.
        frames: Frames of the turntable.
    """

    plane: int = 128
    views: int = 8
    view: int = 128
    steps: int = 400
    rays: int = 4096
    samples: int = 24
    tile: int = 256
    frames: int = 24


class _Pictures(NamedTuple):
    origins: Tensor  # [B, R, 3]
    directions: Tensor  # [B, R, 3]
    color: Tensor  # [B, R, 3], 0 where there is nothing
    alpha: Tensor  # [B, R], 0 or 1


def _quadrics() -> Tensor:
    """How much of ``x, y, z, |x|, x^2, y^2, z^2, 1`` is in ``|q / r|^2``, then ``|q / r^2|^2``, of each part, [8, 2P]."""
    center, radii, _, paired = (torch.tensor(column) for column in zip(*_PARTS, strict=True))
    rows = []
    for scale in (radii**-2, radii**-4):
        x, yz = (-2 * center * scale).split((1, 2), 1)
        constant = (center.square() * scale).sum(1, keepdim=True)
        rows.append(torch.cat([x * ~paired[:, None], yz, x * paired[:, None], scale, constant], dim=1))
    return torch.cat(rows).T.contiguous()


_QUADRICS = _quadrics()
_PART_COLORS = torch.tensor([part[2] for part in _PARTS])


def _distances(points: Tensor) -> Tensor:
    """Distance of points ``[N, 3]`` to each part, to first order (as of Quilez, "ellipsoid SDF")."""
    terms = torch.cat([points, points[:, :1].abs(), points.square(), torch.ones_like(points[:, :1])], dim=1)
    first, second = (terms @ _QUADRICS).clamp(min=1e-9).sqrt().chunk(2, dim=1)
    return first * (first - 1) / second


def _distance(points: Tensor) -> Tensor:
    flowing = -torch.logsumexp(-110 * _distances(points), dim=1) / 110
    return flowing.maximum(points.abs().amax(1) - 0.495)  # what the planes cover


def _albedo(points: Tensor) -> Tensor:
    share = torch.softmax(-900 * _distances(points), dim=1)
    color = share @ _PART_COLORS
    for ground, (cx, cy), radii, bend, soft, paint, opacity, paired in _PAINT:
        x = (points[:, 0].abs() if paired else points[:, 0]) - cx
        y = points[:, 1] - cy - bend * x.square()
        cover = opacity * torch.sigmoid((1 - torch.hypot(x / radii[0], y / radii[1])) / soft)
        cover = cover * (share @ (_PART_COLORS == torch.tensor(ground)).all(1).float()) * (points[:, 2] > 0.05)
        color = torch.lerp(color, torch.tensor(paint, dtype=color.dtype), cover[:, None])
    return color


def _shade(points: Tensor) -> Tensor:
    """Colour of the surface: key light, sky, rim light and the shade of crevices; the same from everywhere."""
    corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    normal = normalize(sum(corner * _distance(points + 1e-3 * corner)[:, None] for corner in corners), dim=1)
    key, rim = normalize(torch.tensor([[-0.45, 0.55, 0.9], [0.9, 0.3, -0.4]]), dim=1)
    hidden = sum(
        share * (1 - _distance(points + reach * normal) / reach).clamp(min=0)
        for reach, share in ((0.02, 0.24), (0.06, 0.21), (0.12, 0.15))
    )
    light = ((normal @ key + 0.5) * 0.48).clamp(min=0)[:, None] * torch.tensor([1, 0.95, 0.87])
    light = light + (0.4 + 0.06 * normal[:, 1:2]) * torch.tensor([0.86, 0.92, 1])
    light = light + 0.3 * (normal @ rim).clamp(min=0)[:, None] * torch.tensor([0.8, 0.9, 1])
    return (_albedo(points) * light * (1 - hidden)[:, None]).clamp(0, 1)


def _trace(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Colour ``[N, 3]`` and opacity ``[N]`` of the head itself along rays ``[N, 3]``, by sphere tracing."""
    depth, alpha = torch.full_like(origins[:, 0], 1.9), torch.zeros_like(origins[:, 0])
    live = torch.arange(len(origins))
    for _ in range(96):
        free = _distance(origins[live] + depth[live, None] * directions[live])
        depth[live] += free
        alpha[live] = (free < 5e-4).float()
        live = live[(free >= 5e-4) & (depth[live] < 3.5)]
    color, hit = torch.zeros_like(origins), alpha > 0
    color[hit] = _shade((origins + depth[:, None] * directions)[hit])
    return color, alpha


def _rays(yaw: Tensor, pitch: Tensor, size: int) -> tuple[Tensor, Tensor]:
    origins, directions = cameras.rays(cameras.look_at(yaw, pitch, **_VIEW), cameras.intrinsics(3.1), size)
    return origins.flatten(0, -2), directions.flatten(0, -2)


def _truth(yaw: Tensor, pitch: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins, directions, colour ``[N, 3]`` and opacity ``[N]`` of all pixels of some views."""
    origins, directions = _rays(yaw, pitch, size)
    chunks = zip(origins.split(1 << 14), directions.split(1 << 14), strict=True)  # what fits into a cache
    color, alpha = zip(*(_trace(*chunk) for chunk in chunks), strict=True)
    return origins, directions, torch.cat(color), torch.cat(alpha)


def _fit(views: tuple[Tensor, ...], size: Size, generator: torch.Generator) -> tuple[Tensor, Decoder]:
    """Fit planes ``[1, 3, 32, P, P]`` and a decoder to what is seen along rays."""

    def normal(*shape: int, scale: float) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).requires_grad_()

    texels = normal(1, 3, size.plane, size.plane, 32, scale=0.1)
    decoder = normal(64, 32, scale=32**-0.5), normal(64, scale=0), normal(33, 64, scale=1 / 8), normal(33, scale=0)
    planes = texels.permute(0, 1, 4, 2, 3)  # channels last
    options = _options(size.samples)
    adam = torch.optim.Adam([{"params": [texels], "lr": PLR}, {"params": decoder, "lr": DLR}], betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, size.steps)
    for _ in track(range(size.steps), "Fitting planes and decoder"):
        chosen = torch.randint(len(views[0]), (size.rays,), generator=generator)
        origins, directions, color, alpha = (part[chosen][None] for part in views)
        jitter, u = (torch.rand(1, size.rays, size.samples, generator=generator) for _ in range(2))
        seen = render_rays(texels.permute(0, 1, 4, 2, 3), decoder, origins, directions, options, jitter=jitter, u=u)
        loss = (seen.features[..., :3] + 1 - 2 * color).abs().mean() + (seen.weight - alpha).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return planes.detach(), tuple(part.detach() for part in decoder)


def _options(samples: int) -> RenderOptions:
    return RenderOptions(axes="zy", near="auto", far="auto", coarse=samples, fine=samples)
