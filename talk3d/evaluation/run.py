"""An avatar against the frames of a dataset; what ``talk3d evaluate`` does."""

from __future__ import annotations

from collections.abc import Callable
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
from talk3d.evaluation.networks import Inception, Lpips
from talk3d.evaluation.playback import Playback
from talk3d.evaluation.report import Measured, Report, ViewMeasured
from talk3d.evaluation.scores import FaceCurves, PictureScores
from talk3d.evaluation.truth import Truth, mean_frame, unit
from talk3d.evaluation.videos import ABSENT, Video
from talk3d.evaluation.views import novel_views

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
        precision: Type of the networks; see :class:`talk3d.models.baked.Baked`.
        batch: Frames at a time.
        device: Where to render; by default a GPU if there is one.
    """

    split: str = "test"
    frames: int | None = None
    views: bool = True
    lpips: Path | None = None
    inception: Path | None = None
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
    dtype = getattr(torch, options.precision)
    playback = Playback(model, dataset, dtype=dtype, batch=options.batch, device=options.device)
    lpips = None if options.lpips is None else Lpips(options.lpips, playback.device)
    inception = None if options.inception is None else Inception(options.inception, playback.device)
    published = model.driver is not None and model.driver.unet.semantics == "published"
    views = novel_views(model.identity.config, published=published) if options.views else []
    floor_picture, floor_note = mean_frame(dataset)
    notes = [*playback.notes, floor_note, *_notes(len(frames) - len(valid), options.views, published)]

    with ExitStack() as closing:
        try:
            readers = [closing.enter_context(FaceReader()) for _ in range(3 + len(views))]
            blind = None
        except ImportError as error:
            readers, blind = [], str(error)
        reader, floor_reader, *video_readers = readers or [None] * (3 + len(views))
        truth = Truth(dataset, frames, reader, inception)
        floor = FaceCurves(len(frames), truth.scale)
        floor_face = floor_reader and floor_reader(floor_picture[0].numpy())
        ours, *others = (Video(truth, video_reader, inception) for video_reader in video_readers)
        scores, floor_scores = PictureScores(lpips), PictureScores(lpips)
        psnr = {name: np.full(len(frames), np.nan) for name in ("whole", "face")}
        chosen = {valid[k] for k in np.linspace(0, len(valid) - 1, min(_SHOWN, len(valid))).round().astype(int)}
        shown: list[Shown] = []

        for begin in range(0, len(valid), options.batch):
            chunk = valid[begin : begin + options.batch]
            sample = playback.sample(chunk)
            tokens = playback.tokens(sample)
            true = truth.read(chunk, sample, playback.device)
            own = playback(sample, tokens)
            ours.add(true, own)
            floor.add(true.positions, [floor_face] * len(chunk), true.faces)
            found = scores.add(unit(own.pictures[: len(chunk)]), true.pictures, true.regions)
            floor_scores.add(unit(floor_picture).to(true.pictures).expand_as(true.pictures), true.pictures, true.regions)
            for name, curve in psnr.items():
                curve[true.positions] = found[name]
            turned = [playback(sample, tokens, view.camera) for view in views]
            for video, rendered in zip(others, turned, strict=True):
                video.add(true, rendered)
            for n, frame in enumerate(chunk):
                if frame in chosen:
                    pictures = [part.pictures[n].cpu().numpy() for part in (own, *turned)]
                    depth, weight = (part[n].float().cpu().numpy() for part in (own.depth, own.weight))
                    shown.append(Shown(frame, true.bytes[n], pictures[0], depth, weight, pictures[1:]))
            progress(begin + len(chunk), len(valid))

    measured = [
        *scores.measured(floor_scores),
        *ours.measured(floor, blind),
        *(Measured(name, None, 0, reason=reason) for name, reason in ABSENT.items()),
    ]
    turned_measured = [
        ViewMeasured(view.title, view.yaw, view.pitch, video.measured_turned(blind))
        for view, video in zip(views, others, strict=True)
    ]
    curves = {"frame": list(frames), **{f"psnr_{name}": curve.tolist() for name, curve in psnr.items()}}
    for name, seen in (("ours", ours.curves), ("truth", truth.curves)):
        curves |= {f"mouth_{name}": seen.mouth.tolist(), f"eyes_{name}": seen.eyes.tolist()}
    report = Report(
        avatar=str(avatar),
        data=str(data),
        split=options.split,
        frames=len(valid),
        size=dataset.size,
        notes=notes,
        measured=measured,
        views=turned_measured,
        curves=curves,
    )
    return Evaluation(report, shown, playback.attention(shown[len(shown) // 2].frame))


def _notes(lost: int, views: bool, published: bool) -> list[str]:
    notes = []
    if lost:
        notes.append(f"{lost} frames were left out: no face was found in them when the clip was prepared.")
    if views and published:
        notes.append("Novel views are placed by EG3D's formula, as published.")
    elif views:
        notes.append("Novel views are placed by true angles, not by EG3D's formula, which published numbers use.")
    return notes
