"""Which frames show the person at rest, and what of the others does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.data.facemesh import EYE_CORNERS
from talk3d.training.targets import EYES, MOUTH, Targets
from talk3d.training.transfer import moved

__all__ = ["Rest"]

_INNER_LIPS = (13, 14)  # middle of the upper and the lower one
_SHARE = 0.3  # of the frames: those whose mouth is the least open
_OPEN = 0.35  # a larger blink is none of a person at rest
_OFTEN = 4.0  # frames at rest are drawn so much more often
_MOVING = 0.1  # what lips and lids of other frames count


class Rest:
    """Training frames of a clip, those at rest, with a closed mouth and open eyes, among them.

    Args:
        targets: Of the clip.

    Attributes:
        frames: All training frames.
        chances: How likely each is drawn, in proportion ``[N]``.
    """

    def __init__(self, targets: Targets) -> None:
        dataset, self.frames = targets.dataset, targets.frames("train")
        marks = np.asarray(dataset.landmarks)[self.frames]
        upper, lower, left, right = (marks[:, vertex] for vertex in (*_INNER_LIPS, *EYE_CORNERS))
        gap = np.linalg.norm(upper - lower, axis=1) / np.linalg.norm(left - right, axis=1).clip(1e-6)
        rest = (gap <= np.quantile(gap, _SHARE)) & (dataset.blink[self.frames].max(1) < _OPEN)
        self.chances = torch.from_numpy(np.where(rest, _OFTEN, 1.0))
        self._rest = {frame for frame, at_rest in zip(self.frames, rest, strict=True) if at_rest}

    def draw(self, generator: torch.Generator) -> int:
        """Choose a frame."""
        return self.frames[int(torch.multinomial(self.chances, 1, generator=generator))]

    def weights(
        self, frames: Sequence[int], regions: Float[Tensor, "batch 4 height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """How much pixels of frames count: all of those at rest; of others, lips and lids a tenth."""
        moving = regions[:, MOUTH : EYES + 1].amax(1, keepdim=True)
        rest = moved(torch.tensor([frame in self._rest for frame in frames]), regions.device)
        return 1 - (1 - _MOVING) * moving * ~rest[:, None, None, None]
