"""The frames of a dataset, rendered again from what it knows of speech and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from talk3d.avatar import Avatar
from talk3d.data.dataset import Dataset, Sample
from talk3d.evaluation.inputs import require_same_camera, speech_of
from talk3d.models.encoders import Conditions
from talk3d.models.scene import SceneConfig

__all__ = ["Playback", "Rendered"]


class Rendered(NamedTuple):
    """Frames of a dataset, rendered.

    Attributes:
        pictures: At the dataset's size, on the device of the avatar.
        depth: Along the rays, world units.
        weight: Opacity.
    """

    pictures: UInt8[Tensor, "batch side side 3"]
    depth: Float[Tensor, "batch height width"]
    weight: Float[Tensor, "batch height width"]


class Playback:
    """Render an avatar as a dataset's frames show the person.

    Args:
        avatar: Who.
        dataset: What is said, how the head is held, and what is behind it.
        dtype: See :class:`talk3d.models.baked.Baked`.
        batch: Frames at a time.
        device: Where to render; by default a GPU if there is one.

    Attributes:
        notes: Sentences on how frames are rendered.

    Raises:
        ValueError: If the two do not go together.
    """

    def __init__(
        self, avatar: Avatar, dataset: Dataset, *, dtype: torch.dtype, batch: int, device: str | None = None
    ) -> None:
        require_same_camera(avatar, dataset)
        self._speech, self.notes = speech_of(avatar, dataset)
        self._avatar, self._dataset, self._batch = avatar, dataset, batch
        self._baked = avatar.bake(dtype, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        side, size = self._baked.side, dataset.size
        if side != size:
            self.notes.append(f"Our pictures of {side} x {side} were resized to the dataset's {size} x {size}.")
        motion, clip = avatar.motion, avatar.facts.get("source")
        refined = motion is not None and clip == dataset.meta.source and len(motion.cameras) == len(dataset)
        self._cameras = motion.cameras if motion is not None and refined else torch.from_numpy(dataset.cameras)
        if refined:
            self.notes.append("Cameras of the clip are those that the avatar was made with: tracked, then refined.")
        # an avatar may say that its volume holds the person alone, and not carry the plate
        self._before_plate = avatar.plate is not None or avatar.facts.get("background") == "plate"
        if self._before_plate:
            self.notes.append("Our frames stand before the dataset's background, which is not rendered.")

    @property
    def device(self) -> torch.device:
        """Where frames are rendered."""
        return self._baked.device

    @property
    def config(self) -> SceneConfig:
        """What the avatar's identity is made for."""
        return self._avatar.identity.config

    @property
    def published(self) -> bool:
        """Whether a released driver moves it."""
        return self._avatar.driver is not None and self._avatar.driver.unet.semantics == "published"

    def sample(self, frames: Sequence[int]) -> Sample:
        """Read frames; a batch that is not full is filled up with its last one, as a GPU has a graph for each size."""
        indices = [*frames, *[frames[-1]] * (self._batch - len(frames))]
        return self._dataset.sample(indices)._replace(camera=self._cameras[indices].float())

    def tokens(self, sample: Sample) -> Float[Tensor, "batch token width"] | None:
        """What drives frames; None if nothing does."""
        if self._avatar.driver is None:
            return None
        return self._baked.tokens(
            self._speech(sample.features), Conditions(sample.blink, sample.angles, sample.landmarks)
        )

    @torch.inference_mode()
    def __call__(self, sample: Sample, tokens: Tensor | None, camera: Float[Tensor, " 25"] | None = None) -> Rendered:
        """Render frames, from their own cameras or all from one."""
        cameras = sample.camera if camera is None else camera.expand(len(sample.camera), 25)
        made = self._baked.frames(tokens, cameras)
        behind = None
        if self._before_plate:
            behind = _resize(sample.plate, self._baked.side).clamp(-1, 1)
        pictures = self._baked.compose(made, behind)
        if self._baked.side != self._dataset.size:
            planar = _resize(pictures.permute(0, 3, 1, 2).float(), self._dataset.size)
            pictures = planar.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        # what frames() gives is overwritten by the next call
        return Rendered(pictures, made.view.depth[:, 0].clone(), made.view.weight[:, 0].clone())

    def attention(self, frame: int) -> tuple[Tensor, Tensor] | None:
        """Where a frame's tokens are looked at ``[block, token, 3, r, r]``, and the identity's planes; see pictures."""
        tokens = self.tokens(self._dataset.sample([frame]))
        if tokens is None or self._avatar.driver is None:
            return None
        planes = self._avatar.identity.planes
        with torch.inference_mode():
            return self._avatar.driver.unet.attention_maps(tokens.to(planes), planes)[0], planes[0]


def _resize(pictures: Float[Tensor, "batch 3 height width"], side: int) -> Float[Tensor, "batch 3 side side"]:
    if pictures.shape[-1] == side:
        return pictures
    return interpolate(pictures, (side, side), mode="bicubic", antialias=True, align_corners=False)
