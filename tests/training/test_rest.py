"""The person at rest: which frames, and which of their pixels."""

from __future__ import annotations

import torch

from talk3d.training.rest import Rest
from talk3d.training.targets import EYES, Targets
from tests.training.conftest import Clip


def make(clip: Clip) -> Rest:
    clip.landmarks[:, [13, 14]] = 0.5
    clip.landmarks[:, 33], clip.landmarks[:, 263] = (0.4, 0.4), (0.6, 0.4)
    clip.landmarks[::2, 14] += 0.1  # every second mouth is open
    clip.blink[:] = 0.0
    clip.blink[3] = 0.9
    return Rest(Targets(clip, picture=32, view=8))


def test_a_closed_mouth_and_open_eyes_are_drawn_more_often(clip: Clip):
    rest = make(clip)
    chances = dict(zip(rest.frames, rest.chances.tolist(), strict=True))
    assert {frame for frame, chance in chances.items() if chance == 4.0} == set(range(1, 16, 2)) - {3}
    assert chances[2] == chances[3] == 1.0
    generator = torch.Generator().manual_seed(0)
    drawn = [rest.draw(generator) for _ in range(200)]
    assert sum(frame % 2 for frame in drawn) > 140


def test_lips_and_lids_of_other_frames_count_a_tenth(clip: Clip):
    rest = make(clip)
    regions = torch.zeros(3, 4, 2, 2)
    regions[:, EYES, 0, 0] = 1
    weights = rest.weights([1, 2, 3], regions)
    torch.testing.assert_close(weights[:, 0, 0, 0], torch.tensor([1.0, 0.1, 0.1]))
    assert (weights[:, 0, 1] == 1).all()
