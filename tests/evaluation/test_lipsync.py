"""LSE-C and LSE-D: numbers worked out by hand, crops, windows, and a video that is late."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from talk3d.audio.spectra import cepstra
from talk3d.evaluation import lipsync
from talk3d.evaluation.lipsync import LipSync, crop_face, sync_scores

CPU = torch.device("cpu")


def literal(sound, lips, at):
    """As the published harness: d[t, j] between lips t and the sound j frames on, both ends padded with zeros."""
    zeros = np.zeros((15, sound.shape[1]))
    padded = np.concatenate((zeros, sound, zeros))
    means = [
        np.mean([np.sqrt(((lips[k] - padded[t + j] + 1e-6) ** 2).sum()) for k, t in enumerate(at) if t < len(sound)])
        for j in range(31)
    ]
    return np.median(means) - min(means), min(means), 15 - int(np.argmin(means))


@pytest.mark.parametrize("late", [0, 3, -2])
def test_scores_by_hand(late):
    random = np.random.default_rng(0)
    sound = random.normal(size=(60, 8))
    at = [t for t in range(60) if t not in (20, 21)]
    lips = np.stack([sound[min(max(t - late, 0), 59)] for t in at]) + 0.1 * random.normal(size=(len(at), 8))
    found = sync_scores(torch.from_numpy(sound), torch.from_numpy(lips), at)
    confidence, distance, offset = literal(sound, lips, at)
    assert found.confidence == pytest.approx(confidence, rel=1e-6)
    assert found.distance == pytest.approx(distance, rel=1e-6)
    assert found.offset == offset == late
    assert found.windows == 58
    assert distance < 1


def test_lips_after_the_end_of_the_sound_do_not_count():
    sound = torch.randn(40, 4)
    assert sync_scores(sound, torch.randn(45, 4), list(range(45))).windows == 40
    with pytest.raises(ValueError, match="it needs 25 windows of five frames in a row that show a face, and has 24"):
        sync_scores(sound, torch.randn(24, 4), list(range(24)))


def test_a_crop_is_where_the_published_one_is():
    picture = torch.zeros(300, 300, 3, dtype=torch.uint8)
    picture[..., 0] = torch.arange(300) % 250  # red tells the column
    picture[..., 1] = (torch.arange(300) % 250)[:, None]
    found = crop_face(picture, (150.0, 120.0), 80.0)  # rows 40 to 263, columns 38 to 261
    assert found.shape == (3, 224, 224)
    assert torch.equal(found[2, 0], (torch.arange(38, 262) % 250).byte())
    assert torch.equal(found[1, :, 0], (torch.arange(40, 264) % 250).byte())
    assert (found[0] == 0).all()
    beyond = crop_face(picture, (10.0, 290.0), 80.0)
    assert (beyond[:, :, 0] == 110).all()
    assert (beyond[:, -1] == 110).all()


class Loud(nn.Module):
    """In place of SyncNet: sound by its energy, lips by how red they are."""

    def sound(self, x):
        return nn.functional.pad((x[:, 0, 0] - 18.0).mean(1, keepdim=True), (0, 3))

    def lips(self, x):
        return nn.functional.pad(x[:, 2].mean((1, 2, 3))[:, None] / 10, (0, 3))


def speech(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose loudness changes from frame to frame, and what the energy of each window is."""
    random = np.random.default_rng(2)
    loud = np.repeat(random.uniform(0.01, 0.3, frames), 640)
    samples = (loud * random.normal(size=len(loud))).astype(np.float32)
    energy = cepstra(samples)[0]
    return samples, np.array([(energy[4 * t : 4 * t + 20] - 18).mean() for t in range(frames - 5)])


@pytest.mark.parametrize("late", [0, 2])
def test_a_video_that_shows_what_is_heard(late):
    samples, energy = speech(60)
    steady = np.clip(10 * np.array([energy[min(t, 54)] for t in range(60)]), 0, 255)
    video = LipSync(Loud(), CPU)
    for t in range(60):
        picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
        picture[..., 0] = int(steady[max(t - late, 0)])
        video.add(t, picture, np.array([22.0, 22, 42, 42]))
    found = video.scores(samples)
    assert found.windows == 55
    assert found.offset in (late - 2, late - 1)  # a window's energy is shown by the first of its frames
    assert found.confidence > 0.1


def test_frames_that_are_missing_begin_a_new_row(monkeypatch):
    seen = []
    monkeypatch.setattr(lipsync, "sync_scores", lambda sound, lips, at: seen.append((len(sound), at)))
    video = LipSync(Loud(), CPU)
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
    for t in range(50):
        if t != 20:
            # a face that is lost for a moment is where it was; one that is lost for long is not there
            video.add(t, picture, None if t == 5 or t >= 40 else np.array([22.0, 22, 42, 42]))
    video.scores(speech(50)[0])
    ((windows, at),) = seen
    assert windows == 45
    # the last faces are at 39, and medians reach 6 frames farther
    assert at == [*range(16), *range(21, 42)]


def test_no_face_and_no_sound():
    video = LipSync(Loud(), CPU)
    for t in range(30):
        video.add(t, torch.zeros(64, 64, 3, dtype=torch.uint8), None)
    with pytest.raises(ValueError, match="no five frames in a row that show a face"):
        video.scores(speech(30)[0])
