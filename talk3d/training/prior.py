"""A trained generator as a prior: the person is a code of it, and what the stages share of that."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.models.generator import TriPlaneGenerator
from talk3d.models.identity import Identity
from talk3d.models.scene import View
from talk3d.ops.triplane import Axes
from talk3d.training.cameras import CameraTrack, rotation
from talk3d.training.targets import Target, Targets
from talk3d.weights.convert import convert
from talk3d.weights.load import load_generator
from talk3d.weights.store import FILE

__all__ = ["FilledTargets", "Person", "Prior", "choose_frames", "correction", "read_generator"]

_CODES = 512  # of which mean and spread are taken
_NAMED = 12  # frames in a sentence
_LIPS, _CORNERS = (13, 14), (33, 263)  # middles of the inner lips, outer corners of the eyes


def read_generator(path: Path, folder: Path, axes: Axes | None = None) -> TriPlaneGenerator:
    """Read a converted generator, or convert a checkpoint into a folder of the run.

    Raises:
        ValueError: If it is no generator, or its planes' convention is not known.
    """
    if path.is_dir():
        return load_generator(path)
    if not path.is_file():
        raise ValueError(f"there is no generator {path}")
    made = folder / "generator"
    if not (made / FILE).is_file():
        found = convert(path, made, axes=axes)
        if found.kind != "generator":
            raise ValueError(f"{path} holds the weights of a {found.kind}, not of a generator")
    return load_generator(made)


def choose_frames(targets: Targets, count: int) -> list[int]:
    """Training frames that differ the most in yaw, pitch and opening of the mouth, the most usual one first."""
    frames, dataset = targets.frames("train"), targets.dataset
    marks = np.asarray(dataset.landmarks)[frames]
    upper, lower, left, right = (marks[:, vertex] for vertex in (*_LIPS, *_CORNERS))
    gap = np.linalg.norm(upper - lower, axis=1) / np.linalg.norm(left - right, axis=1).clip(1e-6)
    shape = np.concatenate((np.asarray(dataset.angles)[frames][:, :2], gap[:, None]), 1).astype(np.float64)
    shape = (shape - np.median(shape, 0)) / shape.std(0).clip(1e-6)
    chosen = [int(np.linalg.norm(shape, axis=1).argmin())]
    while len(chosen) < min(count, len(frames)):
        far = np.linalg.norm(shape[:, None] - shape[chosen], axis=2).min(1)
        chosen.append(int(far.argmax()))
    return [frames[k] for k in chosen]


class FilledTargets(Targets):
    """Frames of a volume that holds the background, too: nothing is behind it, and all of a picture is its."""

    def __call__(self, indices: Sequence[int]) -> Target:
        """Frames, in any order; mattes are full, and plates black, which adds nothing to a render."""
        found = super().__call__(indices)
        return found._replace(
            matte=torch.ones_like(found.matte),
            view_matte=torch.ones_like(found.view_matte),
            plate=-torch.ones_like(found.plate),
            view_plate=-torch.ones_like(found.view_plate),
        )


class Person(nn.Module):
    """The person's code, the frames' offsets from it, and corrections of their cameras.

    Args:
        code: To start from ``[w_dim]``.
        frames: How many.

    Attributes:
        w: ``[w_dim]``.
        offsets: ``[K, w_dim]``.
        turn: Rotation vectors about the camera's pivot, radians ``[K, 3]``.
        shift: Units of the world ``[K, 3]``.
    """

    def __init__(self, code: Float[Tensor, " w_dim"], frames: int) -> None:
        super().__init__()
        self.w = nn.Parameter(code.clone())
        self.offsets = nn.Parameter(torch.zeros(frames, len(code), device=code.device))
        self.turn = nn.Parameter(torch.zeros(frames, 3, device=code.device))
        self.shift = nn.Parameter(torch.zeros(frames, 3, device=code.device))

    def codes(self) -> Float[Tensor, "frame w_dim"]:
        """Of all frames."""
        return self.w + self.offsets


class Prior:
    """A generator that is tuned to a person, and who that is.

    Args:
        generator: As it was trained.
        targets: The clip.
        count: Frames that are inverted.

    Attributes:
        generator: The one that is tuned.
        person: Where the person is in it.
        frames: Which were chosen.
        spread: Standard deviation of a code's numbers.
        residual: What tuning adds to the planes of a code.
        passes: Renders of a frame so far, by stage.
        notes: Sentences on what was done.
    """

    def __init__(self, generator: TriPlaneGenerator, targets: Targets, count: int) -> None:
        device = targets.device
        self.original = generator.to(device).eval().requires_grad_(False)
        self.generator = copy.deepcopy(self.original)
        self.frames = choose_frames(targets, count)
        draws = torch.Generator().manual_seed(0)
        z = torch.randn(_CODES, generator.config.z_dim, generator=draws).to(device)
        with torch.no_grad():
            codes = torch.cat([generator.latents(part)[:, 0] for part in z.split(64)])
        average = generator.mapping.w_avg
        mean = codes.mean(0) if average is None else average
        self.spread = (codes - codes.mean(0)).square().mean().sqrt().item()
        self.person = Person(mean, len(self.frames)).to(device)
        self.residual: nn.Module | None = None
        self.passes: dict[str, int] = {}
        self.notes = [f"The frames {', '.join(map(str, self.frames))} are inverted together."]
        valid, splits = targets.dataset.valid, targets.dataset.splits
        lost = [i for split in splits.values() for i in split if not valid[i]]
        if lost:
            shown = ", ".join(map(str, lost[:_NAMED])) + (" and more" if len(lost) > _NAMED else "")
            self.notes.append(f"{len(lost)} frames are left out, for no face was found in them: {shown}.")

    def count(self, stage: str, renders: int) -> None:
        """Note that so many frames were rendered."""
        self.passes[stage] = self.passes.get(stage, 0) + renders

    def planes(self, codes: Float[Tensor, "code w_dim"]) -> Float[Tensor, "code 3 channel side side"]:
        """Planes of codes, by the generator that is tuned."""
        made = self.generator.planes(codes[:, None].expand(-1, self.generator.backbone.num_ws, -1))
        return made if self.residual is None else made + self.residual(codes)

    def enlarge(self, view: View, codes: Float[Tensor, "code w_dim"]) -> Float[Tensor, "code 3 height width"]:
        """Super-resolve views."""
        return self.generator.superresolution(view.features, codes.expand(len(view.features), -1))

    @torch.no_grad()
    def give(self, identity: Identity) -> None:
        """Make an identity of the person's code."""
        identity.planes.copy_(self.planes(self.person.w[None]))
        identity.w.copy_(self.person.w)
        identity.decoder.load_state_dict(self.generator.decoder.state_dict())
        identity.superresolution.load_state_dict(self.generator.superresolution.state_dict())

    @torch.no_grad()
    def place(self, cameras: CameraTrack, pivot: Sequence[float], start: Float[Tensor, "frame 6"]) -> None:
        """Write the frames' cameras into a track, whose corrections were ``start``."""
        cameras.correction[self.frames] = start + correction(self.person.turn, self.person.shift, pivot)


def correction(
    turn: Float[Tensor, "frame 3"], shift: Float[Tensor, "frame 3"], pivot: Sequence[float]
) -> Float[Tensor, "frame 6"]:
    """Corrections as :class:`CameraTrack` has them, of turns about a pivot: the picture's middle stays where it is."""
    middle = torch.tensor(pivot, dtype=turn.dtype, device=turn.device)
    return torch.cat((turn, shift + middle - rotation(turn) @ middle), 1)
