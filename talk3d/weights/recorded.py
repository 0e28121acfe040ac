"""What the reader of checkpoints finds: inert nodes that stand for what a pickle would have made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Global", "Recorded", "Storage", "StoredTensor", "UnreadableCheckpoint", "printable"]


class UnreadableCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function that a pickle refers to. Nothing of that name is looked up."""

    name: str


@dataclass(eq=False, repr=False)  # what is inside may be deep, or inside itself
class Recorded:
    """An object that a pickle would have made by a call.

    Attributes:
        name: What it would have called, as ``module.name``; of an object that carries its own source, the class's name.
        args: The arguments of the call.
        state: What would have been restored into the object: for most, a dictionary of its attributes.
        content: What would have been put into the object, if it is a list, or (pairs) a mapping.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    content: list[object] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of numbers in the file. ``read`` gives exactly ``numel`` of them."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], memoryview]


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file. Sizes, strides and offset are in elements and lie inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.offset, *self.shape, *self.stride)
        if not all(type(size) is int and 0 <= size < 2**63 for size in sizes) or len(self.shape) != len(self.stride):
            raise UnreadableCheckpoint("the sizes, strides or offset of a tensor are not counts")
        # a stride of 0 would let a small file ask for any amount of memory
        if self.numel > self.storage.numel or (self.numel and self.offset + self._extent > self.storage.numel):
            raise UnreadableCheckpoint("a tensor reaches beyond the numbers that are stored for it")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements."""
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def _extent(self) -> int:
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def load(self) -> Tensor:
        """Copy the tensor out of the file: contiguous, with memory of its own."""
        if not self.numel:
            return torch.empty(self.shape, dtype=self.dtype)
        start, size = self.offset * self.dtype.itemsize, self._extent * self.dtype.itemsize
        copied = bytearray(self.storage.read()[start : start + size])
        return torch.frombuffer(copied, dtype=self.dtype).as_strided(self.shape, self.stride).contiguous()


def printable(text: str) -> str:
    """Make a string from a file fit for a message: short, and without control characters."""
    text = text if len(text) <= 100 else f"{text[:97]}..."
    return text if text.isprintable() else ascii(text)
