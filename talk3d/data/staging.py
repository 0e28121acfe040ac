"""A folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from talk3d.beside import make_parent
from talk3d.data.meta import FILE

__all__ = ["staging"]


@contextmanager
def staging(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder beside ``out`` to write in, and rename it when all went well.

    What a killed run left there is removed. Nothing is lost of what ``out`` held until the new one is whole.

    Args:
        out: The folder to make.
        overwrite: Replace a dataset that is there.

    Raises:
        ValueError: If there is something already, or another process is at work on it.
    """
    out = out.absolute()
    _require_free(out, overwrite)
    make_parent(out)
    folder, lock = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out} is being made by another process") from None
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield folder
            _require_free(out, overwrite)
            old = out.with_name(f".{out.name}.old")
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)  # of a run that was killed after it had replaced it
                os.replace(out, old)
            os.replace(folder, out)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder")
    if any(out.iterdir()):
        if not (out / FILE).exists():
            raise ValueError(f"{out} exists already, and holds something else; name another")
        if not overwrite:
            raise ValueError(f"{out} holds a dataset already; name another folder, or --overwrite it")
