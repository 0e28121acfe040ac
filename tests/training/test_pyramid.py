"""Planes as a sum of levels."""

from __future__ import annotations

import pytest
import torch

from talk3d.training.pyramid import PlanePyramid


def make(levels: int = 3, side: int = 8) -> PlanePyramid:
    return PlanePyramid((1, 3, 2, side, side), levels, torch.Generator().manual_seed(0))


def test_planes_are_the_sum_of_enlarged_levels():
    pyramid = make()
    for level, value in zip(pyramid.levels, (1.0, 20.0, 300.0), strict=True):
        torch.nn.init.constant_(level, value)
    assert torch.equal(pyramid(), torch.full((1, 3, 2, 8, 8), 321.0))
    assert [level.shape[2] for level in pyramid.levels] == [8, 4, 2]


def test_a_coarse_level_moves_its_neighbourhood():
    pyramid = make()
    pyramid()[0, 0, 0, 0, 0].backward()
    fine, _, coarse = (level.grad for level in pyramid.levels)
    assert fine.count_nonzero() == coarse.count_nonzero() == 1
    before = pyramid().detach()
    with torch.no_grad():
        pyramid.levels[2][0, 0, 0, 0] += 1
    assert ((pyramid().detach() - before)[0, 0, 0] > 0).sum() >= 16


def test_chance_is_in_the_coarsest_level_alone_and_repeats():
    fine, middle, coarse = make().levels
    assert not fine.any()
    assert not middle.any()
    assert torch.equal(coarse, make().levels[2])


@pytest.mark.parametrize("levels", [0, 4])
def test_levels_that_leave_no_plane_are_refused(levels: int):
    with pytest.raises(ValueError, match="levels must be at least 1"):
        make(levels)
