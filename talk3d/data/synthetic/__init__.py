"""The synthetic clip: a person who never was, who speaks, with everything known about each frame.

A procedural head (implicit surfaces, sphere-traced on the CPU) says bundled sentences in front of a camera that stands
still. It is what the demo, the tests and the measurements of novel views stand on::

    clip = synthetic.cached(track="talk")       # written once, in under a minute
    clip.video, clip.speech                     # clip.mp4 (H.264, AAC) and speech.wav (16 kHz, mono)
    clip.truth.cameras, clip.truth.depth(0)     # Truth says what there is

Three tracks differ in how far the head turns: ``"talk"`` (yaw within ±15°, pitch within ±10°), ``"wide"`` (±30°, ±20°)
and ``"still"`` (±5°). The axes and angles are those of :mod:`talk3d.cameras`; ``truth.json`` repeats them.

- *Head's frame*, centimetres: x to the person's left, y up, z out of the face. The outer eye corners are 8.9 apart. A
  point X of it is at ``0.027 X + (0, 0.020, 0.107)`` in the units of generators; camera vectors are in those.
- *World*, centimetres: the camera is at (0, -1.5, 100) and looks along -z, the lamps and the background are fixed, the
  shoulders nearly so; ``head_to_world`` moves the head.
- *Yaw, pitch, roll* are of the camera as the head sees it: positive yaw shows more of the person's left cheek.
- *Depth* is along the optical axis. Masks and depth are of pixel centres, alpha and pictures are smooth at edges.
- *Views* show frames of the last tenth from cameras that turned about the vertical axis through the origin of the
  head's frame, by yaw ±30° and ±45°; their background is the clip's, unmoved.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from talk3d.data.synthetic.cache import cache_folder
from talk3d.data.synthetic.motion import Track
from talk3d.data.synthetic.truth import Truth, View

__all__ = ["SyntheticClip", "Track", "Truth", "View", "cached", "write"]

Progress = Callable[[int, int], object]
VERSION = 3  # of what is written: another one is another folder of the cache


@dataclass(frozen=True)
class SyntheticClip:
    """A clip that was written.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    @property
    def video(self) -> Path:
        """The clip, H.264 and AAC."""
        return self.folder / "clip.mp4"

    @property
    def speech(self) -> Path:
        """What is said, 16 kHz mono WAV."""
        return self.folder / "speech.wav"

    @cached_property
    def truth(self) -> Truth:
        """What is known of every frame."""
        return Truth(self.folder / "truth")


def write(
    folder: Path | str,
    *,
    track: Track = "talk",
    size: int = 256,
    seconds: float = 24.0,
    fps: float = 25,
    progress: Progress = lambda done, total: None,
) -> SyntheticClip:
    """Write a clip. The same arguments give the same pictures and the same truth.

    Args:
        folder: Where to; it must not exist or be empty. It appears when everything is written.
        track: How far the head turns.
        size: Pixels along a side, even.
        seconds: Length; the speech of 24 seconds is repeated or cut off.
        fps: Frames a second.
        progress: Called with the number of pictures that are made, and of all.

    Returns:
        The clip.

    Raises:
        ValueError: An argument is not possible.
        FileExistsError: The folder holds something.

    Example:
        >>> clip = write("clip", track="wide", size=512)
        >>> clip.truth.mask(0, "person").mean()
    """
    folder = Path(folder)
    _check(track, size, seconds, fps)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already: name a new folder")
    from talk3d.data.synthetic import motion, record, speech

    utterance = speech.load("talk").fit(seconds)
    rate = Fraction(fps).limit_denominator(1001)
    performance = motion.perform(track, utterance, float(rate))
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        record.film(part, performance, utterance, size, rate, {"version": VERSION, "track": track}, progress)
        part.chmod(0o755)  # mkdtemp's are private
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return SyntheticClip(folder)


def cached(
    *,
    track: Track = "talk",
    size: int = 256,
    seconds: float = 24.0,
    fps: float = 25,
    progress: Progress = lambda done, total: None,
) -> SyntheticClip:
    """Return the clip that :func:`write` writes, from the user's cache where it is there already.

    The cache is ``$TALK3D_CACHE``, or ``talk3d`` in ``$XDG_CACHE_HOME`` or where the system keeps caches.

    Raises:
        ValueError: An argument is not possible.
    """
    _check(track, size, seconds, fps)
    folder = cache_folder() / "synthetic" / f"v{VERSION}-{track}-{size}-{seconds:g}s-{fps:g}fps"
    if not folder.exists():
        try:
            write(folder, track=track, size=size, seconds=seconds, fps=fps, progress=progress)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    return SyntheticClip(folder)


def _check(track: Any, size: Any, seconds: Any, fps: Any) -> None:
    if track not in get_args(Track):
        raise ValueError(f"track must be one of {', '.join(get_args(Track))}, got {track!r}")
    if not isinstance(size, int) or size < 16 or size % 2:
        raise ValueError(f"size must be an even whole number, at least 16, got {size!r}")
    if not 1 <= fps <= 240:
        raise ValueError(f"fps must be between 1 and 240, got {fps!r}")
    if not 0.2 <= seconds <= 3600:
        raise ValueError(f"seconds must be between 0.2 and 3600, got {seconds!r}")
