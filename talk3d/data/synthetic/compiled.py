"""The functions that numba compiles, imported so that their machine code is kept and is always that of the source.

Numba finds compiled code again by the date of the file that a function is in, and would miss a change of a file whose
functions are inlined there: a folder of the cache is named after the source of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

from talk3d.data.synthetic.cache import cache_folder

__all__ = ["find_landmarks", "render"]

_SOURCES = ("head.py", "paint.py", "picture.py")


@contextmanager
def _kept() -> Iterator[None]:
    here = Path(__file__).parent
    digest = sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]
    config: Any = numba.config
    before, folder = config.CACHE_DIR, cache_folder() / "numba" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.CACHE_DIR = str(folder)
    except OSError:
        pass  # numba then keeps it beside the source, or where it keeps what others compile
    yield
    config.CACHE_DIR = before


with _kept():
    from talk3d.data.synthetic.head import find_landmarks
    from talk3d.data.synthetic.picture import render
