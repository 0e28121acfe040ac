"""Features of speech in the layout of ``aud_eo.npy``: for each frame of 25 a second, 16 steps of 50 a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from talk3d.audio import logmel, pretrained

__all__ = ["STEPS", "Encoder", "FeaturesInfo", "encode_speech", "windows", "write_array", "write_windows"]

_BEFORE, _AFTER = 4, 3  # frames that a speech token hears around its own

Encoder = Literal["logmel", "wav2vec2", "hubert"]
STEPS = 16  # around a frame: frame i hears steps 2i - 8 to 2i + 7
_PIECE = 512  # windows in memory at a time


@dataclass(frozen=True)
class FeaturesInfo:
    """How features were made, so that other speech can be given the same.

    Attributes:
        name: ``"logmel"``, ``"wav2vec2"``, ``"hubert"``, or ``"imported"`` for an array from elsewhere.
        width: F, numbers in a step.
        mean: Subtracted from each number; 0 unless ``logmel``.
        scale: By which the difference is divided; 1 unless ``logmel``.
        model: Folder or name of the encoder.
    """

    name: str
    width: int
    mean: float = 0.0
    scale: float = 1.0
    model: str | None = None


def encode_speech(
    wav: Path,
    out: Path,
    frames: int,
    encoder: Encoder = "logmel",
    *,
    like: FeaturesInfo | None = None,
    model: str | None = None,
) -> FeaturesInfo:
    """Encode speech once, and write each frame's window.

    Steps before the beginning and after the end are zero, which is the mean of normalised features.

    Args:
        wav: 16 kHz, one channel.
        out: A ``.npy`` file of ``[frames, 16, F]`` float32.
        frames: How many windows, 25 a second.
        encoder: See :mod:`talk3d.audio.logmel` and :mod:`talk3d.audio.pretrained`.
        like: Features to which these must compare: encoder, model, mean and scale are taken from there.
        model: Folder or name of a trained encoder.

    Returns:
        What is needed to do the same to other speech.

    Raises:
        ImportError: If the encoder's library is not installed.
        ValueError: If the encoder cannot be loaded, or ``like`` was imported.
    """
    if like is not None:
        if like.name == "imported":
            raise ValueError("features that were imported cannot be made for other speech; import those, too")
        if like.name not in get_args(Encoder):
            raise ValueError(f"speech features are one of {', '.join(get_args(Encoder))}, not {like.name!r}")
        encoder, model = like.name, like.model  # type: ignore[assignment]
    pieces = logmel.log_mel(wav) if encoder == "logmel" else pretrained.encode(wav, encoder, model)
    raw = out.with_name(f".{out.name}.steps")
    try:
        count, width, mean, scale = _store(pieces, raw)
        if encoder != "logmel":
            mean, scale = 0.0, 1.0
        if like is not None:
            mean, scale = like.mean, like.scale
        steps = np.memmap(raw, np.float32, "r", shape=(count, width)) if count else np.zeros((0, width), np.float32)
        write_windows(out, frames, width, ((steps[a:b] - mean) / scale for a, b in _needed(frames, count)))
    finally:
        raw.unlink(missing_ok=True)
    return FeaturesInfo(encoder, width, mean, scale, None if encoder == "logmel" else model)


def windows(features: NDArray[np.float32], frames: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather what speech tokens hear: ``[N, 16, F]`` to ``[len(frames), 8, 16, F]``, four frames before to three after.

    Frames before the first and after the last are zero.
    """
    around = np.asarray(frames)[:, None] + np.arange(-_BEFORE, _AFTER + 1)
    heard: NDArray[np.float32] = features[around.clip(0, len(features) - 1)]
    heard[(around < 0) | (around >= len(features))] = 0
    return heard


def write_array(out: Path, windows: NDArray[np.floating[Any]]) -> None:
    """Write windows ``[frames, 16, F]`` that are there already, such as a mapped ``aud_eo.npy``."""
    with out.open("wb") as file:
        _write_header(file, windows.shape)
        for begin in range(0, len(windows), _PIECE):
            file.write(np.ascontiguousarray(windows[begin : begin + _PIECE], np.float32).tobytes())


def write_windows(out: Path, frames: int, width: int, pieces: Iterator[NDArray[np.float32]]) -> None:
    """Write windows of pieces of steps: the piece for frames a to b - 1 holds steps 2a - 8 to 2b + 5 as they exist."""
    with out.open("wb") as file:
        _write_header(file, (frames, STEPS, width))
        for begin, piece in zip(range(0, frames, _PIECE), pieces, strict=True):
            end = min(begin + _PIECE, frames)
            wanted = 2 * (end - begin - 1) + STEPS
            before = max(STEPS // 2 - 2 * begin, 0)
            padded = np.zeros((wanted, width), np.float32)
            padded[before : before + len(piece)] = piece[: wanted - before]
            windows = np.lib.stride_tricks.sliding_window_view(padded, STEPS, axis=0)[::2]
            file.write(np.ascontiguousarray(windows.transpose(0, 2, 1)).tobytes())


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _needed(frames: int, steps: int) -> Iterator[tuple[int, int]]:
    """The steps that each piece of windows is made of."""
    for begin in range(0, frames, _PIECE):
        end = min(begin + _PIECE, frames)
        first = max(2 * begin - STEPS // 2, 0)
        yield min(first, steps), min(2 * (end - 1) + STEPS // 2, steps)


def _store(pieces: Iterator[NDArray[np.float32]], out: Path) -> tuple[int, int, float, float]:
    """Write steps as they come; returns their count, width, mean and standard deviation."""
    count, width, total, squares = 0, 0, 0.0, 0.0
    with out.open("wb") as file:
        for piece in pieces:
            count, width = count + len(piece), piece.shape[1]
            total += float(piece.sum(dtype=np.float64))
            squares += float(np.square(piece, dtype=np.float64).sum())
            file.write(np.ascontiguousarray(piece, np.float32).tobytes())
    numbers = max(count * width, 1)
    mean = total / numbers
    deviation = float(np.sqrt(max(squares / numbers - mean**2, 0.0)))
    return count, width, mean, max(deviation, 1e-3)  # silence has none
