"""Losses of networks that others trained: whether the face is the person's, and whether lips move as the sound says.

The weights are local files; nothing is downloaded. A loss without them is off, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from talk3d.audio.spectra import EXPERT_RATE, expert_mel, read_wav
from talk3d.models.compositing import composite
from talk3d.models.scene import View
from talk3d.networks import ArcFace, LipSyncExpert, load_network
from talk3d.networks.expert import COLUMNS, FRAMES
from talk3d.networks.faces import SIDE
from talk3d.training.config import DriverLosses, RunConfig
from talk3d.training.kept import Kept
from talk3d.training.lean import at_once
from talk3d.training.pairs import Pair
from talk3d.training.targets import FACE, Target, Targets

__all__ = ["Judges", "face_boxes", "identity", "lip_sync", "mouths", "pasted", "recognised"]

_FACE = 96  # pixels of a face that the expert knows, of which it sees the lower half
_FPS = 25  # of the expert; a dataset has no other
_ROOM = 256 * 2**20  # bytes for what was filmed: mouths of three minutes, of 55 kB each; of a face it is 2 kB
_LEAST = 1e-6  # cosine below which lips and sound have nothing to do with each other: its logarithm has a slope


def identity(
    network: nn.Module,
    found: Float[Tensor, "batch 3 height width"],
    wanted: Float[Tensor, "batch feature"],
    face: Float[Tensor, "batch 1 height width"],
) -> Tensor:
    """1 less the cosine between what a network says of two faces, mean over frames.

    Args:
        network: Such as :class:`talk3d.networks.ArcFace`.
        found: Rendered; gradients flow to it.
        wanted: What the network says of what was filmed, by :func:`recognised`.
        face: How much of each pixel is face.
    """
    return at_once(lambda x: (1 - (recognised(network, x, face) * wanted).sum(1)).mean(), found)


def recognised(
    network: nn.Module, pictures: Float[Tensor, "batch 3 height width"], face: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch feature"]:
    """Who a network says is in pictures, as unit vectors.

    As published for Talk3D: of the whole crop without alignment, mid-grey where there is no face, and averaged down to
    the network's size.
    """
    faces: Tensor = network(interpolate(pictures * face, (SIDE, SIDE), mode="area"))
    return faces


def lip_sync(heard: Float[Tensor, "batch feature"], seen: Float[Tensor, "batch feature"]) -> Tensor:
    """Minus the logarithm of the cosine between sound and lips, mean over windows.

    Args:
        heard: Unit vectors without negative numbers.
        seen: Likewise.
    """
    return -(heard * seen).sum(1).clamp(min=_LEAST).log().mean()


def mouths(
    pictures: Float[Tensor, "frame 3 height width"], boxes: Float[Tensor, "frame 4"]
) -> Float[Tensor, "frame 3 48 96"]:
    """Cut lower halves of faces as the expert wants them: 96 pixels to a face, blue, green, red, from 0 to 1.

    Rendered and filmed pictures are sampled alike, each pixel in its middle, bilinearly.

    Args:
        pictures: From -1 to 1.
        boxes: Left, top, right, bottom of the faces, in units of the picture's sides.
    """
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    middles = (torch.arange(_FACE, device=boxes.device) + 0.5) / _FACE
    x, y = left + (right - left) * middles, top + (bottom - top) * middles[_FACE // 2 :]
    where = torch.stack((x[:, None].expand(-1, _FACE // 2, -1), y[:, :, None].expand(-1, -1, _FACE)), -1)
    cut = grid_sample(pictures, 2 * where.to(pictures.dtype) - 1, padding_mode="border", align_corners=False)
    return ((cut + 1) / 2).clamp(0, 1).flip(1)


def face_boxes(tracked: Float[Tensor, "frame point 2"]) -> Float[Tensor, "frame 4"]:
    """Left, top, right and bottom of tracked faces, in the units of the landmarks."""
    return torch.cat((tracked.amin(1), tracked.amax(1)), 1)


def pasted(part: Tensor, whole: Tensor, corner: tuple[int, int]) -> Tensor:
    """Pictures with a rendered part in its place; gradients flow to the part.

    Args:
        part: ``[B, C, h, w]``.
        whole: ``[B, C, H, W]``.
        corner: First row and column of the part.
    """
    (top, left), (height, width) = corner, part.shape[2:]
    if (height, width) == whole.shape[2:]:
        return part
    made = whole.clone()
    made[..., top : top + height, left : left + width] = part
    return made


class Judges:
    """The networks whose weights are there, and what they say of frames.

    Args:
        config: Where the weights are.
        wanted: How much the losses count; a network that does not is not loaded.
        targets: The clip.

    Attributes:
        notes: What is used, and what is not for want of weights, in sentences.

    Raises:
        ValueError: If a file holds something else.
    """

    def __init__(self, config: RunConfig, wanted: DriverLosses, targets: Targets) -> None:
        self._targets, self._there = targets, frozenset(targets.frames("train"))
        self.notes: list[str] = []
        self._face = self._expert = None
        if not wanted.identity.weight:
            pass
        elif config.arcface is None:
            self.notes.append(
                "The identity loss is off: it needs the weights of ArcFace IR-SE50, and run.arcface names none. "
                "Pixels and the perceptual loss alone hold the person's face."
            )
        else:
            self._face = load_network(ArcFace, config.arcface).to(targets.device)
            # by whether it is of the picture or of the view
            self._wanted = {large: Kept(partial(self._recognised, large), _ROOM) for large in (False, True)}
            self.notes.append(f"The identity loss is of ArcFace IR-SE50, with the weights of {config.arcface}.")
        if not wanted.sync.weight:
            pass
        elif config.lipsync is None:
            self.notes.append(
                "The lip-sync loss is off: it needs the weights of Wav2Lip's expert, and run.lipsync names none. "
                "The articulation loss, of tracked lips, alone ties lips to the sound."
            )
        else:
            self._expert = load_network(LipSyncExpert, config.lipsync).to(targets.device)
            self._mouths = Kept(self._mouth, _ROOM)
            self.notes.append(f"The lip-sync loss is of Wav2Lip's expert, with the weights of {config.lipsync}.")

    @property
    def knows_faces(self) -> bool:
        """Whether there is an identity loss."""
        return self._face is not None

    @property
    def hears(self) -> bool:
        """Whether there is a lip-sync loss."""
        return self._expert is not None

    def terms(
        self, view: View, pairs: list[Pair], frames: tuple[Target, Target], window: int
    ) -> dict[str, Callable[[], Tensor]]:
        """Losses of a step, to be computed if they count.

        Args:
            view: What was rendered.
            pairs: The view, and the picture if there is one.
            frames: The frames whole, over whatever is behind them in this step, and as they were filmed.
            window: As in :meth:`lip_sync`.
        """
        found: dict[str, Callable[[], Tensor]] = {}
        plain, raw, largest = frames[1], pairs[0], pairs[-1]
        if self.knows_faces:
            found["identity"] = lambda: self.identity(largest.found, frames, largest.corner, large=len(pairs) > 1)
        if self.hears:
            # the faces before and after are over the clip's background
            place = (*raw.corner, raw.found.shape[3])
            filmed = composite(view.features[:, :3], view.weight, plain.part(*place).view_plate)
            found["sync"] = lambda: self.lip_sync(filmed, plain, raw.corner, window)
        return found

    def identity(self, part: Tensor, frames: tuple[Target, Target], corner: tuple[int, int], *, large: bool) -> Tensor:
        """Compare the faces of frames.

        What was filmed is looked at once. Where a step has another background, what that changed in the frame is
        taken off the render as well.

        Args:
            part: What was rendered of them.
            frames: The frames whole, over whatever is behind them in this step, and as they were filmed.
            corner: Where the part is.
            large: Whether it is a part of the picture, and not of the view.
        """
        assert self._face is not None
        (behind, _), (filmed, face) = (_seen(target, large) for target in frames)
        rendered = pasted(part, behind, corner) + (filmed - behind)
        return identity(self._face, rendered, self._wanted[large](frames[0].frames), face)

    def lip_sync(self, part: Tensor, target: Target, corner: tuple[int, int], window: int) -> Tensor:
        """Compare rendered lips with the sound.

        Of five frames around each window, those that were not rendered are the clip's own, as published.

        Args:
            part: What was rendered of the frames' views, over the clip's background.
            target: The frames, whole.
            corner: Where the part is in a view.
            window: Frames in a row that were rendered together.

        Returns:
            The mean over the windows around which there are five frames with a face, and sound; 0 if there are none.
        """
        assert self._expert is not None
        expert, index = self._expert, target.frames
        heard, filmed, places = [], [], []
        for start in range(0, len(index), window):
            count = min(window, FRAMES)
            first = index[start] - (FRAMES - count) // 2
            column = EXPERT_RATE * first // _FPS
            mel = self._mel[:, column : column + COLUMNS]
            if not self._there.issuperset(range(first, first + FRAMES)) or mel.shape[1] < COLUMNS:
                continue
            heard.append(mel)
            filmed.append(self._mouths(range(first, first + FRAMES)))
            places.append((start, index[start] - first, count))
        if not heard:
            return part.new_zeros(())
        sound = torch.stack(heard)[:, None]

        def compare(part: Tensor) -> Tensor:
            rendered = mouths(pasted(part, target.view_image, corner), face_boxes(target.tracked))
            seen = [
                torch.cat((five[:offset], rendered[start : start + count], five[offset + count :])).flatten(0, 1)
                for five, (start, offset, count) in zip(filmed, places, strict=True)
            ]
            return lip_sync(*expert(sound, torch.stack(seen)))

        return at_once(compare, part)

    def _recognised(self, large: bool, frame: int) -> Tensor:
        assert self._face is not None
        return recognised(self._face, *_seen(self._targets([frame]), large))[0]

    def _mouth(self, frame: int) -> Tensor:
        target = self._targets([frame])
        return mouths(target.view_image, face_boxes(target.tracked))[0]

    @cached_property
    def _mel(self) -> Float[Tensor, "80 step"]:
        mel = expert_mel(read_wav(self._targets.dataset.speech))
        return torch.from_numpy(mel).to(self._targets.device)


def _seen(target: Target, large: bool) -> tuple[Tensor, Tensor]:
    """Frames, and how much of each pixel is face; pictures or views."""
    image, regions = (target.image, target.regions) if large else (target.view_image, target.view_regions)
    return image, regions[:, FACE : FACE + 1]
