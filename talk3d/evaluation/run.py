"""An avatar against the frames of a dataset; what ``talk3d evaluate`` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talk3d.avatar import Avatar
from talk3d.data.dataset import Dataset
from talk3d.evaluation.faces import FaceReader
from talk3d.evaluation.inputs import choose_frames
from talk3d.evaluation.likeness import Likeness
from talk3d.evaluation.networks import Inception, Lpips, Networks
from talk3d.evaluation.playback import Playback
from talk3d.evaluation.report import Measured, Report, ViewMeasured
from talk3d.evaluation.scores import FaceCurves, PictureScores
from talk3d.evaluation.truth import Truth, mean_frame, unit
from talk3d.evaluation.videos import ABSENT, Video
from talk3d.evaluation.views import novel_views
from talk3d.networks import CurricularFace, SyncNet, load_network

__all__ = ["Evaluation", "Options", "Shown", "evaluate"]

_SHOWN = 6  # frames that the report shows


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate.

    Attributes:
        split: Of the dataset.
        frames: No more than the first of it.
        views: Whether novel views are rendered: four frames more for each.
        lpips: Weights, see :class:`talk3d.evaluation.networks.Lpips`.
        inception: Weights, see :class:`talk3d.evaluation.networks.Inception`.
        syncnet: Weights of :class:`talk3d.networks.SyncNet`, for LSE-C and LSE-D.
        curricularface: Weights of :class:`talk3d.networks.CurricularFace`, for the similarity of identity.
        precision: Type of the networks; see :class:`talk3d.models.baked.Baked`.
        batch: Frames at a time.
        device: Where to render; by default a GPU if there is one.
    """

    split: str = "test"
    frames: int | None = None
    views: bool = True
    lpips: Path | None = None
    inception: Path | None = None
    syncnet: Path | None = None
    curricularface: Path | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.frames is not None and self.frames < 1):
            raise ValueError(f"frames and batch must be positive, got {self.frames} and {self.batch}")


class Shown(NamedTuple):
    """A frame of the report.

    Attributes:
        frame: Its index in the dataset.
        truth: ``[S, S, 3]``.
        ours: The same.
        depth: Along the rays ``[R, R]``.
        weight: Opacity ``[R, R]``.
        views: Of each novel view, ``[S, S, 3]``.
    """

    frame: int
    truth: NDArray[np.uint8]
    ours: NDArray[np.uint8]
    depth: NDArray[np.float32]
    weight: NDArray[np.float32]
    views: list[NDArray[np.uint8]]


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        report: Its numbers.
        shown: Some frames.
        attention: Of the middle one of these, where tokens are looked at ``[block, token, 3, r, r]``, and the planes
            ``[3, C, R, R]``; None without a driver.
    """

    report: Report
    shown: list[Shown]
    attention: tuple[Tensor, Tensor] | None


def evaluate(
    avatar: Path | str,
    data: Path | str,
    options: Options | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Evaluation:
    """Render the frames of a dataset from the speech and the head that it knows, and compare.

    Pictures are compared in 8 bits, at the dataset's size, before the dataset's own background if the avatar's volume
    holds the person alone. Of each frame a few numbers are kept, and no picture but those that the report shows.

    Args:
        avatar: Its folder.
        data: The dataset's.
        options: How.
        progress: Told of frames that are done, and of how many there are.

    Raises:
        ValueError: If an input is missing or damaged, or they do not fit each other.
        ImportError: If weights are given for a metric whose package is not installed.
    """
    options = options or Options()
    dataset, model = Dataset(data), Avatar.load(avatar)
    frames, valid = choose_frames(dataset, options.split, options.frames)
    playback = Playback(
        model, dataset, dtype=getattr(torch, options.precision), batch=options.batch, device=options.device
    )
    with ExitStack() as closing:
        comparison = _Comparison(playback, dataset, frames, options, closing)
        shown: list[Shown] = []
        chosen = {valid[k] for k in np.linspace(0, len(valid) - 1, min(_SHOWN, len(valid))).round().astype(int)}
        for begin in range(0, len(valid), options.batch):
            chunk = valid[begin : begin + options.batch]
            shown += comparison.add(chunk, chosen)
            progress(begin + len(chunk), len(valid))
    notes = [*playback.notes, *comparison.notes]
    if lost := len(frames) - len(valid):
        notes.append(f"{lost} frames were left out: no face was found in them when the clip was prepared.")
    report = Report(
        avatar=str(avatar),
        data=str(data),
        split=options.split,
        frames=len(valid),
        size=dataset.size,
        notes=notes,
        measured=comparison.measured(),
        views=comparison.measured_views(),
        curves={"frame": list(frames), **comparison.curves()},
    )
    return Evaluation(report, shown, playback.attention(shown[len(shown) // 2].frame))


def _networks(options: Options, device: torch.device) -> Networks:
    faces = options.curricularface
    return Networks(
        device,
        lpips=None if options.lpips is None else Lpips(options.lpips, device),
        inception=None if options.inception is None else Inception(options.inception, device),
        syncnet=None if options.syncnet is None else load_network(SyncNet, options.syncnet).to(device),
        likeness=None if faces is None else Likeness(load_network(CurricularFace, faces).to(device), device),
    )


class _Comparison:
    """Everything that is summed up over the frames."""

    def __init__(
        self, playback: Playback, dataset: Dataset, frames: range, options: Options, closing: ExitStack
    ) -> None:
        self._playback, device = playback, playback.device
        networks = _networks(options, device)
        self._views = novel_views(playback.config, published=playback.published) if options.views else []
        self._blind: str | None = None  # why there is no tracker
        readers: list[FaceReader | None] = [None] * (3 + len(self._views))
        try:
            readers = [closing.enter_context(FaceReader()) for _ in readers]
        except ImportError as error:
            self._blind = str(error)
        reader, floor_reader, *video_readers = readers
        self._truth = Truth(dataset, frames, reader, networks)
        self._ours, *self._turned = (Video(self._truth, video_reader, networks) for video_reader in video_readers)
        self._scores, self._floor_scores = PictureScores(networks.lpips), PictureScores(networks.lpips)
        floor, note = mean_frame(dataset)
        self._floor = unit(floor).to(device)
        self._floor_face = floor_reader(floor[0].numpy()) if floor_reader else None
        self._floor_curves = FaceCurves(len(frames), self._truth.scale)
        self._psnr = {name: np.full(len(frames), np.nan) for name in ("whole", "face")}
        self.notes = [note]
        if self._views and playback.published:
            self.notes.append("Novel views are placed by EG3D's formula, as published.")
        elif self._views:
            self.notes.append("Novel views are placed by true angles; published numbers are of EG3D's formula.")

    def add(self, chunk: Sequence[int], chosen: Collection[int]) -> Iterator[Shown]:
        """Render and compare frames; gives those that were chosen to be shown."""
        sample = self._playback.sample(chunk)
        tokens = self._playback.tokens(sample)
        true = self._truth.read(chunk, sample, self._playback.device)
        own = self._playback(sample, tokens)
        found = self._scores.add(unit(own.pictures[: len(chunk)]), true.pictures, true.regions)
        for name, curve in self._psnr.items():
            curve[true.positions] = found[name]
        self._ours.add(true, own)
        self._floor_scores.add(self._floor.expand_as(true.pictures), true.pictures, true.regions)
        self._floor_curves.add(true.positions, [self._floor_face] * len(chunk), true.faces)
        turned = [self._playback(sample, tokens, view.camera) for view in self._views]
        for video, rendered in zip(self._turned, turned, strict=True):
            video.add(true, rendered)
        for n, frame in enumerate(chunk):
            if frame in chosen:
                ours, *views = (rendered.pictures[n].cpu().numpy() for rendered in (own, *turned))
                depth, weight = (part[n].float().cpu().numpy() for part in (own.depth, own.weight))
                yield Shown(frame, true.bytes[n], ours, depth, weight, views)

    def measured(self) -> list[Measured]:
        """Everything against the true frames, and what cannot be measured."""
        return [
            *self._scores.measured(self._floor_scores),
            *self._ours.measured(self._floor_curves, self._blind),
            *(Measured(name, None, 0, reason=reason) for name, reason in ABSENT.items()),
        ]

    def measured_views(self) -> list[ViewMeasured]:
        """What is seen from other cameras."""
        return [
            ViewMeasured(view.title, view.yaw, view.pitch, video.measured_turned(self._blind))
            for view, video in zip(self._views, self._turned, strict=True)
        ]

    def curves(self) -> dict[str, list[float]]:
        """Numbers of each frame."""
        curves = {f"psnr_{name}": curve.tolist() for name, curve in self._psnr.items()}
        for name, seen in (("ours", self._ours.curves), ("truth", self._truth.curves)):
            curves |= {f"mouth_{name}": seen.mouth.tolist(), f"eyes_{name}": seen.eyes.tolist()}
        return curves
