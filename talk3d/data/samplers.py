"""Which frames a training step sees; every draw comes from a seeded generator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from talk3d.data.dataset import Dataset

__all__ = ["FrameSampler", "PoseSampler", "WindowSampler"]


class _Sampler:
    """Draws without end from the valid frames of a split."""

    def __init__(self, dataset: Dataset, batch: int, generator: Generator, split: str = "train") -> None:
        if split not in dataset.splits:
            raise ValueError(f"split must be one of {sorted(dataset.splits)}, got {split!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        span = dataset.splits[split]
        self.batch, self.generator = batch, generator
        self.frames: NDArray[np.int64] = span.start + np.flatnonzero(dataset.valid[span.start : span.stop])
        if not len(self.frames):
            raise ValueError(f"the split {split!r} of {dataset.folder} has no frame with a face")

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches without end."""
        raise NotImplementedError

    def _shuffled(self, items: NDArray[np.int64]) -> Iterator[int]:
        """All of them in random order, then again in another."""
        while True:
            for k in torch.randperm(len(items), generator=self.generator).tolist():
                yield int(items[k])


class FrameSampler(_Sampler):
    """Single frames: each once before any comes again.

    Args:
        dataset: Where from.
        batch: Frames in a batch.
        generator: Of random numbers, seeded by whoever wants to repeat.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        ValueError: If there is no such split or nothing in it to draw, or the batch is below 1.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of ``batch`` frames without end."""
        frames = self._shuffled(self.frames)
        while True:
            yield [next(frames) for _ in range(self.batch)]


class WindowSampler(_Sampler):
    """Windows of consecutive frames that all show the face, for lip-sync and temporal losses.

    Args:
        dataset: As in :class:`FrameSampler`.
        batch: Windows in a batch.
        generator: As in :class:`FrameSampler`.
        split: As in :class:`FrameSampler`.
        length: Frames in a window.

    Raises:
        ValueError: As in :class:`FrameSampler`, or if no stretch of the split is long enough.
    """

    def __init__(
        self, dataset: Dataset, batch: int, generator: Generator, split: str = "train", *, length: int = 5
    ) -> None:
        super().__init__(dataset, batch, generator, split)
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length = length
        follows = self.frames[length - 1 :] - self.frames[: len(self.frames) - length + 1] == length - 1
        self.starts = self.frames[: len(follows)][follows]
        if not len(self.starts):
            raise ValueError(f"the split {split!r} of {dataset.folder} has no {length} frames in a row with a face")

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of ``batch * length`` frames without end, window after window."""
        starts = self._shuffled(self.starts)
        while True:
            chosen = [next(starts) for _ in range(self.batch)]
            yield [start + k for start in chosen for k in range(self.length)]


class PoseSampler(_Sampler):
    """Single frames, rare directions of the head as often as common ones.

    Directions fall into cells of ``cell`` degrees of yaw and pitch. A frame's chance is one over the frames in its
    cell, but at most ``ceiling`` times what it would be if all had the same: one odd frame shall not fill the batches.

    Args:
        dataset: As in :class:`FrameSampler`.
        batch: As in :class:`FrameSampler`.
        generator: As in :class:`FrameSampler`.
        split: As in :class:`FrameSampler`.
        cell: Degrees.
        ceiling: See above.

    Raises:
        ValueError: As in :class:`FrameSampler`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        generator: Generator,
        split: str = "train",
        *,
        cell: float = 5.0,
        ceiling: float = 10.0,
    ) -> None:
        super().__init__(dataset, batch, generator, split)
        cells = np.floor(dataset.angles[self.frames, :2] / cell)
        _, which, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        chance = 1 / counts[which.ravel()]
        chance = np.minimum(chance / chance.mean(), ceiling)
        self.chances = torch.from_numpy(chance / chance.sum())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of ``batch`` frames without end."""
        while True:
            drawn = torch.multinomial(self.chances, self.batch, replacement=True, generator=self.generator)
            yield self.frames[drawn.numpy()].tolist()
