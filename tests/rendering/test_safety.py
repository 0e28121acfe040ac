"""Nothing is lost but what a user said may go, whoever else renders there and whenever it stops."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from talk3d.rendering import RenderJob, render
from talk3d.rendering.job import JobFolder


def job(folder: Path, speech: Path, out: Path, **options) -> RenderJob:
    return RenderJob(**({"avatar": str(folder), "audio": str(speech), "out": str(out), "chunk": 4} | options))


@pytest.mark.parametrize("name", ["diary.txt", ".git", "holiday.png"])
def test_a_folder_of_something_else_is_never_replaced(folder, speech, tmp_path, name):
    out = tmp_path / "home"
    out.mkdir()
    (out / name).write_text("precious")
    with pytest.raises(ValueError, match=f"holds {name}, which is no rendered picture"):
        render(job(folder, speech, out), overwrite=True)
    assert (out / name).read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


def test_inputs_are_not_written_over(folder, write_speech, tmp_path):
    clip = write_speech(tmp_path / "clip.wav", 0.5).rename(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    with pytest.raises(ValueError, match=r"clip\.mp4 is the audio of this job"):
        render(job(folder, clip, tmp_path / "clip.mp4"), overwrite=True)
    with pytest.raises(ValueError, match="is the avatar of this job"):
        render(job(folder, clip, folder), overwrite=True)
    assert clip.read_bytes() == before


def test_a_folder_where_a_video_shall_be(folder, speech, tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(ValueError, match=r"a\.mp4 is a folder; name a file"):
        render(job(folder, speech, tmp_path / "a.mp4"), overwrite=True)


def test_pictures_are_replaced_by_pictures(folder, speech, write_speech, tmp_path):
    out = tmp_path / "frames"
    out.mkdir()
    render(job(folder, speech, out))
    render(job(folder, write_speech(tmp_path / "short.wav", 0.2), out), overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [f"{frame:06d}.png" for frame in range(5)]
    assert not list(tmp_path.glob(".*"))


def test_killed_while_pictures_are_joined(folder, speech, tmp_path, monkeypatch):
    """Those that had been moved are not lost, and not rendered again."""
    out, real = tmp_path / "frames", os.replace

    def killed(source, target):
        if str(target).endswith("joined/000006.png"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        render(job(folder, speech, out))
    monkeypatch.undo()
    render(job(folder, speech, out))
    assert sorted(path.name for path in out.iterdir()) == [f"{frame:06d}.png" for frame in range(13)]


def test_a_job_that_failed_at_once_stands_in_nobodys_way(folder, speech, tmp_path):
    out = tmp_path / "a.mp4"
    text = tmp_path / "text.wav"
    text.write_text("not a sound")
    with pytest.raises(ValueError, match=r"text\.wav cannot be read"):
        render(job(folder, text, out))
    with pytest.raises(ValueError, match="must end in"):
        render(job(folder, speech, tmp_path / "a.avi"))
    assert not list(tmp_path.glob(".*"))
    parts = tmp_path / ".a.mp4.parts"  # killed before its first chunk
    parts.mkdir()
    (parts / "job.json").write_text("{")
    assert render(job(folder, speech, out)).out == out


def test_another_job_at_work_is_left_alone(folder, speech, write_speech, tmp_path):
    mine = job(folder, speech, tmp_path / "a.mp4")
    other = job(folder, write_speech(tmp_path / "other.wav", 0.6), tmp_path / "a.mp4")
    at_work = JobFolder(other)
    with at_work.opened():
        with pytest.raises(ValueError, match="is in use: another job of this name"):
            render(mine, overwrite=True)
        assert at_work.path.exists()
    assert render(mine).frames == 13


def test_who_comes_late_joins_nothing(folder, speech, tmp_path, monkeypatch):
    """Two processes of one job: one has joined the chunks while the other waited for its turn."""
    mine = job(folder, speech, tmp_path / "a.mp4")
    render(mine, shard=(1, 2))
    late = JobFolder(mine)
    with late.opened():
        monkeypatch.setattr("talk3d.rendering.job._lock", lambda *_: True)  # a file system without locks
        render(mine)
        with late.alone() as unfinished:
            assert not unfinished
    assert (tmp_path / "a.mp4").exists()


def test_a_movie_without_transparency(folder, speech, tmp_path):
    for name in ("a.mov", "pictures"):
        render(job(folder, speech, tmp_path / name, background="#123456"))
    with av.open(str(tmp_path / "a.mov")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert (frame[..., 3] == 255).all()
    picture = np.asarray(Image.open(tmp_path / "pictures" / "000000.png"), float)
    assert abs(frame[..., :3] - picture).mean() < 3


@pytest.mark.parametrize("options", [{"resolution": 10**9}, {"resolution": 8194}, {"batch": 10**11}])
def test_sizes_that_no_memory_holds(options):
    with pytest.raises(ValueError, match=r"resolution must be|batch must be"):
        RenderJob(avatar="a", audio="b", out="c.mp4", **options)
