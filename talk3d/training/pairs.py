"""What is compared: rendered pictures beside filmed ones."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from talk3d.training import losses
from talk3d.training.lean import absolute

__all__ = ["Pair"]


class _Pair(NamedTuple):
    found: Tensor
    target: Tensor
    regions: Tensor
    corner: tuple[int, int] = (0, 0)
    whole: int = 0


class Pair(_Pair):
    """Pictures that are compared.

    Attributes:
        found: Rendered ``[B, 3, H, W]``.
        target: Filmed.
        regions: Face, mouth, eyes, torso ``[B, 4, H, W]``.
        corner: First row and column that they show of the whole.
        whole: Side of the whole.
    """

    @cached_property
    def _error(self) -> Tensor:
        """Once for all losses that are means of it."""
        return absolute(self.found - self.target)

    def l1(self) -> Tensor:
        """Mean absolute difference."""
        return self._error.mean()

    def within(self, region: int) -> Tensor:
        """Mean absolute difference in one of the regions."""
        # of its own memory: a view would keep the other regions for the backward, too
        return losses.region_mean(self._error, self.regions[:, region : region + 1].clone())
