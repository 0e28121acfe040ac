"""What training compares with: frames of a dataset at the sizes of a model, decoded once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from talk3d.data.dataset import Dataset
from talk3d.models.encoders import Conditions
from talk3d.training.transfer import moved

__all__ = ["EYES", "FACE", "MOUTH", "TORSO", "Target", "Targets", "in_turn", "over_color", "spread"]

FACE, MOUTH, EYES, TORSO = range(4)  # channels of the regions


class Target(NamedTuple):
    """Frames, B of them; pictures of side P, views of side V. The last fields are those of a dataset's sample.

    Attributes:
        index: int64 ``[B]``.
        image: ``[B, 3, P, P]``, -1 to 1.
        matte: How much of each pixel is the person ``[B, 1, P, P]``.
        regions: Face, mouth, eyes, torso ``[B, 4, P, P]``, 0 to 1.
        plate: The background ``[B, 3, P, P]``, -1 to 1.
        view_image: As ``image`` and so on, ``[B, 3, V, V]``: what a rendered view is compared with.
        view_matte: ``[B, 1, V, V]``.
        view_regions: ``[B, 4, V, V]``.
        view_plate: ``[B, 3, V, V]``.
        features: Speech ``[B, 8, 16, F]``.
        blink: ``[B]``.
        angles: ``[B, 3]``.
        landmarks: ``[B, 3, 2]``.
        points: ``[B, 478, 3]``.
        tracked: The same landmarks in the crop, its sides being 1, ``[B, 478, 2]``.
        frames: ``index`` on the host, which so need not wait for it.
    """

    index: Int[Tensor, " batch"]  # type: ignore[assignment]  # tuples have a method of this name
    image: Float[Tensor, "batch 3 size size"]
    matte: Float[Tensor, "batch 1 size size"]
    regions: Float[Tensor, "batch 4 size size"]
    plate: Float[Tensor, "batch 3 size size"]
    view_image: Float[Tensor, "batch 3 view view"]
    view_matte: Float[Tensor, "batch 1 view view"]
    view_regions: Float[Tensor, "batch 4 view view"]
    view_plate: Float[Tensor, "batch 3 view view"]
    features: Float[Tensor, "batch 8 16 feature"]
    blink: Float[Tensor, " batch"]
    angles: Float[Tensor, "batch 3"]
    landmarks: Float[Tensor, "batch 3 2"]
    points: Float[Tensor, "batch 478 3"]
    tracked: Float[Tensor, "batch 478 2"]
    frames: tuple[int, ...]

    @property
    def conditions(self) -> Conditions:
        """What is seen of the head."""
        return Conditions(self.blink, self.angles, self.landmarks)

    def part(self, top: int, left: int, side: int) -> Target:
        """A square of the views, and what it is of the pictures.

        Args:
            top: First row, in pixels of the view.
            left: First column.
            side: How many.
        """
        times = self.image.shape[-1] // self.view_image.shape[-1]
        cut = {}
        for name in ("image", "matte", "regions", "plate"):
            cut[f"view_{name}"] = getattr(self, f"view_{name}")[..., top : top + side, left : left + side]
            rows, columns = (slice(times * start, times * (start + side)) for start in (top, left))
            cut[name] = getattr(self, name)[..., rows, columns]
        return self._replace(**cut)


class Targets:
    """Frames of a dataset at the sizes of a model.

    Decoded frames are kept as bytes where they are wanted, so that one that is seen again is not copied to a GPU again;
    the least recently used leave first. What is kept is what is given, so that a number does not depend on whether a
    frame was there.

    Args:
        dataset: The clip.
        picture: Side P of the pictures.
        view: Side V of the rendered views.
        cache: Megabytes for decoded frames.
        device: Where they are wanted.

    Raises:
        ValueError: If the crops are smaller than the pictures.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        picture: int,
        view: int,
        cache: int = 2048,
        device: torch.device | str = "cpu",
    ) -> None:
        if dataset.size < picture:
            raise ValueError(
                f"the crops of {dataset.folder} are {dataset.size} pixels wide, and the model makes {picture}: prepare "
                "the clip with larger ones, or choose a smaller preset"
            )
        self.dataset, self.picture, self.view = dataset, picture, view
        self.device = torch.device(device)
        self._room = cache * 2**20 // max(picture * picture * (3 + 1 + 4 + 3), 1)
        self._kept: OrderedDict[int, _Frame] = OrderedDict()

    def frames(self, split: str) -> list[int]:
        """Frames of a split in which a face was found.

        Raises:
            ValueError: If there is no such split, or no such frame.
        """
        splits = self.dataset.splits
        if split not in splits:
            raise ValueError(f"{self.dataset.folder} has no split {split!r}, only {', '.join(splits)}")
        found = [i for i in splits[split] if self.dataset.valid[i]]
        if not found:
            raise ValueError(f"the split {split!r} of {self.dataset.folder} has no frame with a face")
        return found

    def windows(self, split: str, length: int) -> list[int]:
        """First frames of all stretches of ``length`` frames that show a face.

        Raises:
            ValueError: If there are none.
        """
        there = set(self.frames(split))
        found = [i for i in sorted(there) if all(i + k in there for k in range(length))]
        if not found:
            raise ValueError(
                f"the split {split!r} of {self.dataset.folder} has no {length} frames in a row with a face"
            )
        return found

    def __call__(self, indices: Sequence[int]) -> Target:
        """Frames, in any order."""
        frames = [self._frame(i) for i in indices]
        image, matte, regions, plate = (
            torch.stack(part).float() for part in zip(*(f[:4] for f in frames), strict=True)
        )
        image, matte, regions, plate = image / 127.5 - 1, matte / 255, regions / 255, plate / 127.5 - 1
        rest = [torch.stack(part) for part in zip(*(f[4:] for f in frames), strict=True)]
        small = (self._reduced(part) for part in (image, matte, regions, plate))
        chosen = tuple(indices)
        index = moved(torch.tensor(chosen, dtype=torch.int64), self.device)
        return Target._make((index, image, matte, regions, plate, *small, *rest, chosen))

    def speech(self, indices: Sequence[int]) -> Float[Tensor, "batch 8 16 feature"]:
        """Speech features alone, as in :class:`Target`, without decoding a picture."""
        return moved(self.dataset.speech_windows(np.asarray(indices)), self.device)

    def _reduced(self, picture: Tensor) -> Tensor:
        return interpolate(picture, (self.view, self.view), mode="area") if self.view != self.picture else picture

    def _frame(self, index: int) -> _Frame:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        sample = self.dataset.sample([index])
        size = (self.picture, self.picture)

        def sized(picture: Tensor) -> Tensor:
            return picture[0] if picture.shape[2:] == size else interpolate(picture, size, mode="area")[0]

        def packed(picture: Tensor, scale: float, offset: float = 0.0) -> Tensor:
            return (sized(picture) * scale + offset).round_().clamp_(0, 255).byte()

        frame = _Frame(
            packed(sample.image, 127.5, 127.5),
            packed(sample.matte, 255),
            packed(sample.regions, 255),
            packed(sample.plate, 127.5, 127.5),
            sample.features[0],
            sample.blink[0],
            sample.angles[0],
            sample.landmarks[0],
            sample.points[0],
            torch.from_numpy(np.array(self.dataset.landmarks[index], np.float32)),
        )
        frame = _Frame(*(moved(part, self.device) for part in frame))
        self._kept[index] = frame
        while len(self._kept) > max(self._room, 1):
            self._kept.popitem(last=False)
        return frame


class _Frame(NamedTuple):
    """A decoded frame, pictures as bytes."""

    image: Tensor
    matte: Tensor
    regions: Tensor
    plate: Tensor
    features: Tensor
    blink: Tensor
    angles: Tensor
    landmarks: Tensor
    points: Tensor
    tracked: Tensor


def in_turn(items: Sequence[int], count: int, step: int, seed: int) -> list[int]:
    """Which items a step sees: each once, in random order, before any comes again in another.

    A pure function, so that a run that was interrupted goes on with what would have come.

    Args:
        items: To choose from.
        count: How many a step takes.
        step: From 0 on.
        seed: Of the orders.
    """
    chosen: list[int] = []
    order, current = torch.empty(0), -1
    for position in range(step * count, (step + 1) * count):
        turn, place = divmod(position, len(items))
        if turn != current:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
            order, current = torch.randperm(len(items), generator=generator), turn
        chosen.append(items[int(order[place])])
    return chosen


def over_color(target: Target, color: Tensor) -> Target:
    """Frames as they would have been filmed before a wall of one colour ``[3]``, -1 to 1, on the same device."""
    color = color.view(1, 3, 1, 1)
    return target._replace(
        image=target.image + (1 - target.matte) * (color - target.plate),
        plate=color.expand_as(target.plate),
        view_image=target.view_image + (1 - target.view_matte) * (color - target.view_plate),
        view_plate=color.expand_as(target.view_plate),
    )


def spread(frames: list[int], count: int) -> list[int]:
    """So many of them, evenly spaced."""
    count = min(count, len(frames))
    return [frames[(2 * k + 1) * len(frames) // (2 * count)] for k in range(count)]
