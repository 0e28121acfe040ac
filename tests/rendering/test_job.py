"""Several processes in the folder of a job, and one that is killed in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from talk3d.rendering import RenderJob, render
from talk3d.rendering.job import JobFolder


@pytest.fixture
def job(folder, speech, tmp_path: Path) -> RenderJob:
    """Thirteen frames in four chunks."""
    return RenderJob(avatar=str(folder), audio=str(speech), out=str(tmp_path / "ada.mp4"), chunk=4)


def test_shards_that_overwrite_do_not_remove_each_others_chunks(job, write_speech, tmp_path):
    """Both find the parts of another job; the second looks when the first has begun its own."""
    render(job, shard=(1, 2))
    other = RenderJob(**{**vars(job), "audio": str(write_speech(tmp_path / "other.wav", 0.5, 44100))})
    first, second = JobFolder(other), JobFolder(other)
    with first.opened(fresh=True):
        assert not list(first.path.glob("*.mp4"))
        first.chunk(0).write_bytes(b"")
        with second.opened(fresh=True):
            assert first.chunk(0).exists()


def test_killed_while_pictures_are_joined_it_loses_none(job, tmp_path, monkeypatch):
    out = tmp_path / "frames"
    pictures = RenderJob(**{**vars(job), "out": str(out), "background": "transparent"})
    real = os.replace

    def killed(source, target):
        if Path(target) == out:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        render(pictures)
    monkeypatch.undo()
    render(pictures)
    assert sorted(path.name for path in out.iterdir()) == [f"{frame:06d}.png" for frame in range(13)]
    assert not list(tmp_path.glob(".*"))
