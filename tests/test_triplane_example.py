"""The tri-plane example, made small: it holds from new directions, and shows; the same work gives the same file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageStat

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import triplane

SMALL = triplane.Size(plane=32, views=4, view=32, steps=100, rays=512, tile=48)


@pytest.fixture(scope="module")
def made():
    return triplane.make(SMALL)


def test_new_views_are_like_the_head(made):
    assert made[1] > 20  # one picture for all directions, at its best, has 16.7, and a white one 8.1


def test_every_part_of_the_picture_shows_something(made):
    width, height = made[0].size
    planes, views, depths = (0, 0, width // 5, height), (width // 5, 0, width, height // 2), (width // 5, height // 2)
    for part in (planes, views, (*depths, width, height)):
        assert min(ImageStat.Stat(made[0].crop(part)).stddev) > 20


def test_the_same_work_gives_the_same_file(monkeypatch, tmp_path, capsys):
    size = replace(SMALL, views=2, steps=3)
    monkeypatch.setattr(triplane, "Size", lambda: size)
    first, second = tmp_path / "new" / "first.png", tmp_path / "second"
    for out in (first, second):
        triplane.main(out)
        assert str(out) in capsys.readouterr().out
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first.png", "new", "second"]
