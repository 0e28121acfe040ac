"""The pictures of a dataset: crops, mattes and regions into the archive, and the plate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talk3d.data.archive import ArchiveWriter, encode_masks, encode_picture
from talk3d.data.crop import cut
from talk3d.data.matte import Segmenter, refine
from talk3d.data.plate import FRAMES, Plate
from talk3d.data.regions import draw
from talk3d.data.rows import read_rows
from talk3d.data.video import Picture, Pictures, ahead

__all__ = ["Written", "write_frames"]

SHOWN = 8  # frames of which the overview shows the whole picture
_THREADS, _WAITING = 2, 8  # that finish frames, and frames that may wait for them


class Written(NamedTuple):
    """What :func:`write_frames` tells.

    Attributes:
        unseen: The share of the plate that was never seen, and is painted in.
        shown: Some whole pictures by frame, for the overview.
    """

    unseen: float
    shown: dict[int, NDArray[np.uint8]]


def write_frames(
    pictures: Pictures,
    crops: NDArray[np.float64],
    start: int,
    size: int,
    folder: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> Written:
    """Write ``frames.zip`` and ``plate.png``; memory does not grow with the clip's length.

    Args:
        pictures: The clip.
        crops: Source pixels to crop pixels ``[N, 2, 3]``.
        start: The clip's frame that is the first.
        size: Side of the crops.
        folder: Where to write, and where ``landmarks.npy`` is.
        progress: Called with the number of frames done.

    Raises:
        ValueError: If the clip is not the same as when it was first read, or shows nothing but the person.
    """
    segment = Segmenter()
    archive = ArchiveWriter(folder / "frames.zip")
    waiting: deque[Future[tuple[bytes, bytes]]] = deque()
    done = 0
    looked_at = set(np.linspace(0, len(crops) - 1, min(FRAMES, len(crops))).round().astype(int).tolist())
    shown = np.linspace(0, len(crops) - 1, min(SHOWN, len(crops))).round().astype(int).tolist()
    pictures_shown: dict[int, NDArray[np.uint8]] = {}
    plate: Plate | None = None

    def finish(down_to: int) -> None:
        nonlocal done
        while len(waiting) > down_to:
            archive.append(*waiting.popleft().result())
            done += 1
            progress(done)

    def seen() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        nonlocal plate
        for picture in _stretch(pictures, start, start + len(crops)):
            index = picture.index - start
            if index in looked_at:
                plate = plate or Plate(folder / ".plate", *picture.pixels.shape[:2])
                plate.add(picture.pixels, segment(picture.pixels))
            if index in shown:
                pictures_shown[index] = picture.pixels
            crop = cut(picture.pixels, crops[index], size)
            yield crop, segment(crop)

    try:
        with ThreadPoolExecutor(_THREADS, "finish") as pool:
            for index, (crop, coarse) in enumerate(_steady(seen())):
                landmarks = read_rows(folder / "landmarks.npy", index, index + 1)[0]
                waiting.append(pool.submit(_encode, crop, coarse, landmarks.astype(np.float64)))
                finish(_WAITING)
            finish(0)
        archive.close()
    finally:
        segment.close()
    if done != len(crops) or plate is None:
        raise ValueError(f"the clip had {len(crops)} frames when it was first read, and now {done}")
    background, unseen = plate.finish()
    Image.fromarray(background).save(folder / "plate.png", compress_level=4)
    return Written(unseen, pictures_shown)


def _encode(
    crop: NDArray[np.uint8], coarse: NDArray[np.float32], landmarks: NDArray[np.float64]
) -> tuple[bytes, bytes]:
    matte = refine(coarse, crop)
    return encode_picture(crop), encode_masks(matte, draw(landmarks, matte))


def _stretch(pictures: Pictures, start: int, stop: int) -> Iterator[Picture]:
    for picture in ahead(pictures):
        if picture.index >= stop:
            return
        if picture.index >= start:
            yield picture


def _steady(
    seen: Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]],
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Average each matte with the ones before and after, which count half: the crop holds the head still."""
    before: NDArray[np.float32] | None = None
    now: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
    for after in seen:
        if now is not None:
            past = now[1] if before is None else before
            yield now[0], (past + 2 * now[1] + after[1]) / 4
            before = now[1]
        now = after
    if now is not None:
        yield now[0], ((now[1] if before is None else before) + 3 * now[1]) / 4
