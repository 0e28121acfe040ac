"""Pictures for previews."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["grid", "pixels"]


def pixels(picture: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "height width 3"]:
    """A picture from -1 to 1 as bytes, on the CPU."""
    return ((picture.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


def grid(rows: Sequence[Sequence[UInt8[Tensor, "height width 3"]]]) -> UInt8[Tensor, "all_height all_width 3"]:
    """Pictures of one size side by side, row after row."""
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
