"""Which frames of a clip become the dataset: one shot, one face."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from talk3d.data.meta import Note
from talk3d.data.track import Track
from talk3d.data.video import FPS

__all__ = ["SHORTEST", "Shot", "choose", "runs", "split"]

SHORTEST = 50  # frames: two seconds, below which there is nothing to split
_BORDER = 8  # frames between two splits: each side's features look 4 frames ahead and back
_HELD_OUT = 0.1  # of the frames, for validation and for test each
_DARK = 16.0  # of 255


@dataclass(frozen=True)
class Shot:
    """What :func:`choose` chose.

    Attributes:
        start: First frame of the clip.
        stop: The one after the last.
        face: Which of the tracker's faces.
        valid: Whether it was found ``[stop - start]``.
        notes: What was left out, and why.
        total: Frames of the whole clip.
    """

    start: int
    stop: int
    face: int
    valid: NDArray[np.bool_]
    notes: tuple[Note, ...]
    total: int


def choose(track: Track, name: str) -> Shot:
    """Choose the shot with most frames of a face, from the first of them to the last, and the face that is largest.

    Raises:
        ValueError: If there is no face, or too little of it.
    """
    count = len(track)
    if count < SHORTEST:
        raise ValueError(f"{name} is too short: {count} frames of {SHORTEST} that are needed ({SHORTEST / FPS:.0f} s)")
    if not track.sizes.any():
        dark = " (it is black)" if track.brightness.max() < _DARK else ""
        raise ValueError(f"{name} shows no face in any of its {count} frames{dark}")
    ends = [0, *track.cuts, count]
    shots = []
    for start, stop in pairwise(ends):
        face = track.face(start, stop)
        found = start + np.flatnonzero(track.sizes[start:stop, face])
        if len(found):
            shots.append((len(found), int(found[0]), int(found[-1]) + 1, face))
    frames, start, stop, face = max(shots)
    if frames < SHORTEST:
        where = f" in its longest shot ({len(ends) - 1} shots)" if track.cuts else ""
        raise ValueError(f"{name} shows a face in only {frames} frames{where}; {SHORTEST} are needed")
    valid = track.sizes[start:stop, face] > 0
    notes = [
        Note(
            "cut",
            f"The clip has {len(track.cuts)} cut{'s' * (len(track.cuts) > 1)} at {_when(track.cuts)}; "
            f"the shot from {start / FPS:.2f} s to {stop / FPS:.2f} s was taken.",
        )
    ] * bool(track.cuts)
    if not track.cuts and stop - start < count:
        notes.append(
            Note("trimmed", f"{count - stop + start} frames without a face at the ends of the clip were left out.")
        )
    if not valid.all():
        gaps = tuple(runs(~valid))
        text = (
            f"No face was found in {(~valid).sum()} of {stop - start} frames: they are interpolated, and not sampled."
        )
        notes.append(Note("face lost", text, gaps))
    others = track.sizes[start:stop, 1 - face] > 0
    if others.any():
        text = f"Another face is seen in {others.sum()} frames; the one that is larger throughout was taken."
        notes.append(Note("two faces", text, tuple(runs(others))))
    return Shot(start, stop, face, valid, tuple(notes), count)


def split(frames: int) -> dict[str, tuple[int, int]]:
    """Split frames in time, 80 to 10 to 10, with a border of 8 frames in between that is in no split.

    The border is as long as two frames' features reach towards one another: no step of speech is heard in two splits.
    """
    held = max(round(_HELD_OUT * (frames - 2 * _BORDER)), 1)
    val = frames - 2 * held - _BORDER
    return {"train": (0, val - _BORDER), "val": (val, val + held), "test": (frames - held, frames)}


def runs(mask: NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """The first, and the one after the last, of every run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _when(frames: list[int]) -> str:
    shown = ", ".join(f"{frame / FPS:.2f} s" for frame in frames[:5])
    return shown + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
