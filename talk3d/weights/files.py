"""Open a checkpoint, whatever it is written in, as a tree of plain containers, records and stored tensors."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from talk3d.weights.pickles import LEGACY_MAGIC, Machine, read_legacy
from talk3d.weights.recorded import Storage, UnreadableCheckpoint

__all__ = ["Checkpoint", "read_checkpoint"]

_LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: The file.
        tree: Dictionaries, lists, tuples, numbers, strings, :class:`~talk3d.weights.recorded.Recorded` and
            :class:`~talk3d.weights.recorded.StoredTensor`.
        names: Classes and functions that it refers to, as ``module.name``.
    """

    path: Path
    tree: object
    names: frozenset[str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a pickle, or a file of ``torch.save`` of either format, and run nothing.

    Tensors stay in the file until they are loaded.

    Raises:
        UnreadableCheckpoint: If it is not there, none of these, damaged, cut short, or asks for what no model needs.
    """
    if not path.exists():
        raise UnreadableCheckpoint(f"{path} does not exist; it should be a checkpoint")
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path}: it is not a file")
    try:
        tree, names = _read(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path}: it cannot be read: {error.strerror}") from error
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from error.__cause__
    return Checkpoint(path, tree, frozenset(names))


def _read(path: Path) -> tuple[object, set[str]]:
    with path.open("rb") as file:
        start = file.read(16)
        if not start:
            raise UnreadableCheckpoint("it is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if start.startswith(b"PK"):
            return _read_archive(file, memoryview(mapped))
    if start[0] != 0x80:  # PROTO, with which every pickle since protocol 2 begins
        text = " but text, perhaps a web page or a pointer to the file" if _is_text(start) else ""
        raise UnreadableCheckpoint(f"it is neither a pickle nor a file of PyTorch{text}")
    machine = Machine()
    tree = machine.run(mapped)
    if tree == LEGACY_MAGIC:
        mapped.seek(0)
        return read_legacy(mapped, memoryview(mapped))
    return tree, machine.names


def _is_text(start: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in start)


def _read_archive(file: io.BufferedReader, data: memoryview) -> tuple[object, set[str]]:
    try:
        entries = {info.filename: info for info in zipfile.ZipFile(file).infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnreadableCheckpoint("the archive is cut short or damaged") from error
    pickled = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise UnreadableCheckpoint("it is an archive, but not one of torch.save: it has no data.pkl")
    folder = pickled[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise UnreadableCheckpoint("it is a TorchScript program; only weights can be read")

    def entry(name: str) -> memoryview:
        if folder + name not in entries:
            raise UnreadableCheckpoint(f"the archive lacks its entry {name}")
        return _stored(entries[folder + name], data)

    def persistent(key: str, dtype: torch.dtype, numel: int) -> Storage:
        numbers = entry(f"data/{key}")
        if len(numbers) != numel * dtype.itemsize:
            raise UnreadableCheckpoint(f"storage {key} has {len(numbers)} bytes, not {numel} elements of {dtype}")
        return Storage(dtype, numel, lambda: numbers)

    if f"{folder}byteorder" in entries and bytes(entry("byteorder")) != b"little":
        raise UnreadableCheckpoint("it was written on a big-endian machine")
    machine = Machine(persistent)
    return machine.run(io.BytesIO(entry("data.pkl"))), machine.names


def _stored(info: zipfile.ZipInfo, data: memoryview) -> memoryview:
    """The bytes of an entry that is not compressed: torch.save compresses none, a zip bomb all."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise UnreadableCheckpoint("the archive is compressed or encrypted, which torch.save never does")
    if not 0 <= info.header_offset <= len(data) - _LOCAL_HEADER:
        raise UnreadableCheckpoint("the archive is damaged: an entry lies outside it")
    name, extra = struct.unpack_from("<26xHH", data, info.header_offset)
    begin = info.header_offset + _LOCAL_HEADER + name + extra
    if begin + info.file_size > len(data):
        raise UnreadableCheckpoint("the archive is damaged: an entry is larger than it")
    return data[begin : begin + info.file_size]
