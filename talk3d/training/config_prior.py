"""What can be set about a fit that starts from a trained generator."""

from __future__ import annotations

from dataclasses import dataclass

from talk3d.ops.triplane import Axes
from talk3d.training.options import OptionalPath

__all__ = ["AdversaryConfig", "InversionLosses", "PriorConfig"]


@dataclass(frozen=True, kw_only=True)
class InversionLosses:
    """Losses of inversion and tuning."""

    color: float = 1.0
    """Absolute difference of the render and the frame."""

    edges: float = 0.5
    """Of the differences between neighbouring pixels of the render."""

    picture: float = 1.0
    """Absolute difference of super-resolved pictures, later in the inversion."""

    perceptual: float = 0.2
    """LPIPS if its weights are there, structural similarity and edges otherwise; of renders."""

    face: float = 1.0
    """Absolute difference within the face, once more."""

    offsets: float = 1e-3
    """Squares of the frames' offsets from the person's code, in standard deviations along codes' principal axes: the
    code is the person."""

    poses: float = 0.01
    """Cameras against where they were tracked: squares, in degrees and in hundredths of a unit."""

    depth: float = 0.0
    """Depth of the face against the personal mesh, in units of the world; 0 trusts the generator."""

    matte: float = 0.0
    """Missing opacity where the matte shows the person."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """A generator that was trained on faces: which, and how the person is found in it."""

    generator: OptionalPath = None
    """A checkpoint of EG3D, or the folder that talk3d convert made of one; the same as --generator."""

    axes: Axes | None = None
    """Convention of its planes, where the checkpoint does not say it."""

    frames: int = 5
    """Frames that are inverted together, chosen for varied pose and mouth."""

    inversion: int = 600
    """Steps that find the person's code, the frames' offsets and their cameras."""

    code_rate: float = 0.05
    """Adam's learning rate for the code, in standard deviations along codes' principal axes; a fifth of it for
    offsets."""

    pose_rate: float = 5e-3
    """For turns in radians; a third of it for shifts in units of the world."""

    tuning: int = 400
    """Steps that tune the generator to these frames; 0 leaves it as it is."""

    tuning_rate: float = 5e-3
    """Adam's learning rate for the styles of the person's code, and in standard deviations of planes for those."""

    locality: float = 0.3
    """How much renders of codes near the person's must stay as they were; others do in any case."""

    rounds: int = 3
    """How often each frame of the clip is rendered to find its camera."""

    losses: InversionLosses = InversionLosses()
    """What is minimised."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.rounds < 0:
            raise ValueError(
                f"prior.frames must be positive and prior.rounds not negative, got {self.frames} and {self.rounds}"
            )


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """A discriminator that tells crops of renders from crops of frames, and learns as it goes (GAN)."""

    weight: float = 0.0
    """Of what it says of renders; 0 does without. 0.005 is a start, beside a weight of 1 for l1."""

    start: float = 0.3
    """Share of the driver's steps before it begins: before, everybody tells them apart."""

    ramp: float = 0.1
    """Share of the steps in which its weight then grows; it learns from the beginning of that."""

    crop: int = 64
    """Side of the crops in pixels of the picture, a power of 2; a published discriminator wants whole pictures."""

    channels: int = 8192
    """Its channels are so many over the side, and no more than 512; 32768 are the published ones."""

    every: int = 16
    """Steps between penalties of its slope (R1), which count as many times."""

    gamma: float = 1.0
    """Of the penalty."""

    rate: float = 2e-3
    """Adam's learning rate for it."""

    checkpoint: OptionalPath = None
    """A training snapshot of EG3D whose discriminator it begins as; only with its generator, that is --generator."""

    def at(self, step: int, steps: int) -> float:
        """Weight in one step of so many."""
        since = step - self.start * steps
        return 0.0 if since < 0 else self.weight * (min(1.0, since / (self.ramp * steps)) if self.ramp else 1.0)
