"""The person's matte: MediaPipe's selfie segmentation, sharpened along the picture's edges and steady in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talk3d.data.mediapipe import start

__all__ = ["Segmenter", "refine"]

_RADIUS, _SMOOTHNESS = 6, 1e-4  # of the guided filter: pixels at 512, and the variance of colours that is no edge


class Segmenter:
    """How likely each pixel shows a person.

    Raises:
        ImportError: If MediaPipe is not installed.
    """

    def __init__(self) -> None:
        self._network = start(lambda solutions: solutions.selfie_segmentation.SelfieSegmentation(model_selection=0))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Segment a picture ``[H, W, 3]``: ``[256, 256]``, 0 to 1, as the network sees it."""
        import cv2

        small = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA)
        likely: NDArray[np.float32] = self._network.process(small).segmentation_mask
        return likely

    def close(self) -> None:
        """Give its threads back."""
        self._network.close()


def refine(coarse: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a coarse matte to a picture's size and edges by a guided filter (He et al. 2010).

    Args:
        coarse: 0 to 1 ``[h, w]``.
        pixels: ``[H, W, 3]``.

    Returns:
        0 to 255 ``[H, W]``.
    """
    import cv2

    height, width = pixels.shape[:2]
    radius = max(round(_RADIUS * max(height, width) / 512), 2)
    guide = pixels.astype(np.float32) / 255
    large = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    fine = cv2.ximgproc.guidedFilter(guide, large, radius, _SMOOTHNESS)
    # what the network is nearly sure of is so: hair lies in between
    fine = np.clip((fine - 0.15) / 0.7, 0, 1)
    out: NDArray[np.uint8] = np.rint(255 * fine).astype(np.uint8)
    return out
