"""What depends on a frame of the clip alone, and is computed when the frame is seen first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Kept"]


class Kept:
    """Something about frames, each of one size; the least recently used leave first.

    Each frame's is computed alone, so that it does not depend on which frames came with it, and is neither followed by
    autograd nor copied to the host.

    Args:
        make: From a frame's number to a tensor.
        room: Bytes for all.
    """

    def __init__(self, make: Callable[[int], Tensor], room: int) -> None:
        self._make, self._room = make, room
        self._there: OrderedDict[int, Tensor] = OrderedDict()

    def __call__(self, frames: Sequence[int]) -> Tensor:
        """Those of some frames, one after the other."""
        return torch.stack([self._one(frame) for frame in frames])

    def _one(self, frame: int) -> Tensor:
        if frame in self._there:
            self._there.move_to_end(frame)
            return self._there[frame]
        with torch.no_grad():
            made = self._make(frame).clone()  # of its own memory: a view would keep all that it is a view of
        self._there[frame] = made
        while len(self._there) > max(self._room // (made.numel() * made.element_size()), 1):
            self._there.popitem(last=False)
        return made
