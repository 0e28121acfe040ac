"""What contracts have in common: tensors that go together, and what a Triton kernel can take."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LARGEST", "TOO_LARGE", "arrive_alike", "no_triton_type", "require_alike"]

LARGEST = 2**31 - 2**16  # places that are counted in 32 bits, less a tile
TOO_LARGE = "it counts in 32 bits inside a picture, and this one is too large"


def arrive_alike(one: Tensor, other: Tensor) -> bool:
    """Whether floating tensors of one device reach an implementation in one type.

    They do if they have one; or under autocast, which casts all but float64.
    """
    types = one.dtype, other.dtype
    return types[0] == types[1] or (torch.float64 not in types and torch.is_autocast_enabled(one.device.type))


def require_alike(name: str, tensor: Tensor, like: Tensor, of: str = "x") -> None:
    """Raise unless a tensor has the device of another one, which is called ``of``, and arrives in its type."""
    if not arrive_alike(tensor, like) or tensor.device != like.device:
        raise ValueError(
            f"{name} ({tensor.dtype}, {tensor.device}) must have the type and device of {of} "
            f"({like.dtype}, {like.device})"
        )


def no_triton_type(tensor: Tensor) -> str | None:
    """Why a Triton kernel cannot take a tensor of this type, or None."""
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32, bfloat16 and float16, not {tensor.dtype}"
    return None
