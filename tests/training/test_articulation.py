"""Lips read off speech: in the head's frame, and learned by the encoder of speech."""

from __future__ import annotations

import numpy as np
import torch

from talk3d import cameras as cams
from talk3d.data.facemesh import LIPS
from talk3d.models.encoders import AudioEncoder
from talk3d.training.articulation import Articulation, lips_of
from talk3d.training.targets import Targets


def open_mouth(clip, opening: np.ndarray) -> None:
    """Lips that part, seen by the cameras of the clip."""
    world = np.zeros((len(clip), 478, 3), np.float32)
    world[:, LIPS[5], 1] = -opening
    poses, _ = cams.unpack(torch.from_numpy(clip.cameras))
    seen = (torch.from_numpy(world) - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    clip.points = seen.numpy()


def test_lips_are_where_they_are_in_the_head_whatever_the_camera(clip):
    open_mouth(clip, clip.loud)
    lips = lips_of(clip, list(range(16)))
    assert lips.shape == (16, 84)
    torch.testing.assert_close(lips.square().mean(), torch.tensor(1.0))
    moving = lips.abs().amax(0) > 1e-3
    assert moving.nonzero().tolist() == [[3 * 5 + 1]]
    correlation = torch.corrcoef(torch.stack((lips[:, 16], torch.from_numpy(-clip.loud[:16]))))[0, 1]
    assert correlation > 0.999


def test_lips_that_do_not_move_are_finite(clip):
    open_mouth(clip, np.zeros(len(clip), np.float32))
    assert lips_of(clip, [0, 1, 2]).isfinite().all()


def test_an_encoder_learns_to_tell_them(clip):
    open_mouth(clip, clip.loud)
    torch.manual_seed(0)
    articulation, audio = Articulation(Targets(clip, picture=32, view=8), 8, 0), AudioEncoder(4, 8)
    adam = torch.optim.Adam([*articulation.parameters(), *audio.parameters()], lr=1e-2)
    found = []
    for step in range(60):
        loss = articulation(audio, step)
        adam.zero_grad()
        loss.backward()
        adam.step()
        found.append(loss.item())
    assert found[-1] < 0.2 * found[0]
    assert list(articulation.state_dict()) == ["read.weight", "read.bias"]
