from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from talk3d.data.motion import carry, fuse

GROUND = gaussian_filter(np.random.default_rng(0).normal(size=(200, 200)), 2)
GROUND = 128 + 100 * GROUND / np.abs(GROUND).max()
POINTS = np.stack(np.meshgrid(np.linspace(50, 150, 8), np.linspace(50, 150, 8)), -1).reshape(-1, 2)


def test_points_are_carried_to_fractions_of_a_pixel():
    moved = shift(GROUND, (-2.4, 3.7), order=3, mode="nearest")
    found = carry(GROUND.round().astype(np.uint8), moved.round().astype(np.uint8), POINTS)
    np.testing.assert_allclose(found - POINTS, np.tile((3.7, -2.4), (64, 1)), atol=0.1)


def test_a_point_that_goes_its_own_way_moves_with_the_others():
    moved = shift(GROUND, (0, 1.5), order=3, mode="nearest")
    moved[145:171, 145:171] = shift(GROUND, (-3, 0), order=3, mode="nearest")[145:171, 145:171]  # a corner of them
    found = carry(GROUND.round().astype(np.uint8), moved.round().astype(np.uint8), POINTS)
    # alone, the points of that corner would be off by 3.4 pixels
    np.testing.assert_allclose(found - POINTS, np.tile((1.5, 0), (64, 1)), atol=0.3)


def test_nothing_to_follow_is_nan():
    other = gaussian_filter(np.random.default_rng(1).normal(size=(200, 200)), 2)
    other = (128 + 100 * other / np.abs(other).max()).astype(np.uint8)
    assert np.isnan(carry(GROUND.astype(np.uint8), other, POINTS)).all()


def test_fuse_is_the_least_squares_that_it_says():
    random = np.random.default_rng(2)
    said, steps = random.normal(size=(9, 2)), random.normal(size=(8, 2))
    trust, ratio = random.uniform(0.1, 1, 9), random.uniform(0.5, 3, 8)
    rows = np.concatenate((np.diag(trust**0.5), ratio[:, None] * np.diff(np.eye(9), axis=0)))
    right = np.concatenate((trust[:, None] ** 0.5 * said, ratio[:, None] * steps))
    np.testing.assert_allclose(fuse(said, steps, trust, ratio), np.linalg.lstsq(rows, right, rcond=None)[0], atol=1e-9)


def test_true_steps_take_the_noise_away_without_lag():
    time = np.arange(200.0)
    truth = np.sin(time / 9)[:, None] * 20
    said = truth + np.random.default_rng(3).normal(size=truth.shape)
    found = fuse(said, np.diff(truth, axis=0), np.ones(200), np.full(199, 100.0))
    assert np.abs(np.diff(found - truth, axis=0)).max() < 0.02
    assert np.abs(found - truth).mean() < 0.3


@pytest.mark.parametrize("gap", [slice(50, 60), slice(0, 10), slice(90, 100)])
def test_frames_that_say_nothing_follow_their_neighbours(gap):
    said, trust = np.full((100, 1), 7.0), np.ones(100)
    steps = np.zeros((99, 1))
    said[gap], trust[gap] = 50, 1e-9
    steps[gap] = np.nan
    np.testing.assert_allclose(fuse(said, steps, trust, np.full(99, 50.0)), 7, atol=0.2)
