"""Face, mouth, eyes and torso of a crop, drawn from landmarks and matte."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from talk3d.data.facemesh import CHIN, EYES, LIPS, OVAL

__all__ = ["NAMES", "draw"]

NAMES = ("face", "mouth", "eyes", "torso")
_FOREHEAD = 1.18  # the mesh ends below the hair: its upper half grows by this, away from its middle
_LIP_MARGIN, _EYE_MARGIN = 0.006, 0.008  # of the crop's side
_SUBPIXEL = 4  # binary digits behind the point in OpenCV's polygons


def draw(
    landmarks: NDArray[np.float64], matte: NDArray[np.uint8], known: Mapping[str, NDArray[np.uint8]] | None = None
) -> NDArray[np.uint8]:
    """Draw regions.

    Args:
        landmarks: ``[478, 2]``, the crop's sides being 1.
        matte: The person ``[S, S]``, 0 to 255.
        known: Regions by name that need not be drawn ``[S, S]``, 0 to 255.

    Returns:
        Bits ``[S, S]``: bit k is set in region k of :data:`NAMES`. The torso is what of the person lies below the
        line of the jaw, which goes on level from the chin at both sides; long hair there is part of it.
    """
    size = len(matte)
    points = landmarks * size
    oval = points[list(OVAL)]
    center = (oval.max(0) + oval.min(0)) / 2
    grown = np.where(oval[:, 1:] < center[1], center + _FOREHEAD * (oval - center), oval)
    face = _fill(size, [grown]) & (matte > 127)
    mouth = _fill(size, [points[list(LIPS)]], _LIP_MARGIN)
    eyes = _fill(size, [points[list(eye)] for eye in EYES], _EYE_MARGIN)
    jaw = oval[oval[:, 1] > center[1]]
    jaw = jaw[np.argsort(jaw[:, 0])]
    across = np.arange(size) + 0.5
    floor = np.interp(across, jaw[:, 0], jaw[:, 1], left=points[CHIN, 1], right=points[CHIN, 1])
    torso = (matte > 127) & (across[:, None] > floor) & ~face
    bits = np.zeros((size, size), np.uint8)
    for bit, (name, region) in enumerate(zip(NAMES, (face, mouth, eyes, torso), strict=True)):
        if known and name in known:
            region = known[name] > 127
        bits |= region.astype(np.uint8) * np.uint8(1 << bit)
    return bits


def _fill(size: int, polygons: list[NDArray[np.float64]], margin: float = 0.0) -> NDArray[np.bool_]:
    import cv2

    canvas = np.zeros((size, size), np.uint8)
    for polygon in polygons:
        fixed = np.rint((polygon - 0.5) * 2**_SUBPIXEL).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 1, shift=_SUBPIXEL)
    if margin:
        reach = max(round(margin * size), 1)
        canvas = cv2.dilate(canvas, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    filled: NDArray[np.bool_] = canvas > 0
    return filled
