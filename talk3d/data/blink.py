"""How far each eye is closed, from the lids' distance over the eye's width, against the clip's own open eyes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talk3d.data.facemesh import LIDS

__all__ = ["aperture", "blink"]

_OPEN = 75  # percentile of a clip that is an open eye: people blink and look down for less than a quarter of it
_CLOSED = 0.3  # of the open eye's aperture: the tracker leaves a gap between closed lids


def aperture(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure the lids' distance over the eye's width, in space, so that turning the head changes little.

    Args:
        points: The tracker's ``[N, 478, 3]``.

    Returns:
        The right eye (left in the picture) and the left one ``[N, 2]``.
    """
    eyes = []
    for lids, (outer, inner) in LIDS:
        gap = np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in lids], 0)
        eyes.append(gap / np.linalg.norm(points[:, outer] - points[:, inner], axis=1))
    return np.stack(eyes, 1)


def blink(apertures: NDArray[np.float64], valid: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn apertures into 0 (open) to 1 (closed).

    Args:
        apertures: ``[N, 2]``.
        valid: Frames to learn the clip's open eyes from ``[N]``.

    Returns:
        Blink ``[N, 2]``, and the aperture of each open eye ``[2]``.
    """
    level = np.percentile(apertures[valid], _OPEN, axis=0)
    closed = np.minimum(_CLOSED * level, np.percentile(apertures[valid], 1, axis=0).clip(0.1 * level))
    return ((level - apertures) / (level - closed)).clip(0, 1), level
