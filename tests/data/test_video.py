"""Clips of grey pictures, whose brightness counts the seconds."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talk3d.data.video import Video, ahead

SECONDS = 4


def write(path: Path, times: list[Fraction], *, turn: int = 0, width: int = 64, height: int = 48) -> Path:
    """Write pictures that are 20 + 50 * t bright, and white in the upper left corner."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90000)
        if turn:
            stream.set_display_rotation(turn)
        for time in times:
            pixels = np.full((height, width, 3), round(20 + 50 * float(time)), np.uint8)
            pixels[: height // 4, : width // 4] = 255
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def even(rate: Fraction | int) -> list[Fraction]:
    return [Fraction(k) / rate for k in range(round(SECONDS * rate))]


def seconds_shown(picture) -> float:
    return (float(picture.pixels[-10:, -10:].mean()) - 20) / 50


@pytest.mark.parametrize("rate", [25, 30, Fraction(30000, 1001), 24, 50, 12])
def test_any_rate_becomes_25_with_the_nearest_picture(tmp_path, rate):
    pictures = list(Video(write(tmp_path / "clip.mp4", even(rate))))
    assert abs(len(pictures) - SECONDS * 25) <= 1
    assert [picture.frame for picture in pictures] == list(range(len(pictures)))
    for picture in pictures:
        assert abs(picture.time - picture.frame / 25) <= 0.5 / rate + 1e-3 or picture.frame >= len(pictures) - 2
        assert seconds_shown(picture) == pytest.approx(picture.time, abs=0.035)  # of 8 bits


def test_25_stays_as_it_is(tmp_path):
    video = Video(write(tmp_path / "clip.mp4", even(25)))
    assert len(list(video)) == 100
    assert (video.clip.shown, video.clip.skipped, video.clip.repeated) == (100, 0, 0)
    assert video.clip.seconds == pytest.approx(4)


def test_what_is_left_out_and_repeated_is_counted(tmp_path):
    video = Video(write(tmp_path / "clip.mp4", even(50)))
    list(video)
    assert (video.clip.shown, video.clip.repeated) == (100, 0)
    assert video.clip.skipped == 100
    video = Video(write(tmp_path / "slow.mp4", even(10)))
    list(video)
    assert (video.clip.shown, video.clip.skipped, video.clip.repeated) == (40, 0, 60)


def test_a_variable_rate_is_followed(tmp_path):
    times = [Fraction(k, 90) for k in range(0, 90)] + [1 + Fraction(k, 10) for k in range(30)]
    pictures = list(Video(write(tmp_path / "clip.mp4", times)))
    assert len(pictures) == 100
    for picture in pictures:
        assert abs(picture.time - picture.frame / 25) <= 0.0501 or picture.frame > 97  # the last is shown to its end
        assert seconds_shown(picture) == pytest.approx(picture.time, abs=0.035)


def test_a_clock_that_does_not_begin_at_zero(tmp_path):
    video = Video(write(tmp_path / "clip.mkv", [5 + t for t in even(25)]))
    assert video.clip.start == pytest.approx(5, abs=0.01)
    assert len(list(video)) == 100


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (-90, (0, -1)), (90, (-1, 0)), (180, (-1, -1))])
def test_turned_pictures_are_turned_back(tmp_path, turn, corner):
    video = Video(write(tmp_path / "clip.mp4", even(25)[:10], turn=turn))
    picture = next(iter(video))
    assert picture.pixels.shape[:2] == ((48, 64) if turn % 180 == 0 else (64, 48))
    assert (video.clip.height, video.clip.width) == picture.pixels.shape[:2]
    assert picture.pixels[corner].min() > 240
    assert picture.pixels[tuple(-1 - c for c in corner)].max() < 60


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path):
    whole = write(tmp_path / "whole.mkv", even(25)).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    video = Video(tmp_path / "half.mkv")
    assert 20 < len(list(video)) < 90


@pytest.mark.parametrize("content", [b"not a video at all\n", b"", b"\0" * 4096])
def test_no_video_is_refused_by_name(tmp_path, content):
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be read as a video"):
        Video(tmp_path / "text.mp4")


def test_index_missing_is_refused_by_name(tmp_path):
    whole = write(tmp_path / "whole.mp4", even(25)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index would be at the end
    with pytest.raises(ValueError, match=r"cut\.mp4 cannot be read as a video"):
        Video(tmp_path / "cut.mp4")


def test_reading_ahead_is_the_same_and_can_be_left(tmp_path):
    video = Video(write(tmp_path / "clip.mp4", even(25)))
    assert [picture.time for picture in ahead(video)] == [picture.time for picture in video]
    for picture in ahead(video):
        if picture.frame == 3:
            break


def test_an_error_while_reading_ahead_arrives():
    def broken():
        yield from ()
        raise ValueError("no more")

    class Pictures:
        def __iter__(self):
            return broken()

    with pytest.raises(ValueError, match="no more"):
        list(ahead(Pictures()))


def write_noise(path: Path, times: list[Fraction], codec: str, options: dict[str, str]) -> Path:
    """Pictures of which each differs from all others, and most refer to others."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (48, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


OPEN = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
GAPS = [time for time in even(25) if not 1 < time < Fraction(3, 2) and not 2 < time < Fraction(11, 5)]
SOUGHT = {
    "open groups": ("a.mp4", even(25), "libx264", OPEN),
    "30 a second": ("a.mkv", even(30), "libx264", {"x264-params": "keyint=9:bframes=2"}),
    "12 a second": ("a.mp4", even(12), "libx264", {"x264-params": "keyint=5"}),
    "late": ("a.mkv", [time + 7 for time in even(25)], "libx264", {"x264-params": "keyint=20"}),
    "gaps": ("a.mp4", GAPS, "libx264", {"x264-params": "keyint=10"}),
    "no clock": ("a.h264", even(25), "libx264", {"x264-params": "keyint=10"}),
    "one group": ("a.mp4", even(25), "libx264", {"x264-params": "keyint=infinite:scenecut=0"}),
    "MPEG-4": ("a.mkv", even(25), "mpeg4", {"g": "12", "bf": "2"}),
}


@pytest.mark.parametrize(("name", "times", "codec", "options"), SOUGHT.values(), ids=SOUGHT)
def test_what_is_sought_is_what_is_read_in_order(name, times, codec, options, tmp_path):
    video = Video(write_noise(tmp_path / name, times, codec, options))
    everything = list(video)
    assert len(everything) > 80
    assert any((one.pixels != other.pixels).any() for one, other in itertools.pairwise(everything))
    for frame in [*range(0, len(everything), 7), len(everything) - 1]:
        found = list(video.since(frame))
        assert found[0].frame <= frame
        assert len(found) == len(everything) - found[0].frame
        for picture, expected in zip(found, everything[found[0].frame :], strict=True):
            assert picture[:2] == expected[:2]
            np.testing.assert_array_equal(picture.pixels, expected.pixels)


def test_little_is_decoded_of_what_is_before(tmp_path, monkeypatch):
    video = Video(write_noise(tmp_path / "a.mp4", even(25), "libx264", {"x264-params": "keyint=10:scenecut=0"}))
    assert next(video.since(90)).frame > 90 - 10 - 5
    assert next(video.since(2)).frame == 0
