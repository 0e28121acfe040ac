"""A dataset's folder appears whole or not at all, whenever a run is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from talk3d.data.meta import FILE
from talk3d.data.staging import staging


def make(out: Path, text: str | None) -> None:
    with staging(out, overwrite=True) as folder:
        (folder / FILE).write_text(text)


def test_what_fails_leaves_what_was_there(tmp_path):
    make(tmp_path / "ada", "first")
    with pytest.raises(TypeError):
        make(tmp_path / "ada", None)
    assert (tmp_path / "ada" / FILE).read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["ada"]


def test_killed_before_the_old_one_was_removed_it_may_be_made_again(tmp_path):
    make(tmp_path / "ada", "second")
    old = tmp_path / ".ada.old"
    old.mkdir()
    (old / FILE).write_text("first")
    make(tmp_path / "ada", "third")
    assert (tmp_path / "ada" / FILE).read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["ada"]


def test_two_at_once_are_refused(tmp_path):
    with staging(tmp_path / "ada"), pytest.raises(ValueError, match="is being made by another process"):
        make(tmp_path / "ada", "other")
