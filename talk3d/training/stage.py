"""What the training loop asks of a stage: the seam between the loop and what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from talk3d.models.identity import Identity
from talk3d.training.cameras import CameraTrack
from talk3d.training.config import FitConfig
from talk3d.training.targets import Targets
from talk3d.training.team import Parts

__all__ = ["Stage", "StageContext", "uniform"]


@dataclass(frozen=True)
class StageContext:
    """What every stage is made from: ``IdentityStage(context)``, then ``SuperResolutionStage(context)``, and so on.

    A stage trains what is in here in place; the next one finds it as the last one left it.

    Attributes:
        config: Everything that was set.
        targets: The clip, ``targets.dataset``, and its frames as the model would make them.
        identity: The person at rest.
        cameras: Of all frames.
        parts: Which part of a step is being computed; a stage whose step has parts looks at other frames in each.
    """

    config: FitConfig
    targets: Targets
    identity: Identity
    cameras: CameraTrack
    parts: Parts = field(default_factory=Parts)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.targets.device


class Stage(Protocol):
    """Something that is trained, step by step.

    Exact resume rests on two rules. Everything that a step changes is a parameter or a buffer of :meth:`modules`, or
    state of the :meth:`optimizer`; these are what a checkpoint holds. And a step draws random numbers, the frames that
    it looks at among them, from its ``generator`` alone, which depends on the seed, the stage's name and the step.

    A stage that changes the shape of what it trains is two stages.

    A step may have parts, whose gradients are averaged; see :mod:`talk3d.training.team`. A stage whose steps all look
    at the same frames says ``parted = False``, and has one.

    Attributes:
        name: Such as ``"identity"`` or ``"driver"``; names its files. An identifier.
        steps: How many there are.
    """

    name: str
    steps: int

    def begin(self) -> None:
        """Called when its turn has come, and before that for trial steps: make folds and caches anew.

        It says what needs gradients and what does not: another stage may have frozen what this one trains.
        """
        ...

    def modules(self) -> dict[str, nn.Module]:
        """Everything that is trained or tracked, by name; names are identifiers. Always the same modules.

        What another stage trained and this one leaves alone does not belong here: that is in the other's checkpoint.
        """
        ...

    def optimizer(self) -> torch.optim.Optimizer:
        """Make the optimiser, with the learning rates that :meth:`rate` is a factor of. Called once.

        Its state holds tensors and plain numbers only, as Adam's does.
        """
        ...

    def rate(self, step: int) -> float:
        """Factor on all learning rates in this step."""
        ...

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of this step, scalars; their sum is minimised. A term whose weight is 0 is left out.

        Args:
            step: From 0 on.
            generator: On the CPU; the only source of random numbers, also for the choice of frames.
        """
        ...

    def batch(self) -> str:
        """What the last step looked at, such as ``"frames 17, 203"``, to be named where its loss is not finite."""
        ...

    def stepped(self, step: int) -> None:
        """Called after the optimiser's step: moving averages, values that are kept in a range."""
        ...

    def measure(self) -> dict[str, float]:
        """Figures on held-out frames, deterministic. The first is better when larger, and chooses the best checkpoint.

        Empty if there is nothing to measure.
        """
        ...

    def preview(self) -> dict[str, Tensor]:
        """Named pictures, uint8 ``[H, W, 3]`` on the CPU, deterministic. Shows what may go wrong unseen."""
        ...


def uniform(generator: torch.Generator, device: torch.device, *shape: int) -> Tensor:
    """Random numbers from 0 to 1, made where they are wanted, of a seed that a generator on the CPU draws."""
    if device.type == "cpu":
        return torch.rand(shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.rand(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
