"""Planes that learn from the coarse to the fine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["PlanePyramid"]


class PlanePyramid(nn.Module):
    """Planes as a sum of levels, each half as fine as the one before.

    Adam moves every texel of a level by about the same, so a coarse level moves wide regions together: it reaches
    texels that no ray has met, and shapes appear before details.

    Args:
        shape: Of the planes, ``(1, 3, C, R, R)``.
        levels: How many.
        generator: Of their first values.
    """

    def __init__(self, shape: tuple[int, ...], levels: int, generator: torch.Generator) -> None:
        super().__init__()
        *_, channels, side = shape[:4]
        sides = [side >> level for level in range(levels)]
        if levels < 1 or sides[-1] < 2:
            raise ValueError(f"levels must be at least 1 and leave 2 texels a side, got {levels} for {side} texels")
        parameters = [torch.zeros(3, channels, s, s) for s in sides]
        # chance in the coarsest one is enough to tell channels apart; in fine ones it would stay where no ray goes
        parameters[-1].normal_(0, 0.1, generator=generator)
        self.levels = nn.ParameterList(parameters)

    def forward(self) -> Float[Tensor, "1 3 channel side side"]:
        """Add up."""
        total = self.levels[0]
        for level in list(self.levels)[1:]:
            total = total + interpolate(level, total.shape[2:], mode="bilinear", align_corners=False)
        return total[None]
