"""Sums over frames: what is identical, what is known, and regions that are not there."""

from __future__ import annotations

import math

import pytest
import torch

from talk3d.evaluation.scores import PictureScores

TRUTH = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
WHOLE = torch.ones(3, 1, 24, 24)


def measured(found, truth=TRUTH, **regions):
    ours, floor = PictureScores(None), PictureScores(None)
    for scores, pictures in ((ours, found), (floor, torch.zeros_like(truth))):
        for n in range(len(truth)):  # frame by frame, as a video comes
            part = slice(n, n + 1)
            scores.add(pictures[part], truth[part], {name: region[part] for name, region in regions.items()})
    return {(m.metric, m.region): m for m in ours.measured(floor)}


def test_equal_videos():
    found = measured(TRUTH, whole=WHOLE)
    assert found["psnr_global", "whole"].value == math.inf
    assert found["psnr_frames", "whole"].value == math.inf
    assert found["ssim", "whole"].value == pytest.approx(1)
    assert found["mae", "whole"].value == 0


def test_the_two_psnrs_differ():
    truth = torch.full((2, 3, 24, 24), 0.5)
    found = measured(truth + torch.tensor([0.1, 0.01])[:, None, None, None], truth, whole=WHOLE[:2])
    assert found["psnr_frames", "whole"].value == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert found["psnr_global", "whole"].value == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-3)
    assert found["mae", "whole"].value == pytest.approx(255 * 0.055, abs=1e-3)
    assert found["psnr_global", "whole"].floor == pytest.approx(-10 * math.log10(0.25), abs=1e-3)


def test_a_region_counts_where_it_is():
    mouth = torch.zeros_like(WHOLE)
    mouth[:2, :, 4:8, 4:8] = 1  # the last frame shows none
    found = TRUTH.clone()
    found[:, :, 4:8, 4:8] += 0.1
    numbers = measured(found, mouth=mouth, whole=WHOLE)
    assert numbers["psnr_frames", "mouth"].value == pytest.approx(20, abs=1e-3)
    assert numbers["psnr_frames", "mouth"].frames == 2
    assert numbers["psnr_global", "mouth"].value == pytest.approx(20 + 10 * math.log10(24 * 24 / 16), abs=1e-3)
    assert numbers["psnr_frames", "whole"].frames == 3


def test_a_region_that_is_never_seen_is_not_measured():
    number = measured(TRUTH, torso=torch.zeros_like(WHOLE))["ssim", "torso"]
    assert number.value is None
    assert number.reason == "no frame shows any torso"


def test_lpips_is_not_measured_without_weights():
    number = measured(TRUTH, whole=WHOLE)["lpips", "whole"]
    assert (number.value, number.frames) == (None, 0)
    assert "--lpips" in number.reason
