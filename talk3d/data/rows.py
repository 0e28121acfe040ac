"""Arrays of many frames on disk, written and read a stretch at a time; what is read is not mapped, so memory stays."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PIECE", "RowWriter", "read_rows"]

PIECE = 512  # frames in memory at a time


class RowWriter:
    """Writes a ``.npy`` of float32 row by row.

    Args:
        path: The file.
        shape: Of the whole array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._file, self._shape, self._rows = path.open("wb"), shape, 0
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: NDArray[np.floating[Any]]) -> None:
        """Write the next rows ``[n, ...]``."""
        if rows.shape[1:] != self._shape[1:]:
            raise ValueError(f"rows must be [n, *{self._shape[1:]}], got {rows.shape}")
        self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
        self._rows += len(rows)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if kind is None and self._rows != self._shape[0]:
            raise ValueError(f"{self._rows} rows were written of {self._shape[0]}")


def read_rows(path: Path, start: int, stop: int) -> NDArray[np.float32]:
    """Read rows of what :class:`RowWriter` wrote."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        row = int(np.prod(shape[1:]))
        file.seek(start * row * kind.itemsize, 1)
        return np.fromfile(file, kind, (stop - start) * row).reshape(-1, *shape[1:])
