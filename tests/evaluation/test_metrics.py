"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from talk3d.evaluation import metrics

NAN = math.nan


def two() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two grey frames that are 0.1 and 0.2 off, and a region that is a quarter of the picture."""
    truth = torch.full((2, 3, 16, 16), 0.5)
    found = truth + torch.tensor([0.1, 0.2])[:, None, None, None]
    region = torch.zeros(2, 1, 16, 16)
    region[:, :, :8, :8] = 1
    return found, truth, region


def test_error_as_published_counts_what_is_masked_out_as_equal():
    torch.testing.assert_close(metrics.published_error(*two()), torch.tensor([0.01 / 4, 0.04 / 4]))


def test_psnr():
    torch.testing.assert_close(metrics.psnr(torch.tensor([0.01, 1.0, 0.0])), torch.tensor([20.0, 0.0, math.inf]))


def test_region_mean_is_over_the_region_alone():
    found, truth, region = two()
    torch.testing.assert_close(metrics.region_mean((found - truth).abs(), region), torch.tensor([0.1, 0.2]))
    assert metrics.region_mean(found, torch.zeros_like(region)).isnan().all()


def test_ssim_is_one_for_equal_pictures_and_skimage_s_otherwise():
    found, truth = torch.rand(2, 1, 3, 40, 40)
    torch.testing.assert_close(metrics.ssim_map(truth, truth), torch.ones_like(truth))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, expected = structural_similarity(found[0].numpy(), truth[0].numpy(), channel_axis=0, full=True, **options)
    inner = slice(8, -8)
    torch.testing.assert_close(
        metrics.ssim_map(found, truth)[0, :, inner, inner],
        torch.from_numpy(expected[:, inner, inner]),
        atol=1e-5,
        rtol=0,
    )


def test_mouth_distance_is_of_mouths_whose_means_are_laid_on_one_another():
    truth = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 3.0], [2.0, -3.0]])
    assert metrics.mouth_distance(truth + np.array([7, -2]), truth) == pytest.approx(0)
    wider = truth + np.array([[-1.0, 0], [1, 0], [0, 0], [0, 0]])
    assert metrics.mouth_distance(wider, truth) == pytest.approx(0.5)


class TestCorrelation:
    curve = np.sin(np.arange(40.0)) + np.sin(0.37 * np.arange(40.0))

    def test_of_a_curve_with_itself_scaled(self):
        assert metrics.correlation(3 * self.curve + 2, self.curve) == pytest.approx(1)
        assert metrics.correlation(-self.curve, self.curve) == pytest.approx(-1)

    def test_leaves_out_what_is_not_known(self):
        holes = self.curve.copy()
        holes[[3, 17]] = NAN
        assert metrics.correlation(holes, self.curve) == pytest.approx(1)

    @pytest.mark.parametrize("late", [-5, -2, 0, 3, 5])
    def test_best_lag(self, late):
        found = np.full(40, NAN)
        found[max(late, 0) : 40 + min(late, 0)] = self.curve[max(-late, 0) : 40 - max(late, 0)]
        assert metrics.best_lag(found, self.curve) == (late, pytest.approx(1))

    def test_needs_a_second(self):
        with pytest.raises(ValueError, match="25 frames in which both were seen, and there are 24"):
            metrics.correlation(self.curve[:24], self.curve[:24])

    def test_a_lag_needs_a_second_at_each_shift(self):
        with pytest.raises(ValueError, match="30 frames, so that 25 are left"):
            metrics.best_lag(self.curve[:29], self.curve[:29])

    def test_needs_movement(self):
        with pytest.raises(ValueError, match="nothing moves"):
            metrics.correlation(np.full(40, 0.3), self.curve)


def test_every_metric_is_defined():
    for metric in metrics.METRICS.values():
        assert metric.title
        assert metric.better in ("higher", "lower", "zero")
        assert metric.definition.endswith(".")
