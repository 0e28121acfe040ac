"""What is compared with: the frames of a dataset, and the mean of those that were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from talk3d.audio.spectra import read_wav
from talk3d.data.dataset import Dataset, Sample
from talk3d.data.regions import NAMES
from talk3d.evaluation.faces import Face, FaceReader
from talk3d.evaluation.networks import Networks
from talk3d.evaluation.scores import FaceCurves
from talk3d.pictures import to_bytes

__all__ = ["TrueFrames", "Truth", "mean_frame", "unit"]

_REGIONS = ("face", "mouth", "torso")  # beside the whole picture
_SAMPLES = 640  # of sound to a frame
_AVERAGED = 256  # frames of which the floor is the mean, evenly spaced: more would hardly change it


class TrueFrames(NamedTuple):
    """Some frames, B of them.

    Attributes:
        positions: Among those that are evaluated.
        bytes: Pictures ``[S, S, 3]``.
        pictures: The same from 0 to 1, on the device where they are compared.
        regions: By name, ``"whole"`` among them.
        faces: What the tracker sees; None where it sees none, or is not there.
        features: Of Inception, if that is there.
        identities: What CurricularFace says of the faces, if that is there; None where there is no face.
    """

    positions: list[int]
    bytes: list[NDArray[np.uint8]]
    pictures: Float[Tensor, "batch 3 side side"]
    regions: dict[str, Float[Tensor, "batch 1 side side"]]
    faces: list[Face | None]
    features: Float[Tensor, "batch 2048"] | None
    identities: list[Tensor | None] | None


class Truth:
    """The true video.

    Args:
        dataset: The clip.
        frames: Which of it.
        reader: Follows the face; None if there is no tracker.
        networks: Those whose weights are there.

    Attributes:
        length: How many frames it has.
        count: How many of them were read.
        scale: Pixels of a crop of 512 to one of the pictures.
        curves: Its mouth and eyes.
    """

    def __init__(self, dataset: Dataset, frames: range, reader: FaceReader | None, networks: Networks) -> None:
        self._dataset, self._frames, self._reader, self._networks = dataset, frames, reader, networks
        self.length, self.count, self.scale = len(frames), 0, 512 / dataset.size
        self.curves = FaceCurves(self.length, self.scale)

    def read(self, chunk: Sequence[int], sample: Sample, device: torch.device) -> TrueFrames:
        """Read frames, in their order.

        Args:
            chunk: Which.
            sample: What the dataset gives of them, and perhaps of some more.
            device: Where to compare.
        """
        positions = [frame - self._frames.start for frame in chunk]
        pixels = to_bytes((sample.image[: len(chunk)] + 1) / 2).permute(0, 2, 3, 1).contiguous()
        pictures = unit(pixels.to(device))
        faces = [self._reader(picture) if self._reader else None for picture in pixels.numpy()]
        self.curves.add(positions, faces, faces)
        regions = {name: sample.regions[: len(chunk), NAMES.index(name)][:, None].to(device) for name in _REGIONS}
        networks, identities = self._networks, None
        features = None if networks.inception is None else networks.inception(pictures)
        if networks.likeness is not None:
            identities = networks.likeness(list(pixels), [None if face is None else face.five for face in faces])
        self.count += len(chunk)
        whole = torch.ones_like(pictures[:, :1])
        everywhere = {"whole": whole, **regions}
        return TrueFrames(positions, list(pixels.numpy()), pictures, everywhere, faces, features, identities)

    def speech(self) -> Float[NDArray[np.float32], " sample"]:
        """What is said in it."""
        samples = read_wav(self._dataset.speech)
        return samples[_SAMPLES * self._frames.start : _SAMPLES * self._frames.stop]


def mean_frame(dataset: Dataset) -> tuple[UInt8[Tensor, "1 side side 3"], str]:
    """Average the training frames; returns the picture, and a sentence on it.

    Raises:
        ValueError: If there are none.
    """
    frames = [frame for frame in dataset.splits.get("train", range(0)) if dataset.valid[frame]]
    if not frames:
        raise ValueError(f"{dataset.folder} has no training frames, whose mean is the floor of a report")
    chosen = np.linspace(0, len(frames) - 1, min(_AVERAGED, len(frames))).round().astype(int)
    total = np.zeros((dataset.size, dataset.size, 3))
    for k in chosen:
        total += dataset.picture(frames[k])
    mean = torch.from_numpy((total / len(chosen)).round().astype(np.uint8))
    return mean[None], f"The floor is the mean of {len(chosen)} frames of the training split, shown all the time."


def unit(pictures: UInt8[Tensor, "batch side side 3"]) -> Float[Tensor, "batch 3 side side"]:
    """Bring pictures from 0 to 255 to 0 to 1, channels first."""
    return pictures.permute(0, 3, 1, 2).float() / 255
