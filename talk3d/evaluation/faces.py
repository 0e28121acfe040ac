"""Mouth and eyes of a face in a picture, as our tracker sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from talk3d.data.blink import aperture
from talk3d.data.facemesh import EYE_CORNERS
from talk3d.data.track import FaceTracker

__all__ = ["MOUTH", "Face", "FaceReader", "read_face"]

# where the 68-point scheme has points 48 to 67: outer lips from the right corner over the upper lip, then inner ones
MOUTH = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
_UPPER, _LOWER = 13, 14  # middle of the inner lips
_FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))  # corners of the eyes, tip of the nose, corners of the mouth


class Face(NamedTuple):
    """A face.

    Attributes:
        mouth: Twenty points of the mouth in pixels ``[20, 2]``.
        mouth_opening: Gap of the inner lips in space, over the distance of the outer corners of the eyes.
        eye_opening: Distance of the lids over the width of the eye in space, mean of both eyes.
        box: Left, top, right and bottom of the mesh in pixels.
        five: Middles of the eyes, tip of the nose and corners of the mouth in pixels, left ones first ``[5, 2]``.
    """

    mouth: NDArray[np.float64]
    mouth_opening: float
    eye_opening: float
    box: NDArray[np.float64]
    five: NDArray[np.float64]


class FaceReader:
    """Follow the face of one video.

    Raises:
        ImportError: If the tracker is not installed, with what to do.
    """

    def __init__(self) -> None:
        self._tracker = FaceTracker()

    def __call__(self, picture: NDArray[np.uint8]) -> Face | None:
        """Read the next picture ``[H, W, 3]``; None if it shows no face."""
        faces = self._tracker(np.ascontiguousarray(picture)).astype(np.float64)
        seen = [face for face in faces if not np.isnan(face[0, 0])]
        return read_face(max(seen, key=lambda face: float(np.ptp(face[:, 0])))) if seen else None

    def __enter__(self) -> FaceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._tracker.close()


def read_face(points: NDArray[np.float64]) -> Face:
    """Measure mouth and eyes of a mesh ``[478, 3]`` in pixels, depth in the same unit."""
    flat = points[:, :2]
    eyes = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    return Face(
        points[list(MOUTH), :2],
        float(np.linalg.norm(points[_UPPER] - points[_LOWER]) / eyes),
        float(aperture(points[None]).mean()),
        np.concatenate((flat.min(0), flat.max(0))),
        np.stack([flat[list(part)].mean(0) for part in _FIVE]),
    )
