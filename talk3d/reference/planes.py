"""Planes with a border, and what moves them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_SEEN = ((0, 1), (0, 2), (2, 1))  # by planes with a border: (x, y), (x, z), (z, y)


def add_planes(planes: Tensor, delta: Tensor, pairs: list[int]) -> Tensor:
    """Add ``delta`` [B, P, R, R, C] to ``planes`` [1 or B, 2 or 3, R + 2, R + 2, C]; see ``talk3d.ops.add_planes``."""
    accurate = torch.promote_types(planes.dtype, torch.float32)
    moves: list[Tensor] = []
    for across, along in _SEEN[: planes.shape[1]]:
        same = torch.zeros_like(delta[:, 0], dtype=accurate, memory_format=torch.contiguous_format)
        for index, seen in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            if seen == (across, along):
                same = same + delta[:, index]
            elif seen == (along, across):
                same = same + delta[:, index].transpose(1, 2)
        moves.append(same)
    return (planes + pad(torch.stack(moves, dim=1), (0, 0, 1, 1, 1, 1))).to(planes.dtype)


def without_border(planes: Tensor, pairs: list[int]) -> tuple[Tensor, list[int]]:
    """Cut the border off planes that have one, which is said by empty ``pairs``, and say what they see."""
    if pairs:
        return planes, pairs
    return planes[:, :, 1:-1, 1:-1].contiguous(), [axis for seen in _SEEN[: planes.shape[1]] for axis in seen]
