"""Pictures of a dataset: one uncompressed zip, which any tool opens, with a JPEG and a PNG for each frame.

Why one file: a clip of five minutes has 7,500 frames, and folders of 15,000 small files are slow to copy, to list and
to delete, on network disks above all. Why a zip: its index is a standard, at the end, so that a file that breaks off is
known as such; and as its members are stored as they are, a reader takes each with one ``pread``, from any process.

``00000.jpg`` is the crop (quality 95, all chroma); ``00000.png`` has the matte as grey and the regions' bits as alpha.
"""

from __future__ import annotations

import io
import os
import struct
import weakref
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ArchiveReader", "ArchiveWriter", "encode_masks", "encode_picture"]

_QUALITY = 95
_LOCAL_HEADER = 30  # bytes before the name; the last four are the lengths of name and extra field


def encode_picture(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG of ``[S, S, 3]``."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def encode_masks(matte: NDArray[np.uint8], regions: NDArray[np.uint8]) -> bytes:
    """PNG of a matte ``[S, S]`` and the bits of regions ``[S, S]``."""
    out = io.BytesIO()
    Image.fromarray(np.stack((matte, regions), -1), "LA").save(out, "PNG", compress_level=3)
    return out.getvalue()


class ArchiveWriter:
    """Appends frames; the file is one only after :meth:`close`."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._count = 0

    def append(self, picture: bytes, masks: bytes) -> None:
        """Write the next frame, encoded."""
        for ending, data in (("jpg", picture), ("png", masks)):
            # the same input makes the same bytes: no time of day
            member = zipfile.ZipInfo(f"{self._count:05d}.{ending}", date_time=(1980, 1, 1, 0, 0, 0))
            self._zip.writestr(member, data)
        self._count += 1

    def close(self) -> None:
        """Write the index."""
        self._zip.close()


class ArchiveReader:
    """Reads frames in any order, from any thread or process. Its file is closed when it goes.

    Args:
        path: What :class:`ArchiveWriter` wrote.

    Raises:
        ValueError: If the file is damaged or its names are others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = {member.filename: member for member in archive.infolist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        self._count = len(members) // 2
        try:
            found = [members[f"{n:05d}.{ending}"] for n in range(self._count) for ending in ("jpg", "png")]
        except KeyError as error:
            raise ValueError(f"{path} is damaged: {error.args[0]} is missing") from None
        self._places = np.array([(m.header_offset, m.file_size) for m in found], np.int64).reshape(-1, 2, 2)
        self._file: io.FileIO | None = None

    def __len__(self) -> int:
        """Count frames."""
        return self._count

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Decode a crop ``[S, S, 3]``."""
        return self._decode(index, 0)

    def masks(self, index: int) -> NDArray[np.uint8]:
        """Decode matte and regions' bits ``[S, S, 2]``."""
        return self._decode(index, 1)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_file": None}

    def _decode(self, index: int, part: int) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(self._read(index, part))) as picture:
                return np.array(picture)
        except (OSError, SyntaxError, ValueError, struct.error) as error:  # what PIL calls damage
            raise ValueError(f"{self.path} is damaged: frame {index} cannot be decoded ({error})") from None

    def _read(self, index: int, part: int) -> bytes:
        if self._file is None:
            self._file = io.FileIO(self.path)
            weakref.finalize(self, self._file.close)
        handle = self._file.fileno()
        offset, length = (int(number) for number in self._places[index, part])
        name, extra = struct.unpack("<HH", os.pread(handle, 4, offset + _LOCAL_HEADER - 4))
        return os.pread(handle, length, offset + _LOCAL_HEADER + name + extra)
