"""Pictures of depth, normals and attention, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from talk3d.pictures import attention_picture, depth_picture, normal_picture


def rays(size: int) -> tuple[Tensor, Tensor]:
    """Parallel rays along -z from z = 2: columns go right (+x), rows down (-y)."""
    steps = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 2.0)], dim=-1), torch.tensor([0, 0, -1.0]).expand(size, size, 3)


def test_normals_of_a_tilted_wall():
    origins, directions = rays(5)
    depth = 2 - (0.75 * origins[..., 0])  # z = 0.75 x: the normal is (-0.6, 0, 0.8)
    expected = torch.tensor([0.2, 0.5, 0.9]) * 255
    assert torch.equal(normal_picture(depth, origins, directions), expected.round().to(torch.uint8).expand(5, 5, 3))


def test_normals_have_the_world_up():
    origins, directions = rays(3)
    depth = 2 + (0.75 * origins[..., 1])  # z = -0.75 y: a lying floor, whose normal is (0, 0.6, 0.8)
    green = normal_picture(depth[None], origins[None], directions[None])[..., 1]
    assert torch.equal(green, torch.full((1, 3, 3), 204, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(1, 5), (5, 4)])
def test_normals_want_matching_shapes(shape):
    origins, directions = rays(5)
    with pytest.raises(ValueError, match="depth must be"):
        normal_picture(torch.ones(shape), origins, directions)


def test_depth_is_white_when_near():
    depth = torch.tensor([[2.0, 2.5, 3.0, 4.0, math.inf, math.nan]])
    assert depth_picture(depth, 2.0, 3.0).tolist() == [[255, 128, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="near must be less"):
        depth_picture(depth, 3.0, 2.0)


def test_attention_is_laid_out_by_token_and_plane():
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, 1] = 1.0  # token 0 has all of plane 1, token 1 nothing
    planes = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)], dim=1)  # the same spread everywhere
    picture = attention_picture(maps, planes, side=8)
    assert picture.shape == (16, 24, 3)
    assert (picture[:8, 8:16] == 255).all()
    picture[:8, 8:16] = 64
    assert (picture == 64).all()


def test_attention_wants_planes():
    with pytest.raises(ValueError, match=r"got \[2, 4, 4\] and \[3, 2, 4, 4\]"):
        attention_picture(torch.zeros(2, 4, 4), torch.zeros(3, 2, 4, 4))
