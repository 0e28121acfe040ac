from __future__ import annotations

import math

import torch

from talk3d import cameras as cams
from talk3d.training.cameras import CameraTrack
from talk3d.training.refine import Points, refine_cameras
from tests.training.heads import CENTER, RADII, photograph, views


def test_a_track_that_turns_too_little_is_corrected():
    yaws = torch.linspace(-14, 14, 12)
    images, _, _ = photograph(views(yaws), 64)
    tracked = views(0.8 * yaws)
    turn = torch.arange(250) * (math.pi * (3 - 5**0.5))
    height = torch.linspace(0.35, 1, 250)
    ball = torch.stack(((1 - height**2).sqrt() * turn.cos(), (1 - height**2).sqrt() * turn.sin(), height), 1)
    normals = torch.nn.functional.normalize(ball / RADII, dim=1)
    found = refine_cameras(images, tracked, Points(CENTER + RADII * ball, normals), steps=300)
    track = CameraTrack(tracked)
    track.correction.data = found.of(tracked) + found.rest
    poses, _ = cams.unpack(track(torch.arange(12)).detach())
    found_yaw, found_pitch, _ = cams.angles(poses)
    for error in (found_yaw - yaws, found_pitch - 0.3 * yaws):
        assert (error - error.mean()).abs().mean() < 0.4 * 0.2 * yaws.abs().mean()
