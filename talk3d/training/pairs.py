"""What is compared: rendered pictures beside filmed ones."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from talk3d.training import losses

__all__ = ["Pair"]


class Pair(NamedTuple):
    """Pictures that are compared.

    Attributes:
        found: Rendered ``[B, 3, H, W]``.
        target: Filmed.
        regions: Face, mouth, eyes, torso ``[B, 4, H, W]``.
        corner: First row and column that they show of the whole.
        whole: Side of the whole.
    """

    found: Tensor
    target: Tensor
    regions: Tensor
    corner: tuple[int, int] = (0, 0)
    whole: int = 0

    def within(self, region: int) -> Tensor:
        """Mean absolute difference in one of the regions."""
        return losses.region_l1(self.found, self.target, self.regions[:, region : region + 1])
