"""The background of a clip, without the person, as crops show it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

__all__ = ["Backdrop", "signed"]


class Backdrop:
    """Warp a plate to crops.

    Args:
        plate: The uncropped background, uint8 ``[Hs, Ws, 3]``.
        crops: Its pixels to each crop, whose sides are 1, ``[N, 2, 3]``.
        size: Side of a crop in pixels.
    """

    def __init__(self, plate: UInt8[Tensor, "height width 3"], crops: Float[Tensor, "frame 2 3"], size: int) -> None:
        crops = crops.double()
        scale = size * crops[:, :, 0].norm(dim=1).median().item()  # crop pixels per source pixel
        pictures = signed(plate)[None]
        height, width = plate.shape[:2]
        if scale < 0.5:  # sampling would skip pixels
            smaller = tuple(max(round(side * scale), 1) for side in (height, width))
            pictures = interpolate(pictures, smaller, mode="bilinear", antialias=True, align_corners=False)
        self._plate = pictures
        linear = torch.linalg.inv(crops[:, :, :2])
        back = torch.cat([linear, -linear @ crops[:, :, 2:]], dim=2)  # crop, sides 1, to source pixels
        # grid_sample wants the plate to reach from -1 to 1
        ends = torch.tensor([[2 / width], [2 / height]], dtype=torch.float64)
        self._back = (back * ends - torch.tensor([[0.0, 0, 1]], dtype=torch.float64)).float()
        self._centers = (torch.arange(size) + 0.5) / size

    def __call__(self, frame: int) -> Float[Tensor, "3 size size"]:
        """Show it in the crop of a frame, -1 to 1; beyond its edge, the edge goes on."""
        size = len(self._centers)
        grid = torch.empty(size, size, 2)
        # affine_grid is a matrix product, and takes nine times as long as these sums
        for axis, (across, down, shift) in enumerate(self._back[frame].tolist()):
            torch.add((down * self._centers + shift)[:, None], across * self._centers, out=grid[..., axis])
        # torch shares a batch out among threads, but not a picture: so it is asked for bands of one
        bands = grid.view(math.gcd(size, 16), -1, size, 2)
        plates = self._plate.expand(len(bands), -1, -1, -1)
        found = grid_sample(plates, bands, padding_mode="border", align_corners=False)
        return found.transpose(0, 1).reshape(3, size, size)


def signed(pixels: UInt8[Tensor, "height width 3"]) -> Float[Tensor, "3 height width"]:
    """Bring a picture from 0 to 255 to -1 to 1, channels first."""
    return pixels.permute(2, 0, 1).float().div(127.5).sub(1)
