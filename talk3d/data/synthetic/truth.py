"""What is known of a synthetic clip: written beside it, and read again as typed arrays."""

from __future__ import annotations

import json
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LABELS", "LANDMARKS", "FrameWriter", "Truth", "View"]

# what a pixel shows, in the order of the label maps' numbers
LABELS = ("background", "torso", "neck", "face", "hair", "ear", "lips", "mouth", "lid", "eye", "brow")
# left and right are the person's
LANDMARKS = (
    "nose_tip",
    "chin",
    "left_eye_outer",
    "left_eye_inner",
    "right_eye_outer",
    "right_eye_inner",
    "mouth_left",
    "mouth_right",
    "upper_lip_inner",
    "lower_lip_inner",
)
_MASKS = {
    "person": LABELS[1:],
    "head": LABELS[3:],
    "face": ("face", "lips", "mouth", "lid", "eye", "brow"),
    "mouth": ("lips", "mouth"),
    "eyes": ("lid", "eye"),
    "torso": ("torso", "neck"),
    "hair": ("hair",),
}


class FrameWriter:
    """Writes one array a frame into an npz file, so that memory does not grow with the clip."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write an array under a name."""
        entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that equal clips are equal files
        entry.compress_type = zipfile.ZIP_DEFLATED
        with self._zip.open(entry, "w", force_zip64=True) as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)

    def close(self) -> None:
        """Complete the file."""
        self._zip.close()


class View:
    """The head of one frame from a camera that the clip never shows.

    Attributes:
        frame: Which frame.
        yaw: Degrees by which the frame's own camera was turned about the head.
        camera: Camera vector in generator units, in the head's frame ``[25]``.
        image: ``[size, size, 3]`` (uint8), over the clip's background.
        alpha: Share of the person ``[size, size]``, 0 to 255 (uint8).
        labels: As :meth:`Truth.labels`.
        depth: As :meth:`Truth.depth`.
    """

    def __init__(self, index: int, truth: Truth) -> None:
        numbers, pixels = truth._views
        self.frame, self.yaw = int(numbers["frame"][index]), float(numbers["yaw"][index])
        self.camera: NDArray[np.float64] = numbers["camera"][index]
        self.image: NDArray[np.uint8] = pixels[f"image/{index:03d}"]
        self.alpha: NDArray[np.uint8] = pixels[f"alpha/{index:03d}"]
        self.labels: NDArray[np.uint8] = pixels[f"labels/{index:03d}"]
        self.depth = _centimetres(pixels[f"depth/{index:03d}"])

    def mask(self, name: str) -> NDArray[np.bool_]:
        """As :meth:`Truth.mask`."""
        return _mask(self.labels, name)


class Truth:
    """The truth of a clip; per-frame arrays are read when they are asked for.

    Attributes:
        meta: What ``truth.json`` says: conventions, names and parameters.
        angles: Yaw, pitch and roll of the camera in the head's frame, degrees ``[N, 3]``.
        head_to_world: Centimetres ``[N, 4, 4]``.
        torso_to_world: Centimetres ``[N, 4, 4]``.
        cam2world: The one camera, centimetres ``[4, 4]``.
        cam2head: Camera in the head's frame, centimetres ``[N, 4, 4]``.
        intrinsics: In units of the picture ``[3, 3]``.
        cameras: Camera vectors in generator units, in the head's frame ``[N, 25]``.
        landmarks: In the head's frame, centimetres ``[N, L, 3]``; names are :data:`LANDMARKS`.
        landmarks_2d: The same in the picture, x and y from 0 to 1 ``[N, L, 2]``.
        eye_opening: Left and right, 0 to 1 ``[N, 2]``.
        mouth_opening: Between the inner lips, centimetres ``[N]``.
        mouth_width: Between the corners, centimetres ``[N]``.
        mouth_rounding: 0 to 1 ``[N]``.
        blinks: First frame, last frame and middle in seconds of each blink ``[B, 3]``.
        held_out: The frames of the last tenth, from which the views are drawn ``[H]``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.meta: dict[str, Any] = json.loads((self.folder / "truth.json").read_text(encoding="utf-8"))
        with np.load(self.folder / "motion.npz", allow_pickle=False) as arrays:
            for name in arrays.files:
                setattr(self, name, arrays[name])

    angles: NDArray[np.float64]
    head_to_world: NDArray[np.float64]
    torso_to_world: NDArray[np.float64]
    cam2world: NDArray[np.float64]
    cam2head: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    cameras: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    landmarks_2d: NDArray[np.float64]
    eye_opening: NDArray[np.float64]
    mouth_opening: NDArray[np.float64]
    mouth_width: NDArray[np.float64]
    mouth_rounding: NDArray[np.float64]
    blinks: NDArray[np.float64]
    held_out: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.angles)

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """What the centre of each pixel shows, as numbers of :data:`LABELS` ``[size, size]``."""
        labels: NDArray[np.uint8] = self._frames[f"labels/{self._at(frame):06d}"]
        return labels

    def mask(self, frame: int, name: str) -> NDArray[np.bool_]:
        """Where something is seen ``[size, size]``: person, head, face, mouth, eyes, torso, hair, or a label.

        Raises:
            ValueError: There is no mask of this name.
        """
        return _mask(self.labels(frame), name)

    def alpha(self, frame: int) -> NDArray[np.uint8]:
        """Share of the person in each pixel ``[size, size]``, 0 to 255."""
        alpha: NDArray[np.uint8] = self._frames[f"alpha/{self._at(frame):06d}"]
        return alpha

    def depth(self, frame: int) -> NDArray[np.float32]:
        """Depth along the optical axis (z, not the ray) at each pixel's centre, cm ``[size, size]``; 0 is nothing."""
        return _centimetres(self._frames[f"depth/{self._at(frame):06d}"])

    @property
    def plate(self) -> NDArray[np.uint8]:
        """The background without the person ``[size, size, 3]``."""
        plate: NDArray[np.uint8] = self._frames["plate"]
        return plate

    @property
    def views(self) -> list[View]:
        """The head from cameras that the clip never shows."""
        return [View(index, self) for index in range(len(self._views[0]["frame"]))]

    @cached_property
    def _frames(self) -> Any:
        return np.load(self.folder / "frames.npz", allow_pickle=False)

    @cached_property
    def _views(self) -> tuple[dict[str, NDArray[Any]], Any]:
        pixels = np.load(self.folder / "views.npz", allow_pickle=False)
        return {name: pixels[name] for name in ("frame", "yaw", "camera")}, pixels

    def _at(self, frame: int) -> int:
        return range(len(self))[frame]


def _mask(labels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    names = _MASKS.get(name, (name,))
    if not set(names) <= set(LABELS):
        raise ValueError(f"mask must be one of {', '.join(dict.fromkeys([*_MASKS, *LABELS]))}, got {name!r}")
    return np.isin(labels, [LABELS.index(label) for label in names])


def _centimetres(depth: NDArray[np.uint16]) -> NDArray[np.float32]:
    return depth.astype(np.float32) / 100
