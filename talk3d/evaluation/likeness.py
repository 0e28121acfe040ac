"""Identity similarity: whether CurricularFace takes a rendered face for the person's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from talk3d.networks import CurricularFace
from talk3d.networks.faces import SIDE

__all__ = ["TEMPLATE", "Likeness", "align"]

# where a face of 112 pixels has the left and the right eye (of the picture), the nose, and the corners of the mouth
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)


def align(
    picture: UInt8[Tensor, "height width 3"], points: Float[NDArray[np.float64], "5 2"]
) -> Float[Tensor, "3 112 112"]:
    """Turn, scale and shift a face until its five points lie where the template has them, by least squares.

    Args:
        picture: Red, green and blue.
        points: Of the face in pixels, a pixel's middle being a whole number.

    Returns:
        From -1 to 1, black beyond the picture.
    """
    template, found = (part[:, 0] + 1j * part[:, 1] for part in (TEMPLATE, points))
    apart, seen = template - template.mean(), found - found.mean()
    turn = (apart.conj() * seen).sum() / (abs(apart) ** 2).sum()  # a similarity is a complex factor and a shift
    row, column = np.mgrid[:SIDE, :SIDE]
    where = turn * (column + 1j * row - template.mean()) + found.mean()
    height, width = picture.shape[:2]
    places = np.stack(((2 * where.real + 1) / width - 1, (2 * where.imag + 1) / height - 1), -1)
    planar = picture.permute(2, 0, 1)[None].float() / 255
    grid = torch.from_numpy(places).to(planar)[None]
    return 2 * grid_sample(planar, grid, align_corners=False)[0] - 1


class Likeness:
    """What CurricularFace says of faces.

    Args:
        network: The network.
        device: Where it is.
    """

    def __init__(self, network: CurricularFace, device: torch.device) -> None:
        self._network, self._device = network, device

    def __call__(
        self, pictures: Sequence[UInt8[Tensor, "height width 3"]], points: Sequence[NDArray[np.float64] | None]
    ) -> list[Tensor | None]:
        """Recognise the faces of pictures; None where there is none."""
        there = [k for k, five in enumerate(points) if five is not None]
        found: list[Tensor | None] = [None] * len(pictures)
        if there:
            faces = [align(pictures[k].to(self._device), points[k]) for k in there]  # type: ignore[arg-type]
            with torch.inference_mode():
                vectors = self._network(torch.stack(faces)).cpu()
            for k, vector in zip(there, vectors, strict=True):
                found[k] = vector
        return found
