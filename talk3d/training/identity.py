"""The identity stage from scratch: a person at rest from frames, geometry held by a head proxy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, softplus

from talk3d import cameras as cams
from talk3d.models.compositing import composite
from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.face import FaceMesh, depth_error
from talk3d.training.lean import absolute, again
from talk3d.training.pictures import grid, pixels, shape_pictures
from talk3d.training.proxy import HeadProxy, fit_proxy
from talk3d.training.pyramid import PlanePyramid
from talk3d.training.refine import mattes_of, refine_track
from talk3d.training.rest import Rest
from talk3d.training.stage import StageContext, uniform
from talk3d.training.targets import EYES, FACE, MOUTH, Target, over_color, spread
from talk3d.training.transfer import moved

__all__ = ["IdentityStage"]

_WARM_RATE, _FINAL_RATE = 3.0, 0.1
# raw density in the proxy and out of it, and how soon it is reached; light goes 4 mm deep
_DENSE, _EMPTY, _RAMP = 100.0, -5.0, 0.015
_POINTS = 4096  # of the volume, in each step
_FACE_POINTS = 1024  # of the mesh
_PAINTED = 0.12  # 4 cm: how far behind the surface its colour goes on
_EDGE = 0.01  # 4 mm from pixel to pixel
_DILATED, _ERODED = 0.02, 0.03  # the proxy is not the person: what it forbids is farther out, what it fills farther in
_SIDE_VIEW, _SIDE_SAMPLES, _SIDE_FOCAL = 32, 40, 3.0  # wide enough for hair and shoulders
_SIDE_YAW, _SIDE_PITCH = 60.0, 20.0
_REFINED = 0.25  # share of the steps after which cameras move: before, the head is too coarse to say where to
_MEASURED, _SHOWN = 8, 3  # held-out frames


class _Shot(NamedTuple):
    """A frame that was rendered, and what it is compared with, at the size of the view."""

    frame: int
    camera: Tensor
    view: View
    image: Tensor
    matte: Tensor
    plate: Tensor
    weights: Tensor


class IdentityStage:
    """Trains planes, decoder and cameras; see :class:`talk3d.training.stage.Stage`.

    At first the density learns to be that of the proxy. Then each step renders one frame's view over the plate or, in
    half of the steps, over a colour, and compares it with the frame; the proxy says what is empty and what is full
    where no frame looks, at points of the volume and in views from the side.

    Args:
        context: What stages share.

    Attributes:
        pyramid: What is trained of the planes; the identity's own are its sum.
        proxy: The closed head, or None if the configuration does without.
    """

    name = "identity"

    def __init__(self, context: StageContext) -> None:
        self.context, self.config = context, context.config.identity
        self.warmup = self.config.warmup if self.config.proxy else 0
        self.steps = self.warmup + self.config.steps
        identity, device = context.identity, context.device
        # of its own, so that it does not depend on what was made before
        generator = torch.Generator().manual_seed(context.config.seed)
        self.pyramid = PlanePyramid(tuple(identity.planes.shape), self.config.levels, generator).to(device)
        self._rest = Rest(context.targets)
        self._held_out = context.targets.frames("val")
        face = FaceMesh(torch.from_numpy(context.targets.dataset.mesh).float())
        self.face = face.to(device)
        if self.config.refine:
            refine_track(context, face, steps=self.config.refine)
        self._start = context.cameras.correction.detach().clone()
        self.proxy: HeadProxy | None = None
        if self.config.proxy:
            box = identity.config.rendering.box_warp
            self.proxy = fit_proxy(face.positions, mattes_of(context), box_warp=box).to(device)
        self._seen = ""
        self._compose()

    def begin(self) -> None:
        """Say what is trained."""
        self.context.identity.requires_grad_(False)
        self.context.identity.decoder.requires_grad_(True)
        self.context.cameras.requires_grad_(self.config.camera_rate > 0)

    def modules(self) -> dict[str, nn.Module]:
        """The identity, its planes' pyramid, and the cameras."""
        return {"identity": self.context.identity, "pyramid": self.pyramid, "cameras": self.context.cameras}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        config = self.config
        groups = [
            {"params": list(self.pyramid.parameters()), "lr": config.plane_rate},
            {"params": list(self.context.identity.decoder.parameters()), "lr": config.decoder_rate},
        ]
        if config.camera_rate:
            groups.append({"params": list(self.context.cameras.parameters()), "lr": config.camera_rate})
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Large in the warm-up, which has far to go; then a cosine to a tenth."""
        if step < self.warmup:
            return _WARM_RATE
        share = (step - self.warmup) / max(self.config.steps, 1)
        return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The warm-up's regression, or what a frame, points and a view from the side say."""
        planes = self.pyramid()
        if step < self.warmup:
            self._seen = "points of the proxy"
            return {"proxy": self._regression(planes, generator)}
        share = (step - self.warmup) / self.config.steps
        weights = vars(self.config.losses)
        late = 0.5 if share >= 0.5 else 1.0
        shot = self._shot(planes, share, generator)
        terms = self._frame(shot, generator)
        terms["smooth"] = again(_variation, planes)
        if self.proxy is not None:
            terms |= self._points(planes, shot, generator)
            if step % 2:
                terms["side"] = self._side(planes, generator)
            for name in ("mesh", "outside", "inside", "paint", "side"):
                if name in terms:
                    terms[name] = late * terms[name]
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}

    def batch(self) -> str:
        """The frame."""
        return self._seen

    def stepped(self, step: int) -> None:
        """Give the identity its planes."""
        self._compose()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Faces of held-out frames, but for lips and lids, at the size of the view; and the person's outline."""
        ratios, overlaps = [], []
        for index in spread(self._held_out, _MEASURED):
            target = self.context.targets([index])
            view = self.context.identity.render(self.context.identity.planes, self.context.cameras(target.index))
            image = composite(view.features[:, :3], view.weight, target.view_plate)
            region = target.view_regions[:, FACE, None] * _still_pixels(target)
            ratios.append(losses.psnr(image, target.view_image, region))
            seen, person = view.weight > 0.5, target.view_matte > 0.5
            overlaps.append((seen & person).sum() / (seen | person).sum())
        return {"psnr": torch.stack(ratios).mean().item(), "outline": torch.stack(overlaps).mean().item()}

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Frames beside renders, depth and normals; below them views from the side, which no frame shows."""
        context, scene = self.context, self.context.identity.config
        rows = []
        for index in spread(self._held_out, _SHOWN):
            target = context.targets([index])
            view, shape = self._look(context.cameras(target.index))
            image = composite(view.features[:, :3], view.weight, target.view_plate)
            rows.append([pixels(target.view_image[0]), pixels(image[0]), *shape])
        looks = [self._look(scene.camera(yaw).to(context.device)[None]) for yaw in (-45.0, -30.0, 30.0, 45.0)]
        white = torch.ones(3, 1, 1, device=context.device)
        rows.append([pixels(view.features[0, :3] + 2 * (1 - view.weight[0]) * white) for view, _ in looks])
        rows.append([normals for _, (_, normals) in looks])
        return {"identity": grid(rows)}

    def _look(self, camera: Tensor) -> tuple[View, list[Tensor]]:
        """A view, and pictures of its shape."""
        view = self.context.identity.render(self.context.identity.planes, camera)
        return view, shape_pictures(view, camera)

    def _compose(self) -> None:
        with torch.no_grad():
            self.context.identity.planes.copy_(self.pyramid())

    def _regression(self, planes: Tensor, generator: torch.Generator) -> Tensor:
        """Raw density against a ramp across the proxy's surface; half of the points are near it."""
        assert self.proxy is not None
        points = self._random_points(generator, 2 * _POINTS)
        distance = self.proxy(points)
        # of twice as many, those that are nearest
        keep = distance.abs().topk(_POINTS // 2, largest=False, dim=1).indices
        points = torch.cat((points.gather(1, keep[..., None].expand(-1, -1, 3)), points[:, : _POINTS // 2]), 1)
        wanted = (-_DENSE / _RAMP * self.proxy(points)).clamp(_EMPTY, _DENSE)
        density, _ = self.context.identity.query(planes, points)
        return 0.1 * (density - wanted).abs().mean()

    def _shot(self, planes: Tensor, share: float, generator: torch.Generator) -> _Shot:
        """Draw a frame and render it."""
        context = self.context
        index = self._rest.draw(generator)
        self._seen = f"frame {index}"
        target = context.targets([index])
        if torch.rand((), generator=generator) < 0.5:
            target = over_color(target, uniform(generator, context.device, 3) * 2 - 1)
        side = _side_of(context.identity.config.resolution, share)
        camera = context.cameras(target.index)
        camera = camera if self._moves(share) else camera.detach()
        options, device = context.identity.config.rendering, context.device
        jitter, u = (uniform(generator, device, 1, side * side, count) for count in (options.coarse, options.fine))
        view = context.identity.render(planes, camera, resolution=side, jitter=jitter, u=u if options.fine else None)
        weights = self._rest.weights(target.frames, target.view_regions)
        parts = (target.view_image, target.view_matte, target.view_plate, weights)
        return _Shot(index, camera, view, *(_sized(part, side) for part in parts))

    def _frame(self, shot: _Shot, generator: torch.Generator) -> dict[str, Tensor]:
        """A frame's colour, matte, and the depth of its face."""
        raw = composite(shot.view.features[:, :3], shot.view.weight, shot.plate)
        terms = {
            "color": (absolute(raw - shot.image) * shot.weights).mean(),
            "matte": losses.matte(shot.view.weight, shot.matte),
        }
        if self.proxy is not None:
            terms["mesh"] = depth_error(shot.view, shot.camera, self.face.sample(generator, _FACE_POINTS))
            terms["bend"] = _bend(shot.view.depth)
        if shot.camera.requires_grad:
            turn, shift = (self.context.cameras.correction[shot.frame] - self._start[shot.frame]).split(3)
            terms["camera"] = torch.rad2deg(turn).square().mean() + (100 * shift).square().mean()
        return terms

    def _moves(self, share: float) -> bool:
        return self.config.camera_rate > 0 and share >= _REFINED

    def _points(self, planes: Tensor, shot: _Shot, generator: torch.Generator) -> dict[str, Tensor]:
        """What random points say, means over all.

        Density outside the dilated proxy; what is missing of it inside the eroded one; and the colour of what is just
        behind the frame's surface, against the frame: the side of the head, which no frame shows, looks like its edge.
        """
        assert self.proxy is not None
        points = self._random_points(generator, _POINTS)
        distance = self.proxy(points)
        density, colors = self.context.identity.query(planes, points)
        outside = softplus(density - 1) * (distance > _DILATED)
        inside = (1 - density / _DENSE).clamp(min=0) * (distance < -_ERODED)
        camera = shot.camera.detach()
        where = (2 * losses.project(points, camera) - 1)[:, None]
        behind = (points - camera[:, None, 3:12:4]).norm(dim=2) - _at(shot.view.depth.detach(), where)[:, 0]
        near = (distance.abs() < _DILATED) & (behind > 0) & (behind < _PAINTED) & (where[:, 0].abs().amax(2) < 1)
        share = near * _at(shot.matte * shot.weights, where)[:, 0]
        wanted = (_at(shot.image, where) + 1) / 2
        paint = share * (colors[..., :3].mT - wanted).abs().mean(1)
        return {"outside": outside.mean(), "inside": inside.mean(), "paint": paint.sum() / share.sum().clamp(min=1)}

    def _side(self, planes: Tensor, generator: torch.Generator) -> Tensor:
        """Opacity from a random side, where the proxy knows what it must be; mean over pixels."""
        assert self.proxy is not None
        scene = self.context.identity.config
        yaw, pitch = ((torch.rand(2, generator=generator) * 2 - 1) * torch.tensor([_SIDE_YAW, _SIDE_PITCH])).tolist()
        pose = cams.look_at(yaw, pitch, radius=scene.radius, pivot=scene.pivot)
        camera = moved(cams.pack(pose, cams.intrinsics(_SIDE_FOCAL))[None], planes.device)
        # colours are left out where neighbouring weights are at most this, hence everywhere
        options = replace(scene.rendering, min_weight=2.0)
        count = _SIDE_VIEW**2
        jitter = uniform(generator, planes.device, 1, count, options.coarse)
        seen = self.context.identity.render(planes, camera, resolution=_SIDE_VIEW, options=options, jitter=jitter)
        origins, directions = cams.rays(*cams.unpack(camera), _SIDE_VIEW)
        # the box's diagonal, around the origin
        reach = torch.linspace(-0.6, 0.6, _SIDE_SAMPLES, device=planes.device) * scene.rendering.box_warp
        depths = (scene.radius + reach)[:, None]
        along = origins[:, :, None] + depths * directions[:, :, None]
        distance = self.proxy(along)
        nearest = distance.amin(2).view_as(seen.weight)
        outside, inside = nearest > _DILATED, nearest < -_ERODED
        opacity = seen.weight * outside + (1 - seen.weight) * inside
        # what is in front of the head is also in front of rays that end in it
        first = (distance < _DILATED).float().argmax(2)
        bound = depths[first, 0].view_as(seen.depth) - (depths[1, 0] - depths[0, 0])
        floating = (bound - seen.depth).clamp(min=0) * inside
        return (opacity + floating / _DILATED).mean()

    def _random_points(self, generator: torch.Generator, count: int) -> Tensor:
        box = self.context.identity.config.rendering.box_warp
        return (uniform(generator, self.context.device, 1, count, 3) - 0.5) * box


def _still_pixels(target: Target) -> Tensor:
    """How much of each pixel of a view is neither lips nor lids."""
    return 1 - target.view_regions[:, MOUTH : EYES + 1].amax(1, keepdim=True)


def _at(picture: Tensor, where: Tensor) -> Tensor:
    """Look up a picture ``[1, C, H, W]`` at places ``[1, 1, P, 2]``: ``[1, C, P]``."""
    return grid_sample(picture, where, padding_mode="border", align_corners=False)[:, :, 0]


def _bend(depth: Tensor) -> Tensor:
    """Mean second difference of depth, as in a view of 64 pixels; large ones are edges."""
    scale = (depth.shape[3] / 64) ** 2  # of half as large pixels it is a quarter
    bends = [(scale * depth.diff(n=2, dim=dim).abs()).clamp(max=_EDGE).mean() for dim in (2, 3)]
    return bends[0] + bends[1]


def _variation(planes: Tensor) -> Tensor:
    """Mean squared difference of neighbouring texels."""
    return planes.diff(dim=3).square().mean() + planes.diff(dim=4).square().mean()


def _side_of(view: int, share: float) -> int:
    """Pixels along a side of the view in training: large views begin at half their size, and are whole at the end."""
    if view <= 64:
        return view
    return view // 2 if share < 0.4 else view * 3 // 4 if share < 0.7 else view


def _sized(picture: Tensor, side: int) -> Tensor:
    return picture if picture.shape[3] == side else interpolate(picture, (side, side), mode="area")
