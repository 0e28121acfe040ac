"""A tri-plane learns a head from pictures of it, by gradient descent through the renderer.

    python examples/triplane.py triplane.png    # a minute or two on a CPU

Nothing is downloaded: the head is made of ellipsoids that flow into each other, photographed by sphere tracing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from talk3d import cameras
from talk3d.ops import RenderOptions, render_rays
from talk3d.ops.volume import Decoder

__all__ = ["Size", "main", "make"]

_SKIN, _HAIR, _WOOL, _WHITE = (1, 0.78, 0.64), (0.36, 0.2, 0.13), (0.13, 0.52, 0.56), (1, 1, 1)
# ellipsoids: centre, radii, colour, whether there is one on each side
_PARTS = (
    ((0, 0.11, -0.005), (0.19, 0.19, 0.19), _SKIN, False),  # skull
    ((0, 0.01, 0.04), (0.165, 0.165, 0.145), _SKIN, False),  # face
    ((0, -0.085, 0.085), (0.08, 0.06, 0.075), _SKIN, False),  # chin
    ((0.08, -0.02, 0.095), (0.065, 0.062, 0.065), _SKIN, True),  # cheeks
    ((0, 0.02, 0.192), (0.027, 0.025, 0.03), _SKIN, False),  # nose
    ((0.188, 0.03, -0.005), (0.022, 0.05, 0.034), _SKIN, True),  # ears
    ((0, -0.18, -0.025), (0.072, 0.12, 0.072), _SKIN, False),  # neck
    ((0.07, 0.074, 0.118), (0.048, 0.05, 0.058), _WHITE, True),  # eyes
    ((0.072, 0.116, 0.108), (0.056, 0.03, 0.06), _SKIN, True),  # lids
    ((0, 0.18, -0.055), (0.218, 0.195, 0.205), _HAIR, False),  # hair
    ((0, 0.04, -0.11), (0.205, 0.19, 0.135), _HAIR, False),
    ((0.178, 0.125, -0.035), (0.045, 0.115, 0.08), _HAIR, True),
    ((-0.055, 0.268, 0.08), (0.15, 0.066, 0.105), _HAIR, False),
    ((0.115, 0.238, 0.075), (0.085, 0.06, 0.095), _HAIR, False),
    ((0, -0.46, -0.03), (0.33, 0.2, 0.17), _WOOL, False),  # jumper
    ((0.19, -0.38, -0.03), (0.15, 0.1, 0.12), _WOOL, True),
    ((0, -0.255, -0.025), (0.084, 0.05, 0.086), _WOOL, False),
)
# painted on from the front: centre, radii, bend, softness, colour, the colour painted on, whether on each side
_PAINT = (
    ((0.07, 0.068), (0.031, 0.032), 0, 0.06, (0.2, 0.5, 0.54), _WHITE, True),  # iris
    ((0.07, 0.068), (0.016, 0.017), 0, 0.1, (0.05, 0.04, 0.05), _WHITE, True),  # pupil
    ((0.061, 0.082), (0.011, 0.011), 0, 0.15, _WHITE, _WHITE, True),  # the light in it
    ((0.078, 0.16), (0.042, 0.009), -4, 0.2, _HAIR, _SKIN, True),  # brows
    ((0, -0.07), (0.056, 0.0085), 7, 0.2, (0.6, 0.2, 0.2), _SKIN, False),  # mouth
    ((0.108, -0.022), (0.03, 0.022), 0, 0.7, (1, 0.6, 0.5), _SKIN, True),  # blush
)
_CENTER, _RADII, _COLOR, _PAIRED = (torch.tensor(column) for column in zip(*_PARTS, strict=True))
_HEAT = torch.tensor([[0.99, 0.94, 0.7], [0.99, 0.54, 0.38], [0.72, 0.21, 0.475], [0.2, 0.06, 0.36]])  # near to far
_OPTIONS = RenderOptions(axes="zy", near="auto", far="auto", coarse=24, fine=24, white_back=True)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    plane: int = 128  # texels along a side
    views: int = 8  # cameras to fit to, in each of three rows
    view: int = 160  # pixels along a side of what they see
    steps: int = 400
    rays: int = 4096  # in a step
    tile: int = 240  # pixels along a side of a view in the picture


def _distances(points: Tensor) -> Tensor:
    """Distances of points ``[N, 3]`` to the parts ``[N, P]``, right to first order near each."""
    x, y, z = (points[:, k, None] for k in range(3))
    offset = torch.stack(torch.broadcast_tensors(torch.where(_PAIRED, x.abs(), x), y, z), dim=2) - _CENTER
    scaled, slope = torch.stack([offset / _RADII, offset / _RADII.square()]).square().sum(3).sqrt().unbind()
    return scaled * (scaled - 1) / slope.clamp(min=1e-6)


def _distance(points: Tensor) -> Tensor:
    smooth = -torch.logsumexp(-110 * _distances(points), dim=1) / 110  # parts blend where closer than 1/110 or so
    return smooth.maximum(points.abs().amax(1) - 0.495)  # the planes end at 0.5


def _shade(points: Tensor) -> Tensor:
    """Colour of the surface under a lamp, a sky and a light from behind; darker in crevices, matt everywhere."""
    share = torch.softmax(-900 * _distances(points), dim=1)
    color = share @ _COLOR
    for (cx, cy), (rx, ry), bend, softness, paint, ground, paired in _PAINT:
        x, y = (points[:, 0].abs() if paired else points[:, 0]) - cx, points[:, 1] - cy
        cover = torch.sigmoid((1 - torch.hypot(x / rx, (y - bend * x.square()) / ry)) / softness)
        cover = cover * (share @ (torch.tensor(ground) == _COLOR).all(1).float())
        color = torch.lerp(color, torch.tensor(paint).float(), cover[:, None])
    corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    normal = normalize(torch.stack([c * _distance(points + 1e-3 * c)[:, None] for c in corners]).sum(0), dim=1)
    lamp, back = (normal @ normalize(torch.tensor(to), dim=0)[:, None] for to in ((-0.45, 0.55, 0.9), (0.9, 0.3, -0.4)))
    light = (0.48 * lamp + 0.24).clamp(min=0) * torch.tensor([1, 0.95, 0.87])
    light = light + (0.4 + 0.06 * normal[:, 1:2] + 0.3 * back.clamp(min=0)) * torch.tensor([0.85, 0.92, 1])
    for reach, depth in ((0.02, 0.3), (0.06, 0.25), (0.12, 0.15)):
        light = light * (1 - depth * (1 - _distance(points + reach * normal)[:, None] / reach).clamp(0, 1))
    return (color * light).clamp(0, 1)


def _photograph(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Colour ``[N, 3]`` over white and opacity ``[N, 1]`` of the head itself along rays ``[N, 3]``: sphere tracing."""
    depth, alpha, color = torch.full_like(origins[:, :1], 1.9), torch.zeros(len(origins), 1), torch.ones_like(origins)
    live = torch.arange(len(origins))
    for _ in range(96):
        free = _distance(origins[live] + depth[live] * directions[live])
        depth[live] += free[:, None]
        alpha[live] = (free < 5e-4).float()[:, None]
        live = live[(free >= 5e-4) & (depth[live, 0] < 3.5)]
    color[alpha[:, 0] > 0] = _shade((origins + depth * directions)[alpha[:, 0] > 0])
    return color, alpha


def _views(yaws: Tensor, pitches: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Origins and directions ``[size * size, 3]`` for the pixels of cameras at all combinations of the angles."""
    poses = cameras.look_at(*torch.cartesian_prod(yaws, pitches).T, pivot=(0.0, 0.02, 0.0))
    return list(zip(*cameras.rays(poses, cameras.intrinsics(3.1), size), strict=True))


def _fit(pixels: Tensor, size: Size) -> tuple[Tensor, Decoder]:
    """Fit planes ``[1, 3, 32, P, P]`` and a decoder to pixels ``[N, 10]``: origin, direction, colour and opacity."""
    generator = torch.Generator().manual_seed(0)
    # the planes are the sum of a pyramid: what its coarse levels learn is smooth, and reaches where no ray went
    pyramid = [0.0025 * torch.randn(3, 32, size.plane >> k, size.plane >> k, generator=generator) for k in range(4)]
    w0, w1 = torch.randn(64, 32, generator=generator) / 32**0.5, torch.randn(33, 64, generator=generator) / 64**0.5
    decoder = w0, torch.zeros(64), w1, torch.zeros(33)
    leaves = [leaf.requires_grad_() for leaf in (*pyramid, *decoder)]
    adam = torch.optim.Adam(leaves, lr=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, size.steps)
    for _ in track(range(size.steps), "Fitting planes and decoder"):
        chosen = pixels[torch.randint(len(pixels), (1, size.rays), generator=generator)]
        origins, directions, color, alpha = chosen.split((3, 3, 3, 1), dim=2)
        jitter, u = torch.rand(2, 1, size.rays, _OPTIONS.coarse, generator=generator)
        levels = [interpolate(level, size.plane, mode="bilinear") for level in pyramid]
        planes = 10 * torch.stack(levels).sum(0)[None]  # so they learn ten times as fast as the decoder
        seen = render_rays(planes, decoder, origins, directions, _OPTIONS, jitter=jitter, u=u)
        error = (seen.features[..., :3] + 1 - 2 * color).abs().mean() + (seen.weight - alpha[..., 0]).abs().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
        schedule.step()
    return planes.detach(), decoder  # the last step has next to no length


@torch.no_grad()
def _render(model: tuple[Tensor, Decoder], view: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Colour ``[N, 3]`` over white, opacity ``[N, 1]`` and depth ``[N, 1]``."""
    seen = render_rays(*model, view[0][None], view[1][None], _OPTIONS)
    return seen.features[0, :, :3] / 2 + 0.5, seen.weight.T, seen.depth.T


def _image(pixels: Tensor, side: int) -> Image.Image:
    return Image.fromarray((pixels * 255).round().clamp(0, 255).byte().view(side, side, 3).numpy())


def _draw(model: tuple[Tensor, Decoder], size: Size, footer: str) -> Image.Image:
    """Draw the principal components of the planes, and three views with their depths."""
    tile, gap = size.tile, size.tile // 12
    side = 2 * (tile - gap) // 3
    sheet = Image.new("RGB", (side + 3 * tile + 4 * gap, 2 * tile + 4 * gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(0.65 * gap)
    features = model[0][0].permute(0, 2, 3, 1).flatten(0, 2)
    components = (features - features.mean(0)) @ torch.linalg.eigh(features.T.cov())[1][:, -3:]
    planes = (components / (6 * components.std(0)) + 0.5).view(3, size.plane, size.plane, 3).flip(1)  # rows go up
    for row, name in enumerate(("xy", "xz", "zy")):
        top = 2 * gap + row * (side + gap)
        sheet.paste(_image(planes[row], size.plane).resize((side, side)), (gap, top))
        draw.text((gap, top - 0.3 * gap), f"plane {name}", "dimgray", font, "ls")
    for column, yaw in enumerate((-35.0, 0.0, 35.0)):
        left = side + 3 * gap + column * tile
        color, alpha, depth = _render(model, *_views(torch.tensor([yaw]), torch.zeros(1), 2 * tile))
        heat = ((depth[:, 0] - 2.42) / 0.38).clamp(0, 0.999) * (len(_HEAT) - 1)
        heated = torch.lerp(_HEAT[heat.long()], _HEAT[heat.long() + 1], heat.frac()[:, None])
        for row, pixels in enumerate((color, 1 - alpha + alpha * heated)):
            sheet.paste(_image(pixels, 2 * tile).reduce(2), (left, 2 * gap + row * tile))
        draw.text((left + tile / 2, 1.7 * gap), f"yaw {yaw:.0f}°", "dimgray", font, "ms")
    draw.text((gap, sheet.height - 0.8 * gap), footer, "dimgray", font, "ls")
    return sheet


def make(size: Size) -> tuple[Image.Image, float]:
    """Make the picture; also returns the PSNR, in decibels, of six views that the planes were not fitted to."""
    views = _views(torch.linspace(-60, 60, size.views), torch.tensor([-20.0, 0, 20]), size.view)
    model = _fit(torch.cat([torch.cat([*view, *_photograph(*view)], dim=1) for view in views]), size)
    held_out = _views(torch.tensor([-35.0, 0, 35]), torch.tensor([-10.0, 10]), size.view)
    error = torch.cat([_render(model, view)[0] - _photograph(*view)[0] for view in held_out])
    psnr = -10 * error.square().mean().log10().item()
    footer = f"A tri-plane fitted to {len(views)} pictures through render_rays: new views ({psnr:.1f} dB) and depth"
    return _draw(model, size, footer), psnr


def main(out: Path) -> None:
    """Make the picture and write it, as PNG whatever the name of the file."""
    out.parent.mkdir(parents=True, exist_ok=True)  # before the work, as it may fail
    picture, psnr = make(Size())
    part = out.with_name(f".{out.name}.part")
    picture.save(part, "PNG", optimize=True)
    part.replace(out)
    print(f"{out}: views that the planes were not fitted to have a PSNR of {psnr:.1f} dB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "triplane.png"))
