"""What a dataset is made of: a clip, or a folder that another project prepared and that already has some of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talk3d.data.meta import Note
from talk3d.data.video import Pictures

__all__ = ["Given", "Mask", "Material"]

Array = NDArray[np.float64]
# a frame's masks in the uncropped picture, by name: "person", and some of "face", "mouth", "eyes", "torso"; 0 to 255
Mask = Callable[[int], dict[str, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Given:
    """What a prepared folder brings along, and nobody has to find out; all of the clip's frames, or None.

    Attributes:
        cam2world: Poses ``[N, 4, 4]``.
        face: Nose tip, left and right eye's outer corner in the frame that was cropped, from its middle, in halves of
            its width ``[N, 3, 2]``.
        blink: 0 to 1 ``[N]``.
        features: Windows of speech features ``[N, 16, F]``, read when used.
        masks: See :data:`Mask`.
        plate: The background ``[Hs, Ws, 3]``.
        splits: First frame, and the one after the last, of ``"train"``, ``"val"`` and ``"test"``.
    """

    cam2world: Array | None = None
    face: Array | None = None
    blink: Array | None = None
    features: NDArray[np.float32] | None = None
    masks: Mask | None = None
    plate: NDArray[np.uint8] | None = None
    splits: dict[str, tuple[int, int]] | None = None


@dataclass(frozen=True)
class Material:
    """What a dataset is made of.

    Attributes:
        name: Of the clip or folder.
        pictures: At 25 a second.
        expected: How many there will be, if that is known.
        sound: Whose first sound is taken.
        cropped: Whether pictures are crops already, and stay as they are.
        given: What is known without looking.
        source: For ``meta.json``; called when all pictures were seen.
        notes: For ``meta.json``; called when all pictures were seen.
        start: Time of the first picture on the sound's clock, in seconds.
    """

    name: str
    pictures: Pictures
    expected: int | None
    sound: Path
    cropped: bool = False
    given: Given = field(default_factory=Given)
    source: Callable[[], dict[str, Any]] = dict
    notes: Callable[[], list[Note]] = list
    start: float = 0.0
