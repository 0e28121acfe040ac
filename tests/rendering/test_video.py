"""Joined segments are one video, in step with its sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from talk3d.rendering.video import SegmentWriter, join


def write(path: Path, levels: list[int]) -> Path:
    with SegmentWriter(path, 64, 48) as segment:
        for level in levels:
            segment.write(np.full((48, 64, 3), level, np.uint8))
    return path


def decode(path: Path) -> tuple[list[tuple[Fraction, float]], np.ndarray, int]:
    """Time and mean of each picture; the sound of the first channel and its rate."""
    with av.open(str(path)) as container:
        pictures = [(f.pts * f.time_base, float(f.to_ndarray(format="gray").mean())) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        parts = [frame.to_ndarray()[0] for frame in container.decode(stream)]
        return pictures, np.concatenate(parts), stream.rate


def flashes(at: int, length: int) -> list[int]:
    return [230 if frame == at else 30 for frame in range(length)]


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 11025])
def test_pictures_and_sound_are_in_step(tmp_path, rate):
    levels = flashes(37, 60)
    segments = [write(tmp_path / f"{k}.mp4", levels[20 * k : 20 * k + 20]) for k in range(3)]
    sound = np.zeros(round(2.4 * rate))
    sound[round(37 / 25 * rate) : round(38 / 25 * rate)] = 0.8
    soundfile.write(tmp_path / "click.wav", sound, rate)
    join(segments, tmp_path / "click.wav", 60, tmp_path / "out.mp4")
    pictures, heard, out_rate = decode(tmp_path / "out.mp4")
    assert [time for time, _ in pictures] == [Fraction(frame, 25) for frame in range(60)]
    assert int(np.argmax([level for _, level in pictures])) == 37
    clicked = np.flatnonzero(abs(heard) > 0.4)[0] / out_rate
    assert abs(clicked - 37 / 25) <= 0.04
    assert abs(len(heard) / out_rate - 2.4) <= 0.05


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_sound_that_is_shorter_or_longer_is_made_to_fit(tmp_path, seconds):
    segment = write(tmp_path / "0.mp4", [80] * 25)
    soundfile.write(tmp_path / "a.wav", 0.5 * np.ones(round(seconds * 16000)), 16000)
    join([segment], tmp_path / "a.wav", 25, tmp_path / "out.mp4")
    pictures, heard, rate = decode(tmp_path / "out.mp4")
    assert len(pictures) == 25
    assert abs(len(heard) / rate - 1) <= 0.07  # in blocks of 1024 samples
    assert (abs(heard[round(0.5 * rate) : round(0.9 * rate)]).max() > 0.2) == (seconds > 1)


def test_the_same_pictures_are_the_same_bytes(tmp_path):
    levels = list(range(0, 250, 10))
    first, second = (write(tmp_path / name, levels) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()


def test_a_segment_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        with SegmentWriter(tmp_path / "a.mp4", 64, 48) as segment:
            segment.write(np.zeros((48, 64, 3), np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_transparency_is_kept(tmp_path):
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[:, :32] = (200, 100, 50, 255)
    with SegmentWriter(tmp_path / "a.mov", 64, 48) as segment:
        segment.write(picture)
    with av.open(str(tmp_path / "a.mov")) as container:
        found = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert abs(found[24, 10].astype(int) - (200, 100, 50, 255)).max() <= 8
    assert found[24, 55, 3] <= 2
