"""Putting crops back: the right frame of the clip, each decoded once, wherever chunks begin and end."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from talk3d.data.video import Video
from talk3d.motion import imagine, ping_pong
from talk3d.rendering import RenderJob, paste, render
from talk3d.rendering.paste import Paster

COUNT, START = 120, 5  # frames of the dataset, which begins later than the clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path, random = tmp_path_factory.mktemp("clip") / "clip.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "keyint=20:open-gop=1:bframes=2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(COUNT + START):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (48, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Counts the pictures that are decoded."""
    count, real = [0], Video._decode

    def counting(*args):
        for found in real(*args):
            count[0] += 1
            yield found

    monkeypatch.setattr(Video, "_decode", counting)
    return count


def motion():
    crops = torch.tensor([[1 / 16, 0, -1], [0, 1 / 16, -1]], dtype=torch.float64).expand(COUNT, 2, 3)
    return imagine(range(COUNT), focal=4.26)._replace(crops=crops)


def pasted(paster, frames):
    return list(paster([np.full((8, 8, 3), 90, np.uint8)] * len(frames), frames))


@pytest.mark.parametrize("chunk", [7, 50, 500])
def test_chunks_forth_and_back_have_the_frames_of_the_clip(clip, chunk, decoded, monkeypatch):
    monkeypatch.setattr(paste, "_BUFFER", 20 * 48 * 64 * 3)  # 20 frames
    pictures = [picture.pixels for picture in Video(clip)]
    paster, total = Paster(clip, motion(), START), 3 * COUNT
    decoded[0] = 0
    for first in range(0, total, chunk):
        frames = ping_pong(range(first, min(first + chunk, total)), COUNT)
        for frame, found in zip(frames, pasted(paster, frames), strict=True):
            np.testing.assert_array_equal(found[:16], pictures[frame + START][:16])  # above the crop
            assert (found[20:28, 20:28] == 90).all()
    if chunk > 20:  # forth once, and back in parts, each from a key picture before it
        assert decoded[0] < 2 * COUNT + START + COUNT // 20 * (20 + 20 + 8)


def test_on_the_way_forth_each_frame_is_decoded_once(clip, decoded):
    paster = Paster(clip, motion(), START)
    decoded[0] = 0
    for first in range(0, COUNT, 10):
        pasted(paster, list(range(first, first + 10)))
    assert decoded[0] <= COUNT + START + 1


def test_a_chunk_in_the_middle_seeks(clip, decoded):
    paster = Paster(clip, motion(), START)
    decoded[0] = 0
    pasted(paster, list(range(100, 110)))
    assert decoded[0] < 10 + 20 + 8


def test_frames_that_go_forth_are_not_kept(clip, monkeypatch):
    """A crop is asked for when the one before was given back, and the clip is not read ahead."""
    paster, read = Paster(clip, motion(), START), []
    real = paster._read
    monkeypatch.setattr(paster, "_read", lambda frame: (read.append(frame), real(frame))[1])
    for done, _ in enumerate(paster([np.zeros((8, 8, 3), np.uint8)] * 50, list(range(50)))):
        assert len(read) == done + 1


def test_a_frame_that_the_clip_has_not(clip):
    paster = Paster(clip, motion(), START + 7)
    with pytest.raises(ValueError, match=r"clip.mp4 has no frame 125: is it the avatar's clip\?"):
        pasted(paster, list(range(100, 120)))


def test_a_job_reads_the_clip_once(folder, speech, clip, tmp_path, decoded):
    """Thirteen frames in four chunks, of which the last turns back."""
    out = str(tmp_path / "whole.mp4")
    render(RenderJob(avatar=str(folder), audio=str(speech), out=out, paste_back=str(clip), chunk=4))
    assert decoded[0] <= 1 + 14 + 20
