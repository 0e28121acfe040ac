from __future__ import annotations

import math

import torch

from talk3d import cameras as cams
from talk3d.training.cameras import CameraTrack
from talk3d.training.refine import Points, refine_cameras
from tests.training.heads import CENTER, RADIUS, photograph, views


def test_a_track_that_turns_too_little_is_corrected():
    yaws = torch.linspace(-14, 14, 24)
    images, _, _ = photograph(views(yaws), 64)
    tracked = views(0.8 * yaws)
    turn = torch.arange(400) * (math.pi * (3 - 5**0.5))
    height = torch.linspace(0.35, 1, 400)
    normals = torch.stack(
        ((1 - height**2).sqrt() * turn.cos(), (1 - height**2).sqrt() * turn.sin(), height), 1
    )
    found = refine_cameras(images, tracked, Points(CENTER + RADIUS * normals, normals), steps=240)
    track = CameraTrack(tracked)
    track.correction.data = found.of(tracked) + found.rest
    poses, _ = cams.unpack(track(torch.arange(24)).detach())
    yaw, pitch, _ = cams.angles(poses)
    wanted, _, _ = cams.angles(cams.unpack(views(yaws))[0])
    before = (0.2 * yaws).abs().mean()
    error = yaw - wanted
    assert (error - error.mean()).abs().mean() < 0.25 * before
    assert ((pitch - 0.3 * yaws) - (pitch - 0.3 * yaws).mean()).abs().mean() < 0.25 * before
