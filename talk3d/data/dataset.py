"""Reading a dataset: typed samples for training, and everything else without decoding a picture."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from talk3d.audio.features import FeaturesInfo
from talk3d.backdrop import Backdrop
from talk3d.data.archive import ArchiveReader
from talk3d.data.meta import Meta, read_meta
from talk3d.data.regions import NAMES

__all__ = ["Dataset", "Sample"]

_BEFORE, _AFTER = 4, 3  # frames that a speech token hears around its own


class Sample(NamedTuple):
    """Frames for training, B of them, crops of side S.

    Attributes:
        index: int64 ``[B]``.
        image: The crop ``[B, 3, S, S]``, -1 to 1.
        matte: How much of each pixel is the person ``[B, 1, S, S]``, 0 to 1.
        regions: Face, mouth, eyes and torso ``[B, 4, S, S]``, 0 or 1.
        plate: The background without the person, as the crop would show it ``[B, 3, S, S]``, -1 to 1.
        camera: Camera vectors ``[B, 25]``, see :mod:`talk3d.cameras`.
        features: Speech features of the frames from four before to three after, 16 steps each ``[B, 8, 16, F]``; zero
            beyond the frame's own split, so that training hears nothing of what it is tested on.
        blink: Mean of both eyes, 0 (open) to 1 (closed) ``[B]``.
        angles: Pitch, yaw and roll in degrees ``[B, 3]``.
        landmarks: Nose tip and outer corners of the left and the right eye in the uncropped frame ``[B, 3, 2]``:
            from its middle, in halves of its width.
        points: Face mesh in the camera's frame, in units of the world ``[B, 478, 3]``.
    """

    index: Int[Tensor, " batch"]  # type: ignore[assignment]  # tuples have a method of this name
    image: Float[Tensor, "batch 3 size size"]
    matte: Float[Tensor, "batch 1 size size"]
    regions: Float[Tensor, "batch 4 size size"]
    plate: Float[Tensor, "batch 3 size size"]
    camera: Float[Tensor, "batch 25"]
    features: Float[Tensor, "batch 8 16 feature"]
    blink: Float[Tensor, " batch"]
    angles: Float[Tensor, "batch 3"]
    landmarks: Float[Tensor, "batch 3 2"]
    points: Float[Tensor, "batch 478 3"]


class Dataset:
    """A clip that ``talk3d prepare`` made ready. N frames at 25 a second, crops of side S, uncropped frames Ws by Hs.

    Pixel coordinates count from the upper left corner of the picture: the first pixel's centre is at 0.5. Left and
    right are the person's. It needs no tracker, and may be given to other processes.

    Attributes:
        folder: Where it is.
        meta: What ``meta.json`` says.
        mesh: The personal face mesh in the generator's world, float32 ``[478, 3]``.
        cameras: The crop's camera in each frame, float32 ``[N, 25]``: full pose against the mesh, its intrinsics.
        angles: Pitch, yaw and roll of the view of the head in the uncropped frame, degrees float32 ``[N, 3]``, with the
            signs of :func:`talk3d.cameras.angles`.
        blink: Left and right eye, 0 (open) to 1 (closed), float32 ``[N, 2]``.
        face_landmarks: As :attr:`Sample.landmarks`, float32 ``[N, 3, 2]``.
        crops: Source pixels to crop pixels, float64 ``[N, 2, 3]``; the inverse pastes a crop into its frame.
        valid: Whether the face was found, bool ``[N]``; where not, all else is interpolated.
        landmarks: In the crop, its sides being 1, float32 ``[N, 478, 2]``, read when used.
        points: Tracked points in the frame of the crop's camera, in units of the world, OpenCV axes, float32
            ``[N, 478, 3]``, read when used. They project onto the landmarks.
        features: Speech, float32 ``[N, 16, F]``, read when used.

    Args:
        folder: A dataset.

    Raises:
        ValueError: If it is none, of a version that does not fit, or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta: Meta = read_meta(self.folder)
        try:
            track = load_file(self.folder / "track.safetensors")
            self.landmarks, self.points, self.features = (
                np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ("landmarks", "points", "features")
            )
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{self.folder} is damaged: {error}") from None
        try:
            self.mesh, self.cameras, self.angles = track["mesh"], track["cameras"], track["angles"]
            self.blink, self.face_landmarks = track["blink"], track["face_landmarks"]
            self.crops, self.valid = track["crops"], track["valid"]
        except KeyError as error:
            raise ValueError(f"{self.folder / 'track.safetensors'} is damaged: {error} is missing") from None
        self._archive = ArchiveReader(self.folder / "frames.zip")
        lengths = {len(self.cameras), len(self.landmarks), len(self.points), len(self.features), len(self._archive)}
        if lengths != {self.meta.frames}:
            raise ValueError(f"{self.folder} is damaged: its parts have {sorted(lengths)} frames")
        self._splits = np.zeros((self.meta.frames, 2), np.int64)  # of each frame, its split's ends
        self._splits[:, 1] = self.meta.frames
        for split in self.splits.values():
            self._splits[split.start : split.stop] = split.start, split.stop

    def __len__(self) -> int:
        """N."""
        return self.meta.frames

    def __repr__(self) -> str:
        return f"Dataset({str(self.folder)!r}: {len(self)} frames, {self.size} x {self.size})"

    @property
    def size(self) -> int:
        """Side S of the crops in pixels."""
        return self.meta.size

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.meta.fps

    @property
    def splits(self) -> dict[str, range]:
        """Frames of ``"train"``, ``"val"`` and ``"test"``, in this order in time, with a few dropped in between."""
        return {name: range(start, stop) for name, (start, stop) in self.meta.splits.items()}

    @property
    def features_info(self) -> FeaturesInfo:
        """How the speech features were made."""
        return self.meta.features

    @property
    def speech(self) -> Path:
        """The sound, a wav of 16 kHz and one channel; frame i is shown at i/25 s of it."""
        return self.folder / "speech.wav"

    @cached_property
    def plate(self) -> NDArray[np.uint8]:
        """The background without the person, uint8 ``[Hs, Ws, 3]``, in the uncropped frame."""
        return np.asarray(Image.open(self.folder / "plate.png").convert("RGB"))

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Decode the crop of a frame, uint8 ``[S, S, 3]``."""
        return self._archive.picture(index)

    def masks(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Decode a frame's matte, 0 to 255 ``[S, S]``, and its regions ``[4, S, S]``: face, mouth, eyes, torso."""
        matte, bits = np.moveaxis(self._archive.masks(index), 2, 0)
        return matte, np.stack([(bits >> k & 1).astype(bool) for k in range(len(NAMES))])

    def sample(self, indices: Iterable[int] | Tensor) -> Sample:
        """Read frames for training.

        Args:
            indices: Which, B of them, in any order; a flat tensor of integers will do.

        Returns:
            See :class:`Sample`; on the CPU.

        Raises:
            IndexError: If there is no such frame.
        """
        index = torch.as_tensor([int(i) for i in indices], dtype=torch.int64)
        chosen = index.numpy()
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"indices must be from 0 to {len(self) - 1}, got {chosen.tolist()}")
        images = torch.empty(len(index), 3, self.size, self.size)
        plates = torch.empty_like(images)
        matte = torch.empty(len(index), 1, self.size, self.size)
        regions = torch.empty(len(index), len(NAMES), self.size, self.size)
        bits = torch.arange(len(NAMES), dtype=torch.uint8)[:, None, None]
        for n, i in enumerate(chosen.tolist()):
            images[n] = _planes(self._archive.picture(i))
            plates[n] = self._backdrop(i)
            alpha, region = _planes(self._archive.masks(i))
            matte[n, 0] = alpha
            regions[n] = (region.contiguous() >> bits) & 1
        return Sample(
            index=index,
            image=images.mul_(1 / 127.5).sub_(1),
            matte=matte.mul_(1 / 255),
            regions=regions,
            plate=plates,
            camera=torch.from_numpy(self.cameras[chosen]),
            features=self.speech_windows(chosen),
            blink=torch.from_numpy(self.blink[chosen].mean(1)),
            angles=torch.from_numpy(self.angles[chosen]),
            landmarks=torch.from_numpy(self.face_landmarks[chosen]),
            points=torch.from_numpy(self.points[chosen]),
        )

    def speech_windows(self, chosen: NDArray[np.int64]) -> Float[Tensor, "batch 8 16 feature"]:
        """Speech around frames, as :attr:`Sample.features`, without decoding a picture."""
        around = chosen[:, None] + np.arange(-_BEFORE, _AFTER + 1)
        start, stop = self._splits[chosen].T[..., None]
        heard = self.features[around.clip(0, len(self) - 1)]
        heard[(around < start) | (around >= stop)] = 0
        return torch.from_numpy(heard)

    @cached_property
    def _backdrop(self) -> Backdrop:
        return Backdrop(torch.from_numpy(self.plate.copy()), torch.from_numpy(self.crops) / self.size, self.size)


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    """``[H, W, C]`` to ``[C, H, W]``, as it is in memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
