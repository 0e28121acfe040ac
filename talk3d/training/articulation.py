"""What speech does to the lips, learned from the track: no frame is rendered for it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.data.dataset import Dataset
from talk3d.data.facemesh import LIPS
from talk3d.training import losses
from talk3d.training.targets import Targets, in_turn
from talk3d.training.transfer import moved

__all__ = ["Articulation", "lips_of"]

_INNER = (13, 14, 78, 308, 82, 312, 87, 317)  # both middles, both corners, and beside the middles
_FRAMES = 32


def lips_of(dataset: Dataset, frames: list[int]) -> Float[Tensor, "frame value"]:
    """Where the lips are in the head's frame: differences from their mean, the mean square of all being 1.

    Args:
        dataset: The clip.
        frames: Which.

    Returns:
        ``[len(frames), 84]``.
    """
    cameras = torch.from_numpy(np.asarray(dataset.cameras)[frames])
    seen = torch.from_numpy(np.stack([np.array(dataset.points[i], np.float32)[[*LIPS, *_INNER]] for i in frames]))
    poses = cameras[:, :16].unflatten(1, (4, 4))
    placed = (seen @ poses[:, :3, :3].mT + poses[:, None, :3, 3]).flatten(1)
    moved = placed - placed.mean(0)
    return moved / moved.square().mean().sqrt().clamp(min=1e-6)


class Articulation(nn.Module):
    """A linear layer that reads lips off a speech token, which so learns to tell them.

    A rendered mouth says little about which sound a token has to tell apart, and a step has few. The tracked lips say
    it directly, and of many frames.

    Args:
        targets: The clip.
        width: Of a token.
        seed: Of the order of frames.
    """

    lips: Tensor

    def __init__(self, targets: Targets, width: int, seed: int) -> None:
        super().__init__()
        self.targets, self.seed = targets, seed
        self.frames = targets.frames("train")
        # what a checkpoint need not hold: it is the dataset's
        self.register_buffer("lips", lips_of(targets.dataset, self.frames), persistent=False)
        self.read = nn.Linear(width, self.lips.shape[1])

    def forward(self, audio: nn.Module, step: int) -> Tensor:
        """The loss of one step, for an encoder of speech."""
        chosen = in_turn(range(len(self.frames)), min(_FRAMES, len(self.frames)), step, self.seed + 2)
        token = audio(self.targets.speech([self.frames[i] for i in chosen]))
        return losses.articulation(self.read(token), self.lips[moved(chosen, self.lips.device)])
