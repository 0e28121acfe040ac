"""The background of a clip without the person: a robust median, painted in where it is never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plate"]

FRAMES = 48  # that are looked at, from all over the clip
_SEEN = 3  # frames that must show a pixel
_BAND = 2**26  # bytes in memory at a time
_MARGIN = 0.012  # of the frame's longer side: the person's edge is left out, too
_PAINTED = 192  # pixels to which the frame is reduced for painting in: what nobody knows has no detail


class Plate:
    """Collects frames on disk; memory depends neither on their number nor on their size.

    Args:
        file: Where to keep them.
        height: Of a frame.
        width: Of a frame.
    """

    def __init__(self, file: Path, height: int, width: int) -> None:
        self._file, self._shape = file, (height, width)
        self._count = 0
        file.write_bytes(b"")

    def add(self, pixels: NDArray[np.uint8], person: NDArray[np.float32]) -> None:
        """Look at a frame ``[H, W, 3]``, whose person is somewhere in ``[h, w]``, 0 to 1."""
        import cv2

        height, width = self._shape
        reach = 2 * round(_MARGIN * max(self._shape)) + 1
        seen = cv2.resize(person, (width, height), interpolation=cv2.INTER_LINEAR) > 0.1
        covered = cv2.dilate(seen.astype(np.uint8), np.ones((reach, reach), np.uint8))
        with self._file.open("ab") as file:
            # by rows, so that a band of all frames can be read
            file.write(np.concatenate((pixels, covered[..., None]), -1).tobytes())
        self._count += 1

    def finish(self) -> tuple[NDArray[np.uint8], float]:
        """Make the plate ``[H, W, 3]``; also returns which share of it nobody saw."""
        height, width = self._shape
        plate = np.zeros((height, width, 3), np.uint8)
        unseen = np.zeros((height, width), np.uint8)
        rows = max(_BAND // (self._count * width * 16), 1)
        row = 4 * width
        with self._file.open("rb") as file:
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                band = np.empty((self._count, bottom - top, width, 4), np.uint8)
                for n in range(self._count):
                    file.seek(n * height * row + top * row)
                    band[n] = np.frombuffer(file.read((bottom - top) * row), np.uint8).reshape(band.shape[1:])
                plate[top:bottom], unseen[top:bottom] = _median(band)
        self._file.unlink()
        if unseen.all():
            raise ValueError("the person covers all of the picture in every frame: there is no background to find")
        return _paint(plate, unseen), float(unseen.mean())


def _median(band: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Median of uncovered colours of ``[K, h, w, 4]``, and where there are too few."""
    free = band[..., 3] == 0
    count = free.sum(0)
    colors = np.where(free[..., None], band[..., :3], 255).astype(np.uint8)
    colors.sort(axis=0)  # covered ones last
    middle = np.maximum(count - 1, 0) // 2
    chosen = np.take_along_axis(colors, middle[None, ..., None].repeat(3, -1), 0)[0]
    return chosen, count < min(_SEEN, len(band))


def _paint(plate: NDArray[np.uint8], unseen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint in what is unseen, coarsely, with a soft seam."""
    import cv2

    if not unseen.any():
        return plate
    height, width = unseen.shape
    factor = min(_PAINTED / max(height, width), 1)
    small = (max(round(width * factor), 2), max(round(height * factor), 2))
    known = cv2.resize((1 - unseen).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    colors = cv2.resize(plate * (1.0 - unseen[..., None]).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    colors = np.rint(colors / np.maximum(known, 1e-3)[..., None]).clip(0, 255).astype(np.uint8)
    filled = cv2.inpaint(colors, (known < 0.5).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    hole = (known < 0.5)[..., None]
    filled = np.where(hole, cv2.GaussianBlur(filled, (0, 0), 4), filled)
    large = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
    seam = cv2.GaussianBlur(unseen.astype(np.float32), (0, 0), max(height, width) / 256)
    seam = np.maximum(seam, unseen)[..., None]
    painted: NDArray[np.uint8] = (
        np.rint(plate + seam * (large.astype(np.float32) - plate)).clip(0, 255).astype(np.uint8)
    )
    return painted
