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
from talk3d.training.precision import full_precision
from talk3d.training.targets import Target, Targets
from talk3d.training.transfer import moved
from talk3d.weights.convert import convert
from talk3d.weights.load import load_generator
from talk3d.weights.store import FILE

__all__ = ["FilledTargets", "Person", "Prior", "choose_frames", "correction", "draw_codes", "read_generator"]

_CODES = 2048  # of which mean and axes are taken
_RIDGE = 0.01  # what is added to their variances, as a share of the mean
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

    Codes lie along the principal axes of a generator's codes, in units of the standard deviation along each: steps are
    as long as codes differ there, so that what is found is as likely a code as can be (Zhu et al. 2020, "Improved
    StyleGAN embedding: where are the good latents?").

    Args:
        code: To start from ``[w_dim]``.
        axes: Of codes, as columns as long as a standard deviation ``[w_dim, w_dim]``.
        frames: How many.

    Attributes:
        origin: Where the axes meet ``[w_dim]``.
        at: Where the person is along them ``[w_dim]``.
        offsets_at: ``[K, w_dim]``.
        turn: Rotation vectors about the camera's pivot, radians ``[K, 3]``.
        shift: Units of the world ``[K, 3]``.
    """

    origin: Tensor
    axes: Tensor

    def __init__(self, code: Float[Tensor, " w_dim"], axes: Float[Tensor, "w_dim w_dim"], frames: int) -> None:
        super().__init__()
        # parts of checkpoints: another machine may turn the axes another way
        self.register_buffer("origin", code.clone())
        self.register_buffer("axes", axes.clone())
        self.at = nn.Parameter(torch.zeros_like(code))
        self.offsets_at = nn.Parameter(torch.zeros(frames, len(code), device=code.device))
        self.turn = nn.Parameter(torch.zeros(frames, 3, device=code.device))
        self.shift = nn.Parameter(torch.zeros(frames, 3, device=code.device))

    @property
    def w(self) -> Float[Tensor, " w_dim"]:
        """The person's code."""
        return self.origin + _along(self.axes, self.at)

    def codes(self) -> Float[Tensor, "frame w_dim"]:
        """Of all frames."""
        return self.w + _along(self.axes, self.offsets_at.mT).mT

    @torch.no_grad()
    def start(self, code: Float[Tensor, " w_dim"]) -> None:
        """Move the person to a code, where the axes then meet."""
        self.origin.copy_(code)
        self.at.zero_()


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
        index: The same where the generator is ``[K]``.
        front: The camera that codes are drawn for ``[1, 25]``.
        mean: Of the generator's codes ``[w_dim]``.
        residual: What tuning adds to the planes of a code.
        passes: Renders of a frame so far, by stage.
        notes: Sentences on what was done.
    """

    def __init__(self, generator: TriPlaneGenerator, targets: Targets, count: int) -> None:
        device = targets.device
        self.original = generator.to(device).eval().requires_grad_(False)
        self.generator = copy.deepcopy(self.original)
        self.frames = choose_frames(targets, count)
        self.index = moved(self.frames, device)
        self.front = generator.config.camera().to(device)[None]
        codes = draw_codes(self.original, _CODES, seed=0)
        self.mean = codes.mean(0)
        average = self.original.mapping.w_avg
        start = self.mean if average is None else average
        self.person = Person(start, _axes(codes), len(self.frames)).to(device)
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
        # an identity has one code, so that what tuning adds to its styles is a bias
        own = dict(identity.superresolution.named_modules())
        for name, layer in self.generator.superresolution.named_modules():
            affine = getattr(layer, "affine", None)
            if isinstance(affine, nn.Module):
                found, plain = affine(self.person.w[None])[0], own[f"{name}.affine"](self.person.w[None])[0]
                own[f"{name}.affine"].get_parameter("bias").add_(found - plain)

    @torch.no_grad()
    def place(self, cameras: CameraTrack, pivot: Float[Tensor, " 3"], start: Float[Tensor, "frame 6"]) -> None:
        """Write the frames' cameras into a track, whose corrections were ``start``."""
        cameras.correction[self.index] = start + correction(self.person.turn, self.person.shift, pivot)


@torch.no_grad()
def draw_codes(generator: TriPlaneGenerator, count: int, *, seed: int) -> Float[Tensor, "count w_dim"]:
    """Codes that a generator makes of random vectors, the same for the same seed."""
    weight = generator.mapping.embed.weight
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(weight)
    return torch.cat([generator.latents(part)[:, 0] for part in z.split(256)])


def _axes(codes: Float[Tensor, "count w_dim"]) -> Float[Tensor, "w_dim w_dim"]:
    """Principal axes of codes as columns, which are as long as a standard deviation along them, and never 0."""
    apart = (codes - codes.mean(0)).double()
    variances, axes = torch.linalg.eigh(apart.mT @ apart / len(codes))
    return (axes * (variances.clamp(min=0) + _RIDGE * variances.mean()).sqrt()).to(codes)


@full_precision
def _along(axes: Tensor, at: Tensor) -> Tensor:
    """From the axes' units to codes; a step of a thousandth of a standard deviation must not be lost."""
    return axes @ at


@full_precision
def correction(
    turn: Float[Tensor, "frame 3"], shift: Float[Tensor, "frame 3"], pivot: Float[Tensor, " 3"]
) -> Float[Tensor, "frame 6"]:
    """Corrections as :class:`CameraTrack` has them, of turns about a pivot: the picture's middle stays where it is."""
    return torch.cat((turn, shift + pivot - rotation(turn) @ pivot), 1)
