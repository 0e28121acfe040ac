"""Putting a rendered crop back into the frame of the clip that it was cut from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from talk3d.data.video import Video
from talk3d.motion import Motion

__all__ = ["Paster"]

_FEATHER = 0.08  # of the crop's side: how wide the seam is


class Paster:
    """Put crops back.

    Args:
        clip: The clip.
        motion: Of all frames of the dataset that was made of it.
        start: The clip's frame that is the first of the dataset.
    """

    def __init__(self, clip: Path, motion: Motion, start: int = 0) -> None:
        self.clip, self.motion, self.start = clip, motion, start

    def __call__(self, crops: Iterable[NDArray[np.uint8]], frames: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Put each crop ``[S, S, 3]`` into the clip's frame of that number, which are near one another.

        Raises:
            ValueError: If the clip has no such frame.
        """
        whole = self._read(set(frames))
        for crop, frame in zip(crops, frames, strict=True):
            yield _paste(whole[frame], crop, self.motion.crops[frame])

    def _read(self, wanted: set[int]) -> dict[int, NDArray[np.uint8]]:
        found: dict[int, NDArray[np.uint8]] = {}
        for picture in Video(self.clip):
            index = picture.frame - self.start
            if index in wanted:
                height, width = (side - side % 2 for side in picture.pixels.shape[:2])  # which H.264 wants even
                found[index] = picture.pixels[:height, :width]
            if len(found) == len(wanted):
                return found
        raise ValueError(
            f"{self.clip} has no frame {max(wanted - found.keys()) + self.start}: is it the avatar's clip?"
        )


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
