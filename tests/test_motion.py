"""Motion that is borrowed goes forth and back; motion that is made up is smooth and plausible."""

from __future__ import annotations

import pytest
import torch

from talk3d import cameras
from talk3d.motion import FPS, imagine, ping_pong


def test_ping_pong_does_not_jump():
    assert ping_pong(range(9), 4) == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert ping_pong(range(5, 8), 4) == [1, 0, 1]
    assert ping_pong(range(3), 1) == [0, 0, 0]
    assert ping_pong(range(4), 2) == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="length must be positive"):
        ping_pong(range(3), 0)


def test_a_made_up_frame_depends_on_its_number_alone():
    whole, part = imagine(range(50), focal=4.0), imagine(range(20, 50), focal=4.0)
    assert all(torch.equal(a[20:], b) for a, b in zip(whole, part, strict=True))


def test_made_up_motion_is_small_and_smooth():
    motion = imagine(range(60 * FPS), focal=4.0)
    assert motion.angles.abs().amax(0).le(torch.tensor([3.01, 7.01, 1.51])).all()
    assert motion.angles.diff(dim=0).abs().max() < 1  # degrees in a frame
    yaw, pitch, roll = cameras.angles(cameras.unpack(motion.cameras)[0])
    assert torch.allclose(yaw, motion.angles[:, 1], atol=1e-3)
    assert torch.allclose(pitch, motion.angles[:, 0], atol=1e-3)
    assert roll.abs().max() < 1e-3  # the crop is upright


def test_eyes_close_every_few_seconds():
    blink = imagine(range(60 * FPS), focal=4.0).blink
    begins = torch.nonzero((blink[1:] > 0) & (blink[:-1] == 0)).flatten() / FPS
    assert 12 <= len(begins) <= 17
    assert begins.diff().min() > 1.5
    assert begins.diff().std() > 0.3
    assert blink.max() == 1


def test_made_up_landmarks_are_a_face():
    nose, left, right = imagine(range(5), focal=cameras.FFHQ_FOCAL).landmarks.unbind(1)
    assert (left[:, 0] > nose[:, 0]).all()  # the person's left is the picture's right
    assert (right[:, 0] < nose[:, 0]).all()
    assert (nose[:, 1] > left[:, 1]).all()  # y goes down
    assert (left - right).norm(dim=1).min() > 0.1
