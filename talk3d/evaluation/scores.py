"""Sums over frames: pictures come in batches, numbers go out in the end, and no picture is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from talk3d.evaluation import metrics
from talk3d.evaluation.faces import Face
from talk3d.evaluation.networks import Lpips
from talk3d.evaluation.report import Measured

__all__ = ["FaceCurves", "PictureScores", "attempt", "compare_faces"]

Numbers = NDArray[np.float64]

_NO_LPIPS = "needs the weights of torchvision's AlexNet: --lpips FILE"


@dataclass
class _Sum:
    value: float = 0.0
    frames: int = 0


class PictureScores:
    """Compare pictures in regions.

    Args:
        lpips: The perceptual distance, if its weights are there.
    """

    def __init__(self, lpips: Lpips | None) -> None:
        self._lpips = lpips
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._regions: list[str] = []

    @torch.inference_mode()
    def add(
        self,
        found: Float[Tensor, "batch 3 side side"],
        truth: Float[Tensor, "batch 3 side side"],
        regions: dict[str, Float[Tensor, "batch 1 side side"]],
    ) -> dict[str, Numbers]:
        """Add frames, from 0 to 1; returns the PSNR of each in each region, NaN where it has none of it."""
        squares, differences = (found - truth).square(), (found - truth).abs()
        similar = metrics.ssim_map(found, truth)
        self._regions = list(regions)
        each = {}
        for name, region in regions.items():
            numbers = {
                "psnr_global": metrics.published_error(found, truth, region),
                "psnr_frames": metrics.psnr(metrics.region_mean(squares, region)),
                "ssim": metrics.region_mean(similar, region),
                "mae": 255 * metrics.region_mean(differences, region),
            }
            if self._lpips is not None:
                numbers["lpips"] = self._lpips((2 * found - 1) * region, (2 * truth - 1) * region)
            seen = region.amax((1, 2, 3)) > 0
            for metric, of_frames in numbers.items():
                total = self._sums.setdefault((metric, name), _Sum())
                total.value += of_frames[seen].double().sum().item()
                total.frames += int(seen.sum())
            each[name] = numbers["psnr_frames"].cpu().numpy().astype(np.float64)
        return each

    def measured(self, floor: PictureScores) -> list[Measured]:
        """Everything that was measured, beside what a floor scored on the same frames."""
        found = [
            Measured(metric, self._value(metric, region), total.frames, region, floor._value(metric, region))
            if total.frames
            else Measured(metric, None, 0, region, reason=f"no frame shows any {region}")
            for (metric, region), total in self._sums.items()
        ]
        if self._lpips is None:
            found += [Measured("lpips", None, 0, region, reason=_NO_LPIPS) for region in self._regions]
        return found

    def _value(self, metric: str, region: str) -> float:
        total = self._sums[metric, region]
        mean = total.value / total.frames
        return float(metrics.psnr(torch.tensor(mean, dtype=torch.float64))) if metric == "psnr_global" else mean


class FaceCurves:
    """Mouth and eyes of a video, frame by frame; NaN where no face was seen.

    Args:
        frames: How many there are.
        scale: Pixels of a crop of 512 to one of the pictures.

    Attributes:
        mouth: The mouth's opening, see :class:`talk3d.evaluation.faces.Face`.
        eyes: The eyes' opening.
        distance: Of the mouth from the true one, pixels of 512.
    """

    def __init__(self, frames: int, scale: float) -> None:
        self.mouth, self.eyes, self.distance = (np.full(frames, np.nan) for _ in range(3))
        self._scale = scale

    def add(self, positions: Sequence[int], faces: Sequence[Face | None], truth: Sequence[Face | None]) -> None:
        """Add frames."""
        for position, face, true in zip(positions, faces, truth, strict=True):
            if face is not None:
                self.mouth[position], self.eyes[position] = face.mouth_opening, face.eye_opening
            if face is not None and true is not None:
                self.distance[position] = self._scale * metrics.mouth_distance(face.mouth, true.mouth)


def compare_faces(
    ours: FaceCurves, truth: FaceCurves, floor: FaceCurves | None, frames: int, blind: str | None
) -> list[Measured]:
    """Compare mouths and eyes.

    Args:
        ours: Of our video.
        truth: Of the true one.
        floor: Of the mean training frame, if that is to be compared with.
        frames: How many were looked at.
        blind: Why there is no tracker, if there is none.
    """
    mouths, eyes = (ours.mouth, truth.mouth), (ours.eyes, truth.eyes)
    numbers: dict[str, Callable[[], float]] = {
        "lmd_mediapipe": lambda: _mean(ours.distance),
        "mouth_correlation": lambda: metrics.correlation(*mouths),
        "mouth_correlation_best": lambda: metrics.best_lag(*mouths)[1],
        "mouth_lag": lambda: metrics.best_lag(*mouths)[0],
        "mouth_error": lambda: _mean(abs(ours.mouth - truth.mouth)),
        "eye_correlation": lambda: metrics.correlation(*eyes),
        "eye_error": lambda: _mean(abs(ours.eyes - truth.eyes)),
    }
    floors: dict[str, Callable[[], float]] = {}
    if floor is not None:
        floors = {
            "lmd_mediapipe": lambda: _mean(floor.distance),
            "mouth_error": lambda: _mean(abs(floor.mouth - truth.mouth)),
            "eye_error": lambda: _mean(abs(floor.eyes - truth.eyes)),
        }
    if blind is not None:
        return [Measured(name, None, 0, reason=blind) for name in ("faces", "faces_truth", *numbers)]
    pairs = int(np.isfinite(ours.mouth - truth.mouth).sum())
    share, of_truth = (100 * int(np.isfinite(curves.mouth).sum()) / frames for curves in (ours, truth))
    measured = [Measured("faces", share, frames), Measured("faces_truth", of_truth, frames)]
    for name, compute in numbers.items():
        value, reason = attempt(compute)
        beside = attempt(floors[name])[0] if name in floors else None
        measured.append(Measured(name, value, pairs, floor=beside, reason=reason))
    return measured


def attempt(compute: Callable[[], float]) -> tuple[float | None, str | None]:
    """Compute a number, or tell why there is none."""
    try:
        return compute(), None
    except ValueError as error:
        return None, str(error)


def _mean(values: Numbers) -> float:
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError("in no frame did our tracker find both our face and the true one")
    return float(finite.mean())
