"""What is measured: each metric as a pure function, and a table of what its number means.

Pictures are ``[B, 3, S, S]`` from 0 to 1, regions ``[B, 1, S, S]`` of 0 and 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "METRICS",
    "Metric",
    "best_lag",
    "correlation",
    "mouth_distance",
    "psnr",
    "published_error",
    "region_mean",
    "ssim_map",
]

_FEWEST = 25  # pairs of numbers of which a correlation says something: a second of speech


class Metric(NamedTuple):
    """What a number means.

    Attributes:
        title: As the report names it.
        unit: Of the number.
        better: Which direction is.
        definition: The published definition, and what we do differently.
    """

    title: str
    unit: str
    better: Literal["higher", "lower", "zero"]
    definition: str


METRICS = {
    "psnr_global": Metric(
        "PSNR, global",
        "dB",
        "higher",
        "As published, in Talk3D's training: one mean squared error over all frames and all pixels of the picture, "
        "those outside the region counted as equal, so that a small region scores higher than a large one. We compare "
        "pictures of 8 bits.",
    ),
    "psnr_frames": Metric(
        "PSNR, mean of frames",
        "dB",
        "higher",
        "The mean of the frames' own PSNRs, each over the pixels of the region alone.",
    ),
    "ssim": Metric(
        "SSIM",
        "",
        "higher",
        "Wang et al. 2004: a Gaussian of sigma 1.5, K1 = 0.01, K2 = 0.03, the mean over colours, over the region's "
        "pixels, and over frames. Published numbers are of a box of 7 pixels, and of pictures enlarged to 512.",
    ),
    "mae": Metric(
        "MAE", "levels of 255", "lower", "Mean absolute difference over the region's pixels, colours and frames."
    ),
    "lpips": Metric(
        "LPIPS (AlexNet)",
        "",
        "lower",
        "Zhang et al. 2018, version 0.1, of pictures from -1 to 1, mean over frames. As published, both pictures are "
        "mid-grey outside the region.",
    ),
    "fid": Metric(
        "FID",
        "",
        "lower",
        "Heusel et al. 2017: 2048 features of Inception as ported from TensorFlow. Published numbers compare with the "
        "crops of training and test, and enlarge as clean-fid does; we compare with the crops of the split alone, and "
        "enlarge by bilinear interpolation. It is biased upwards where frames are fewer than some thousands.",
    ),
    "lmd_mediapipe": Metric(
        "LMD of MediaPipe's mesh",
        "pixels of 512",
        "lower",
        "As LMD: twenty points of the mouth, less their mean, mean distance from those of the true frame, of crops "
        "enlarged to 512. The points are those of MediaPipe's mesh at the places of the mouth's 68-point scheme.",
    ),
    "mouth_correlation": Metric(
        "Mouth opening, correlation",
        "",
        "higher",
        "Pearson's, between the gap of the inner lips in our frames and in the true ones. The gap is in space, over "
        "the distance of the outer corners of the eyes, and our tracker measures it in both.",
    ),
    "mouth_correlation_best": Metric(
        "Mouth opening, correlation at the best lag",
        "",
        "higher",
        "The greatest of the correlations if our frames are shifted by up to 5.",
    ),
    "mouth_lag": Metric(
        "Mouth opening, best lag",
        "frames",
        "zero",
        "The shift of that correlation: positive if our mouth is late.",
    ),
    "mouth_error": Metric(
        "Mouth opening, mean error",
        "of the eyes' distance",
        "lower",
        "Mean absolute difference of the mouth's opening.",
    ),
    "eye_correlation": Metric(
        "Eye opening, correlation",
        "",
        "higher",
        "Pearson's, between the distance of the lids over the width of the eye, mean of both eyes, in our frames and "
        "in the true ones: whether it blinks when the person does.",
    ),
    "eye_error": Metric(
        "Eye opening, mean error", "of the eye's width", "lower", "Mean absolute difference of the eyes' opening."
    ),
    "lse_c": Metric(
        "LSE-C, boxes of MediaPipe's mesh",
        "",
        "higher",
        "SyncNet v2: median less least mean distance of lips from the sound over shifts of up to 15 frames. Published "
        "numbers are of S3FD's boxes, linked to tracks of more than 100 pixels, and of video compressed twice; ours of "
        "the boxes of MediaPipe's mesh, smoothed alike, and of the pictures as they were rendered.",
    ),
    "lse_d": Metric(
        "LSE-D, boxes of MediaPipe's mesh",
        "",
        "lower",
        "SyncNet v2: the least mean distance of lips from the sound; otherwise as LSE-C.",
    ),
    "idsim": Metric(
        "ID-SIM, aligned by MediaPipe's mesh",
        "",
        "higher",
        "The mean cosine between what CurricularFace IR-101 says of our face and of the true one, over the pairs of "
        "frames in which both are found. Published numbers are of faces aligned by MTCNN's five points; ours by the "
        "same five of MediaPipe's mesh.",
    ),
    "faces": Metric("Frames in which our tracker finds a face", "%", "higher", "Of the rendered frames."),
    "faces_truth": Metric(
        "True frames in which our tracker finds a face",
        "%",
        "higher",
        "Of the true frames, as a measure of the tracker.",
    ),
    "person": Metric("Picture that is the person", "%", "higher", "Mean opacity of the volume over the picture."),
}

REACH = 5  # frames by which the mouth may be early or late


def region_mean(
    values: Float[Tensor, "batch channel side side"], region: Float[Tensor, "batch 1 side side"]
) -> Float[Tensor, " batch"]:
    """Average over a region's pixels and all channels; NaN where a frame has none of it."""
    return (values.mean(1, keepdim=True) * region).sum((1, 2, 3)) / region.sum((1, 2, 3))


def published_error(
    found: Float[Tensor, "batch 3 side side"],
    truth: Float[Tensor, "batch 3 side side"],
    region: Float[Tensor, "batch 1 side side"],
) -> Float[Tensor, " batch"]:
    """Squared error of pictures that are equal outside a region, over all pixels: of the published PSNR."""
    return ((found - truth) * region).square().mean((1, 2, 3))


def psnr(error: Tensor) -> Tensor:
    """Turn mean squared errors of pictures from 0 to 1 into dB: ``-10 log10(error)``, infinite where it is 0."""
    return -10 * error.log10()


def ssim_map(
    found: Float[Tensor, "batch 3 side side"], truth: Float[Tensor, "batch 3 side side"]
) -> Float[Tensor, "batch 3 side side"]:
    """Structural similarity around each pixel; at the edges pictures are mirrored."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    found_map = ssim(found, truth, data_range=1.0, reduction="none", return_full_image=True)
    assert isinstance(found_map, tuple)
    return found_map[1]


def mouth_distance(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Mean distance between points ``[P, 2]`` of two mouths whose means are laid on one another (LMD)."""
    apart = (found - found.mean(0)) - (truth - truth.mean(0))
    return float(np.linalg.norm(apart, axis=1).mean())


def correlation(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Pearson's correlation of two curves, over the frames where both are finite.

    Raises:
        ValueError: Fewer than 25 frames have both, or one of the curves is constant there; a sentence for the report.
    """
    both = np.isfinite(found) & np.isfinite(truth)
    if both.sum() < _FEWEST:
        raise ValueError(f"it needs {_FEWEST} frames in which both were seen, and there are {both.sum()}")
    a, b = (curve[both] - curve[both].mean() for curve in (found, truth))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if not size > 1e-9:
        raise ValueError("it is not defined, for nothing moves")
    return float(a @ b / size)


def best_lag(found: NDArray[np.float64], truth: NDArray[np.float64], reach: int = REACH) -> tuple[int, float]:
    """Shift one curve against the other until they correlate best.

    Args:
        found: Curve ``[N]``; NaN where nothing is known.
        truth: The one to compare with ``[N]``.
        reach: Greatest shift in frames.

    Returns:
        How many frames ``found`` is late (negative: early), and the correlation there.

    Raises:
        ValueError: As :func:`correlation`, if it is not defined at each of the shifts.
    """
    if len(found) < _FEWEST + reach:
        raise ValueError(f"it needs {_FEWEST + reach} frames, so that {_FEWEST} are left at each shift")
    found_at = {}
    for lag in range(-reach, reach + 1):
        late, early = found[max(lag, 0) : len(found) + min(lag, 0)], truth[max(-lag, 0) : len(truth) - max(lag, 0)]
        found_at[lag] = correlation(late, early)
    # of equal ones the smallest shift
    lag = max(found_at, key=lambda lag: (round(found_at[lag], 9), -abs(lag)))
    return lag, found_at[lag]
