from __future__ import annotations

import math

import torch

from talk3d import cameras as cams
from talk3d.training.cameras import CameraTrack
from talk3d.training.refine import Points, refine_cameras
from tests.training.heads import CENTER, RADII, photograph, views


def _ball() -> Points:
    """The front of the head."""
    turn = torch.arange(250) * (math.pi * (3 - 5**0.5))
    height = torch.linspace(0.35, 1, 250)
    ball = torch.stack(((1 - height**2).sqrt() * turn.cos(), (1 - height**2).sqrt() * turn.sin(), height), 1)
    return Points(CENTER + RADII * ball, torch.nn.functional.normalize(ball / RADII, dim=1))


def test_a_track_that_turns_too_little_is_corrected():
    yaws = torch.linspace(-14, 14, 12)
    images, _, _ = photograph(views(yaws), 64)
    tracked = views(0.8 * yaws)
    found = refine_cameras(images, tracked, _ball(), steps=300)
    track = CameraTrack(tracked)
    track.correction.data = found.of(tracked) + found.rest
    poses, _ = cams.unpack(track(torch.arange(12)).detach())
    found_yaw, found_pitch, _ = cams.angles(poses)
    for error in (found_yaw - yaws, found_pitch - 0.3 * yaws):
        assert (error - error.mean()).abs().mean() < 0.4 * 0.2 * yaws.abs().mean()


def test_a_head_that_hardly_turns_does_not_say_by_how_much():
    yaws = torch.linspace(-3, 3, 12)
    images, _, _ = photograph(views(yaws), 64)
    points = _ball()
    flat = points._replace(positions=CENTER + (points.positions - CENTER) * torch.tensor([1.0, 1.0, 0.4]))
    found = refine_cameras(images, views(yaws), flat, steps=300)
    assert found.trend[:, :3].abs().max() < 0.12
