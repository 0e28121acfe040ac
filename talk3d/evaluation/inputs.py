"""Whether an avatar and a dataset go together, and what an avatar is given of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from talk3d.audio.features import FeaturesInfo
from talk3d.avatar import Avatar
from talk3d.data.dataset import Dataset

__all__ = ["Speech", "choose_frames", "require_same_camera", "speech_of"]

_CLOSE = 5e-3  # of a focal length and a radius, or world units of a pivot: less than a crop's own error

Speech = Callable[[Tensor], Tensor]
"""From a dataset's speech features to those that an avatar wants."""


def choose_frames(dataset: Dataset, split: str, limit: int | None) -> tuple[range, list[int]]:
    """The frames of a split, and those of them in which the face was found.

    Raises:
        ValueError: If there is no such split, or no such frame in it.
    """
    if split not in dataset.splits:
        raise ValueError(f"{dataset.folder} has no split {split!r}; it has {', '.join(dataset.splits)}")
    frames = dataset.splits[split][:limit]
    valid = [frame for frame in frames if dataset.valid[frame]]
    if not valid:
        raise ValueError(f"the split {split!r} of {dataset.folder} has no frame with a face")
    return frames, valid


def require_same_camera(avatar: Avatar, dataset: Dataset) -> None:
    """Compare by which camera crops are aligned, for pictures of two alignments cannot be compared.

    Raises:
        ValueError: If the avatar was made for another.
    """
    wanted, found = avatar.identity.config, dataset.meta.camera
    lengths = np.array([(wanted.focal, found.focal), (wanted.radius, found.radius)])
    far = abs(lengths[:, 0] / lengths[:, 1] - 1).max(), abs(np.subtract(wanted.pivot, found.pivot)).max()
    if max(far) > _CLOSE:
        raise ValueError(
            f"the crops of {dataset.folder} are aligned by a camera of focal length {found.focal:.4g}, radius "
            f"{found.radius:.4g} and pivot {_triple(found.pivot)}, and the avatar was made for {wanted.focal:.4g}, "
            f"{wanted.radius:.4g} and {_triple(wanted.pivot)}: prepare the clip with the other --camera"
        )


def speech_of(avatar: Avatar, dataset: Dataset) -> tuple[Speech, list[str]]:
    """Find out how a dataset's speech features become those that an avatar wants.

    Log-mel features of a clip are normalised by its own mean and scale; those of another clip are brought back.

    Returns:
        The conversion, and sentences on what it does.

    Raises:
        ValueError: If they are of another kind.
    """
    if avatar.driver is None:
        return lambda features: features, ["The avatar has no driver: it was rendered at rest."]
    found, width = dataset.features_info, avatar.driver.conditions.features
    wanted = FeaturesInfo(**avatar.facts["features"]) if "features" in avatar.facts else None
    if width != found.width or (wanted and (wanted.name, wanted.model) != (found.name, found.model)):
        raise ValueError(
            f"the avatar listens to {_kind(wanted, width)}, and {dataset.folder} has {_kind(found, found.width)}: "
            f"prepare the clip with the same --features"
        )
    if wanted is None:
        return lambda features: features, ["The avatar does not say which speech features it wants; their width fits."]
    if (wanted.mean, wanted.scale) == (found.mean, found.scale):
        return lambda features: features, []

    def convert(features: Tensor) -> Tensor:
        ours = (features * found.scale + found.mean - wanted.mean) / wanted.scale
        # steps beyond the sound's ends are zero in either
        return torch.where(features.any(-1, keepdim=True), ours, torch.zeros_like(features))

    return convert, ["The speech is of another clip: its features were brought to the avatar's mean and scale."]


def _kind(info: FeaturesInfo | None, width: int) -> str:
    name = "features" if info is None else f"{info.name}" + (f" ({info.model})" if info.model else "")
    return f"{name} of width {width}"


def _triple(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values)})"
