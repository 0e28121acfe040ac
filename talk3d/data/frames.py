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
from talk3d.data.material import Material
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
    material: Material,
    crops: NDArray[np.float64],
    start: int,
    size: int,
    folder: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> Written:
    """Write ``frames.zip`` and ``plate.png``; memory does not grow with the clip's length.

    Args:
        material: The clip, and what is known of its pictures.
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

    def seen() -> Iterator[_Seen]:
        nonlocal plate
        for picture in _stretch(material.pictures, start, start + len(crops)):
            index = picture.frame - start
            if index in looked_at and material.given.plate is None:
                plate = plate or Plate(folder / ".plate", *picture.pixels.shape[:2])
                plate.add(picture.pixels, segment(picture.pixels))
            if index in shown:
                pictures_shown[index] = picture.pixels
            crop = cut(picture.pixels, crops[index], size)
            masks = {}
            if material.given.masks is not None:
                whole = material.given.masks(picture.frame)
                masks = {name: cut(mask, crops[index], size) for name, mask in whole.items()}
            person = masks.pop("person", None)
            coarse = segment(crop) if person is None else person.astype(np.float32) / 255
            yield _Seen(crop, coarse, masks)

    try:
        with ThreadPoolExecutor(_THREADS, "finish") as pool:
            for index, frame in enumerate(_steady(seen())):
                landmarks = read_rows(folder / "landmarks.npy", index, index + 1)[0]
                waiting.append(pool.submit(_encode, frame, landmarks.astype(np.float64)))
                finish(_WAITING)
            finish(0)
        archive.close()
    finally:
        segment.close()
    if done != len(crops):
        raise ValueError(f"the clip had {len(crops)} frames when it was first read, and now {done}")
    background, unseen = plate.finish() if plate else (material.given.plate, 0.0)
    assert background is not None  # as one is given, or made from frames
    Image.fromarray(background).save(folder / "plate.png", compress_level=4)
    return Written(unseen, pictures_shown)


class _Seen(NamedTuple):
    """A crop ``[S, S, 3]``, its coarse matte ``[h, w]``, 0 to 1, and masks of regions that are known ``[S, S]``."""

    crop: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    masks: dict[str, NDArray[np.uint8]]


def _encode(frame: _Seen, landmarks: NDArray[np.float64]) -> tuple[bytes, bytes]:
    matte = refine(frame.coarse, frame.crop)
    return encode_picture(frame.crop), encode_masks(matte, draw(landmarks, matte, frame.masks))


def _stretch(pictures: Pictures, start: int, stop: int) -> Iterator[Picture]:
    for picture in ahead(pictures):
        if picture.frame >= stop:
            return
        if picture.frame >= start:
            yield picture


def _steady(frames: Iterator[_Seen]) -> Iterator[_Seen]:
    """Average each matte with the ones before and after, which count half: the crop holds the head still."""
    before: NDArray[np.float32] | None = None
    now: _Seen | None = None
    for after in frames:
        if now is not None:
            past = now.coarse if before is None else before
            yield now._replace(coarse=(past + 2 * now.coarse + after.coarse) / 4)
            before = now.coarse
        now = after
    if now is not None:
        yield now._replace(coarse=((now.coarse if before is None else before) + 3 * now.coarse) / 4)
