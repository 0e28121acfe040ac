from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from talk3d.data.shots import SHORTEST, choose, split
from talk3d.data.track import Track


def tracked(sizes, cuts=(), brightness=100.0) -> Track:
    sizes = np.asarray(sizes, float)
    count = len(sizes)
    return Track(Path("unused"), np.arange(count) / 25, list(cuts), sizes, np.full(count, brightness), (64, 64))


def one(count: int) -> np.ndarray:
    return np.stack((np.full(count, 50.0), np.zeros(count)), 1)


def test_all_of_a_clip_without_trouble():
    shot = choose(tracked(one(100)), "clip.mp4")
    assert (shot.start, shot.stop, shot.face, shot.total) == (0, 100, 0, 100)
    assert shot.valid.all()
    assert not shot.notes


def test_the_longest_shot_of_a_clip_with_cuts():
    shot = choose(tracked(one(300), cuts=[80, 90]), "clip.mp4")
    assert (shot.start, shot.stop) == (90, 300)
    assert "2 cuts at 3.20 s, 3.60 s; the shot from 3.60 s to 12.00 s" in shot.notes[0].text


def test_a_face_that_comes_late_and_is_lost_in_between():
    sizes = one(200)
    sizes[:20] = sizes[100:110] = 0
    shot = choose(tracked(sizes), "clip.mp4")
    assert (shot.start, shot.stop) == (20, 200)
    assert np.flatnonzero(~shot.valid).tolist() == list(range(80, 90))
    assert [note.kind for note in shot.notes] == ["trimmed", "face lost"]
    assert shot.notes[1].frames == ((80, 90),)


def test_the_larger_of_two_faces_throughout():
    sizes = one(100)
    sizes[10:, 1] = 70
    shot = choose(tracked(sizes), "clip.mp4")
    assert shot.face == 1
    assert shot.start == 10
    assert [note.kind for note in shot.notes] == ["trimmed", "two faces"]


@pytest.mark.parametrize(
    ("track", "reason"),
    [
        (tracked(one(5)), "clip.mp4 is too short: 5 frames of 50 that are needed"),
        (tracked(0 * one(100)), "no face in any of its 100 frames$"),
        (tracked(0 * one(100), brightness=3), "it is black"),
        (tracked(one(90), cuts=[45]), "only 45 frames in its longest shot"),
    ],
)
def test_unfit_clips_are_refused_with_the_reason(track, reason):
    with pytest.raises(ValueError, match=reason):
        choose(track, "clip.mp4")


@pytest.mark.parametrize("frames", [SHORTEST, 51, 200, 999, 7500])
def test_splits_share_no_step_of_speech(frames):
    spans = split(frames)
    assert list(spans) == ["train", "val", "test"]
    heard = [set(range(2 * (start - 4) - 8, 2 * (stop + 3) + 8)) for start, stop in spans.values()]
    own = [set(range(2 * start - 8, 2 * (stop - 1) + 8)) for start, stop in spans.values()]
    assert not own[0] & own[1]
    assert not own[1] & own[2]
    assert all(stop > start for start, stop in spans.values())
    assert spans["test"][1] == frames
    assert len(heard[0]) > len(own[0])


def test_splits_are_80_to_10_to_10():
    spans = split(10000)
    assert [round((stop - start) / 10000, 2) for start, stop in spans.values()] == [0.8, 0.1, 0.1]
