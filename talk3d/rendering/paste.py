"""Putting a rendered crop back into the frame of the clip that it was cut from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from talk3d.data.video import Picture, Video
from talk3d.motion import Motion

__all__ = ["Paster"]

_NEAR = 50  # frames that are rather decoded than sought
_LEAST, _BUFFER = 8, 2**29  # frames and bytes that are kept where frames go back
_FEATHER = 0.08  # of the crop's side: how wide the seam is


class Paster:
    """Put crops back. The clip is read once, as crops come; where frames go back, it is read again from there.

    Args:
        clip: The clip.
        motion: Of all frames of the dataset that was made of it.
        start: The clip's frame that is the first of the dataset.
    """

    def __init__(self, clip: Path, motion: Motion, start: int = 0) -> None:
        self.clip, self.motion, self.start = clip, motion, start
        self._video = Video(clip)
        self._pictures: Iterator[Picture] = iter(())
        self._now: tuple[int, NDArray[np.uint8]] | None = None  # what was read last

    def __call__(self, crops: Iterable[NDArray[np.uint8]], frames: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Put each crop ``[S, S, 3]`` into the clip's frame of that number, which are near one another.

        Raises:
            ValueError: If the clip has no such frame.
        """
        for crop, frame, whole in zip(crops, frames, self._wholes(frames), strict=True):
            yield _paste(whole, crop, self.motion.crops[frame])

    def _wholes(self, frames: list[int]) -> Iterator[NDArray[np.uint8]]:
        done = 0
        while done < len(frames):
            if self._now is None or frames[done] >= self._now[0]:
                yield self._read(frames[done])
                done += 1
            else:  # backwards: a part of the way at a time, which is read forwards
                count = max(_LEAST, _BUFFER // self._now[1].nbytes)
                back = list(itertools.takewhile(frames[done].__ge__, frames[done : done + count]))
                found = {frame: self._read(frame) for frame in sorted(set(back))}
                yield from (found[frame] for frame in back)
                done += len(back)

    def _read(self, frame: int) -> NDArray[np.uint8]:
        """A frame of the dataset; next to nothing if it is the one that was read before, or the one after it."""
        if self._now is None or not 0 <= frame - self._now[0] <= _NEAR:
            self._pictures, self._now = self._video.since(frame + self.start), None
        while self._now is None or self._now[0] < frame:
            picture = next(self._pictures, None)
            if picture is None:
                self._now = None
                raise ValueError(f"{self.clip} has no frame {frame + self.start}: is it the avatar's clip?")
            self._now = picture.frame - self.start, picture.pixels
        height, width = (side - side % 2 for side in self._now[1].shape[:2])  # which H.264 wants even
        return self._now[1][:height, :width]


def _paste(whole: NDArray[np.uint8], crop: NDArray[np.uint8], matrix: Tensor) -> NDArray[np.uint8]:
    """Blend a crop over a frame; ``matrix`` maps the frame's pixels to the crop, its sides being 1."""
    height, width = whole.shape[:2]
    corners = torch.tensor([[0.0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.float64)
    linear = torch.linalg.inv(matrix[:, :2])
    back = torch.cat([linear, -linear @ matrix[:, 2:]], dim=1)
    (left, top), (right, bottom) = ((corners @ back.T).amin(0).tolist(), (corners @ back.T).amax(0).tolist())
    x0, x1 = max(int(left), 0), min(int(right) + 2, width)
    y0, y1 = max(int(top), 0), min(int(bottom) + 2, height)
    if x0 >= x1 or y0 >= y1:
        return whole
    ys, xs = torch.meshgrid(torch.arange(y0, y1) + 0.5, torch.arange(x0, x1) + 0.5, indexing="ij")
    places = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1).double() @ matrix.T  # in the crop, 0 to 1
    source = torch.from_numpy(crop).permute(2, 0, 1).float()[None]
    seen = grid_sample(source, (2 * places - 1).float()[None], padding_mode="border", align_corners=False)[0]
    edge = torch.minimum(places, 1 - places).amin(-1).float()
    share = (edge / _FEATHER).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    made = whole.copy()
    under = torch.from_numpy(whole[y0:y1, x0:x1].copy()).permute(2, 0, 1).float()
    made[y0:y1, x0:x1] = torch.lerp(under, seen, share).round_().clamp_(0, 255).byte().permute(1, 2, 0).numpy()
    return made
