"""Photometric refinement of tracked cameras: the same points of the head look the same in all frames.

A face tracker turns the head by less than it turned: it believes in its average face. Its landmarks cannot say so, they
are its own; the frames can. Points on the face and on the head around it are projected into frames from all over the
clip; what they show there, less its surroundings, shall not change (direct bundle adjustment, as in Alismail, Browning
and Lucey 2016). What is found is a trend, by how much more the head turns than was tracked, and a rest for each frame.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, normalize, pad

from talk3d import cameras as cams
from talk3d.data.facemesh import CHIN
from talk3d.training.cameras import rotation
from talk3d.training.face import FaceMesh
from talk3d.training.proxy import Mattes, fit_parts, surface
from talk3d.training.stage import StageContext
from talk3d.training.targets import FACE, spread

__all__ = ["Points", "Refined", "mattes_of", "refine_cameras", "refine_track"]

_MATTES, _FRAMES = 12, 80  # training frames that are enough
_POINTS_VIEW = 40  # pixels of a frontal view, each a point
_NECK = 0.03  # so far above the chin the neck, which turns less, is not seen
_SIDE = 128  # pixels of the frames
# pixels of the window whose mean is taken off, in one part of the steps after the other: wide ones see farther
_SURROUNDINGS = (25, 13, 7)
_FACING = 0.35  # cosine at which a surface is no longer seen well
_MARGIN = 0.48  # how far from the picture's middle a point may be
# Adam's learning rates: a trend is a share of an angle, the rest in radians and units of the world, depth in these
_TREND_RATE, _REST_RATE, _DEPTH_RATE = 5e-3, 3e-4, 5e-4
# how much is held to the track, and to the points: weights of squares, in standard deviations of 1 degree (0.0175 of
# the world's units are about as far at the face) and of 4 mm
_REST_PRIOR, _REST_SPREAD = 0.003, 0.0175
_DEPTH_PRIOR, _DEPTH_SPREAD = 0.0003, 0.01
_STRETCH_PRIOR = 0.01  # the same for the share by which all of the face is deeper, or flatter
# a flatter face that turns more looks alike (the bas-relief ambiguity), unless it turns far: a tracker is believed to
# within a tenth of a turn. Without it a head that turned by 5 degrees was taken to have turned by half as much again
_TREND_PRIOR, _TREND_FREE = 0.1, 0.1


class Points(NamedTuple):
    """Points on the head's surface that do not move against it.

    Attributes:
        positions: World coordinates ``[P, 3]``.
        normals: ``[P, 3]``.
    """

    positions: Float[Tensor, "point 3"]
    normals: Float[Tensor, "point 3"]


class Refined(NamedTuple):
    """Corrections, as :class:`talk3d.training.cameras.CameraTrack` has them.

    Attributes:
        trend: What a change of tracked yaw and pitch, in radians from their mean, adds ``[2, 6]``.
        mean: That mean ``[2]``.
        rest: Of each frame ``[K, 6]``.
    """

    trend: Float[Tensor, "2 6"]
    mean: Float[Tensor, " 2"]
    rest: Float[Tensor, "frame 6"]

    def of(self, cameras: Float[Tensor, "frame 25"]) -> Float[Tensor, "frame 6"]:
        """The trend's corrections of tracked cameras."""
        return (_yaw_pitch(cameras) - self.mean) @ self.trend


def refine_cameras(
    images: Float[Tensor, "frame 3 height width"],
    cameras: Float[Tensor, "frame 25"],
    points: Points,
    *,
    steps: int,
    taught: Bool[Tensor, " frame"] | None = None,
) -> Refined:
    """Refine cameras.

    Args:
        images: Frames from all over a clip, a hundred or so.
        cameras: As tracked.
        points: What is looked at; their depth is refined on the way.
        steps: Of Adam.
        taught: Which frames say what points look like, how deep they are, and what the trend is ``[K]``; the others
            only find their place. By default all.
    """
    taught = torch.ones(len(cameras), dtype=torch.bool) if taught is None else taught
    learns = taught[:, None]
    details = [_details(images, window) for window in _SURROUNDINGS]
    poses, intrinsics = cams.unpack(cameras)
    angles = _yaw_pitch(cameras)
    mean = angles[taught].mean(0)
    positions, normals = points
    middle = positions[:, 2].median()
    trend, rest = torch.zeros(2, 6, requires_grad=True), torch.zeros(len(cameras), 6, requires_grad=True)
    stretch, depth = torch.zeros((), requires_grad=True), torch.zeros(len(positions), requires_grad=True)
    forward = torch.tensor([0.0, 0.0, 1.0])
    rates = (_TREND_RATE, _REST_RATE, _DEPTH_RATE)
    groups = zip(([trend, stretch], [rest], [depth]), rates, strict=True)
    adam = torch.optim.Adam([{"params": group, "lr": rate} for group, rate in groups], betas=(0.9, 0.99))
    for step in range(steps):
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        usual_way = (angles - mean) @ trend
        turn, shift = (torch.where(learns, usual_way, usual_way.detach()) + rest).split(3, dim=1)
        axes = rotation(turn)
        eyes = (axes @ poses[:, :3, 3:])[..., 0] + shift
        moved = positions + (stretch * (positions[:, 2] - middle) + depth)[:, None] * forward
        toward = eyes[:, None] - torch.where(learns[..., None], moved, moved.detach())
        pixels = -(toward @ (axes @ poses[:, :3, :3])) @ intrinsics.mT
        where = pixels[..., :2] / pixels[..., 2:]
        seen = (normalize(toward, dim=-1) * normals).sum(-1) > _FACING
        seen = (seen & ((where - 0.5).abs() < _MARGIN).all(-1)).float()
        looks = grid_sample(details[len(details) * step // steps], (2 * where - 1)[:, None], align_corners=False)[
            :, :, 0
        ]
        shown = seen * learns
        usual = (looks * shown[:, None]).sum(0) / shown.sum(0).clamp(min=1)
        usual = torch.where(learns[..., None], usual, usual.detach())
        # square roots of squares: what shines in one frame does not count for more
        error = ((looks - usual).square().sum(1) + 1e-4).sqrt()
        loss = (error * seen).sum() / seen.sum().clamp(min=1)
        loss = loss + _REST_PRIOR * (rest / _REST_SPREAD).square().mean()
        loss = loss + _DEPTH_PRIOR * (depth / _DEPTH_SPREAD).square().mean() + _STRETCH_PRIOR * stretch.square()
        loss = loss + _TREND_PRIOR * (trend.abs() - _TREND_FREE).clamp(min=0).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Refined(trend.detach(), mean, rest.detach())


def mattes_of(context: StageContext) -> Mattes:
    """Mattes of training frames from the one side to the other: extremes say most about depth."""
    targets = context.targets
    ordered = sorted(targets.frames("train"), key=lambda i: float(targets.dataset.angles[i][1]))
    target = targets(spread(ordered, _MATTES))
    parts = (context.cameras(target.index).detach(), target.matte, target.regions[:, FACE, None])
    return Mattes(*(part.cpu() for part in parts))


def refine_track(context: StageContext, face: FaceMesh, *, steps: int) -> None:
    """Correct the cameras of all frames; what the person looks like is learned from training frames alone."""
    targets, cameras = context.targets, context.cameras
    frames = {split: targets.frames(split) for split in targets.dataset.splits}
    train = len(frames["train"])
    chosen = {split: spread(found, max(_FRAMES * len(found) // train, 2)) for split, found in frames.items()}
    listed = [index for found in chosen.values() for index in found]
    taught = torch.tensor([split == "train" for split, found in chosen.items() for _ in found])
    images = torch.cat([targets([i]).image for i in listed]).cpu()
    tracked = cameras.tracked.cpu()
    points = _surface(face, mattes_of(context), context.identity.config.camera())
    refined = refine_cameras(images, tracked[listed], points, steps=steps, taught=taught)
    correction = refined.of(tracked)
    # the rest changes slowly, but not from split to split
    rests = refined.rest.split([len(found) for found in chosen.values()])
    for (split, found), rest in zip(chosen.items(), rests, strict=True):
        for k, values in enumerate(rest.T):
            between = np.interp(frames[split], found, values.numpy())
            correction[frames[split], k] += torch.from_numpy(between).float()
    with torch.no_grad():
        cameras.correction.copy_(correction)


def _surface(face: FaceMesh, mattes: Mattes, camera: Tensor) -> Points:
    """The rigid part of the face, and hair and ears beside it: what is far from the face says how it turns."""
    points, normals, pixels = surface(fit_parts(face.positions, mattes), camera[None], _POINTS_VIEW)
    frontal = mattes.cameras[:, 3].abs().argmin()  # whose camera is the least to a side
    covered = interpolate(mattes.face[frontal, None], (_POINTS_VIEW,) * 2, mode="area").flatten()[pixels]
    beside = (covered < 0.3) & (points[:, 1] > face.positions[CHIN, 1] + _NECK) & (normals[:, 2] > _FACING)
    return Points(
        torch.cat((face.positions[face.rigid], points[beside])), torch.cat((face.normals[face.rigid], normals[beside]))
    )


def _details(images: Tensor, window: int) -> Tensor:
    """Frames without what is smooth, for lamps stand still while the head turns; and without the finest noise."""
    small = interpolate(images, (_SIDE, _SIDE), mode="area")
    reach = window // 2
    padded = pad(small, (reach,) * 4, mode="replicate")
    # one axis after the other: a pool's time grows with its area
    fine = small - avg_pool2d(avg_pool2d(padded, (window, 1), stride=1), (1, window), stride=1)
    bell = torch.exp(-torch.arange(-2.0, 3.0).square() / 2)
    bell = bell / bell.sum()
    return conv2d(fine, (bell[:, None] * bell).expand(3, 1, 5, 5), padding=2, groups=3)


def _yaw_pitch(cameras: Tensor) -> Tensor:
    """Radians ``[K, 2]``."""
    poses, _ = cams.unpack(cameras)
    return torch.deg2rad(torch.stack(cams.angles(poses)[:2], -1))
