"""Files and folders that appear whole or not at all: written beside their place, and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["beside", "make_parent", "replacing", "require_place"]


def beside(path: Path) -> Path:
    """A hidden name in the same folder, of the same ending, to write what will be renamed to ``path``.

    No two are alike: threads share their process number, and machines and containers that share the folder may too.
    """
    return path.with_name(f".{uuid4().hex[:12]}.{path.name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write a file or a folder at, which is renamed if all went well, or removed.

    A file that is there already is replaced; a folder is not, unless it is empty.
    """
    unfinished = beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
        raise


def make_parent(path: Path) -> None:
    """Make the folder in which ``path`` shall be written.

    Raises:
        ValueError: If something on the way there is a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path} cannot be made: part of its path is a file") from None


def require_place(path: Path, endings: Sequence[str]) -> None:
    """Make sure that a file can be written, before what it shall hold is computed.

    Raises:
        ValueError: If it has none of these endings, its folder is not there, or it is a folder.
    """
    if path.suffix.lower() not in endings:
        raise ValueError(f"{path} can be written as {', '.join(endings)}, not {path.suffix or 'without ending'}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.absolute().parent} is no folder")
