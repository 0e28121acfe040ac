"""Cameras of a track: as tracked at first, then corrected."""

from __future__ import annotations

import math

import torch

from talk3d import cameras as cams
from talk3d.training.cameras import CameraTrack


def track() -> CameraTrack:
    return CameraTrack(cams.pack(cams.look_at(torch.tensor([0.0, 20.0, -10.0]), 5.0), cams.intrinsics(4.0)))


def test_at_first_cameras_are_as_tracked():
    cameras = track()
    torch.testing.assert_close(cameras(torch.tensor([2, 1])), cameras.tracked[[2, 1]])


def test_a_turn_is_about_the_origin_of_the_world():
    cameras = CameraTrack(cams.pack(cams.look_at(0.0, 0.0, pivot=(0.0, 0.0, 0.0)), cams.intrinsics(4.0))[None])
    cameras.correction.data[0, 1] = math.radians(30)
    turned = cams.pack(cams.look_at(30.0, 0.0, pivot=(0.0, 0.0, 0.0)), cams.intrinsics(4.0))
    torch.testing.assert_close(cameras(torch.tensor([0]))[0], turned, atol=1e-6, rtol=0)


def test_a_shift_moves_the_camera_alone():
    cameras = track()
    cameras.correction.data[1, 3:] = torch.tensor([0.1, 0.0, -0.2])
    moved = (cameras(torch.tensor([1])) - cameras.tracked[1]).detach()[0, :16].view(4, 4)
    expected = torch.zeros(4, 4)
    expected[0, 3], expected[2, 3] = 0.1, -0.2
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


def test_gradients_reach_the_frames_that_were_asked_for():
    cameras = track()
    cameras(torch.tensor([1])).square().sum().backward()
    touched = cameras.correction.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, True, False]
    assert cameras.correction.grad.isfinite().all()


def test_a_checkpoint_holds_the_corrections_alone():
    assert list(track().state_dict()) == ["correction"]
