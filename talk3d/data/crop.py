"""Cutting the crop out of a frame, and where its pixels come from.

Pixels have areas: the first one's centre is at (0.5, 0.5), and a picture of width W spans 0 to W.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut", "scale"]


def scale(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crop pixels per source pixel of similarities ``[..., 2, 3]``."""
    size: NDArray[np.float64] = np.linalg.norm(matrix[..., 0], axis=-1)
    return size


def cut(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Cut a crop out of a frame; beyond its edge, the edge goes on.

    Args:
        pixels: ``[H, W, 3]``, or ``[H, W]``.
        matrix: Source pixels to crop pixels ``[2, 3]``.
        size: Side of the crop.

    Returns:
        ``[size, size, 3]``, or ``[size, size]``.
    """
    import cv2

    coarse = int(1 / max(float(scale(matrix)), 1e-3))
    if coarse > 1:  # interpolation would skip pixels
        height, width = (-(-length // coarse) * coarse for length in pixels.shape[:2])
        padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
        whole = np.pad(pixels, padding[: pixels.ndim], mode="edge")
        pixels = cv2.resize(whole, (width // coarse, height // coarse), interpolation=cv2.INTER_AREA)
        matrix = np.concatenate((matrix[:, :2] * coarse, matrix[:, 2:]), 1)
    centers = matrix.copy()  # OpenCV's first pixel has its centre at 0
    centers[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    cropped: NDArray[np.uint8] = cv2.warpAffine(
        pixels, centers, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return cropped
