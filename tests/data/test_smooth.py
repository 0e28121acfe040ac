from __future__ import annotations

import numpy as np
import pytest

from talk3d.data.smooth import smooth

UNEVEN = np.sort(np.arange(60) + np.random.default_rng(0).uniform(-0.4, 0.4, 60))


@pytest.mark.parametrize("width", [0.6, 1.5, 4.0])
def test_constant_acceleration_passes_without_lag(width):
    motion = 3 + 20 * UNEVEN - 0.7 * UNEVEN**2
    np.testing.assert_allclose(smooth(motion, UNEVEN, width), motion, rtol=1e-5)


def test_noise_falls_as_documented():
    noise = np.random.default_rng(1).normal(size=(20000, 1, 2))
    for width in (1.5, 3.0):
        left = smooth(noise, np.arange(20000.0), width)[100:-100].std()
        assert left == pytest.approx(0.69 / np.sqrt(width), rel=0.05)


def test_time_reversed_is_the_same_reversed():
    values = np.random.default_rng(2).normal(size=60)
    forward, back = smooth(values, UNEVEN, 1.5), smooth(values[::-1], -UNEVEN[::-1], 1.5)
    np.testing.assert_allclose(forward, back[::-1], atol=1e-9)


def test_a_frame_without_trust_follows_its_neighbours():
    values, trust = 2.0 * np.arange(30.0), np.ones(30)
    values[12:14], trust[12:14] = 1e6, 0
    np.testing.assert_allclose(smooth(values, np.arange(30.0), 1.5, trust), 2.0 * np.arange(30.0), atol=1e-4)


def test_pictures_shown_twice_are_no_trouble():
    times = np.repeat(np.arange(20.0), 2)
    assert np.isfinite(smooth(times, times, 1.5)).all()


def test_short_and_unsmoothed():
    np.testing.assert_array_equal(smooth([5.0, 7.0], np.arange(2.0), 3), [5, 7])
    np.testing.assert_array_equal(smooth([5.0, 7.0, 1.0], np.arange(3.0), 0), [5, 7, 1])
