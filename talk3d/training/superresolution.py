"""The super-resolution stage: from rendered features to the picture, planes and decoder frozen."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from talk3d.models.compositing import composite
from talk3d.models.driver import Driver
from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.pictures import grid, pixels
from talk3d.training.rest import Rest
from talk3d.training.stage import StageContext, uniform
from talk3d.training.targets import EYES, FACE, MOUTH, Target, in_turn, over_color, spread
from talk3d.training.transfer import moved

__all__ = ["SuperResolutionStage"]

_FINAL_RATE = 0.1
_EDGES = 0.5  # weight of the picture's differences: without them, what is not certain is blurred
_TIMES = 4  # that a frame is seen
_MEASURED, _SHOWN = 8, 3  # held-out frames


class SuperResolutionStage:
    """Trains super-resolution; see :class:`talk3d.training.stage.Stage`.

    Nothing else is trained, so each frame's view is rendered once and kept.

    Args:
        context: What stages share.
        driver: What moves the person, so that lips and lids are those of the frame; without one it is the person at
            rest, and they hardly count.
        trained: Whether the network is a generator's own, which is tuned from where it is.
    """

    def __init__(self, context: StageContext, driver: Driver | None = None, *, trained: bool = False) -> None:
        self.context, self.config, self.driver = context, context.config.superresolution, driver
        self.name = "enlarging" if driver is None else "superresolution"
        self.steps = self.config.before if driver is None else self.config.steps
        # each several times, from all over the clip: their views are rendered but once
        count = max(self.steps * self.config.batch // _TIMES, self.config.batch)
        self._frames = spread(context.targets.frames("train"), count)
        self._rest = Rest(context.targets)
        self._held_out = context.targets.frames("val")
        resolution, channels = context.identity.config.resolution, context.identity.config.plane_channels
        self._room = max(context.config.run.cache * 2**20 // (resolution**2 * (channels + 2) * 4), 1)
        self._views: OrderedDict[int, View] = OrderedDict()
        self._seen = ""
        # at first the picture is the view's, enlarged: what is learned is what that lacks
        if trained:
            return
        with torch.no_grad():
            for block in (context.identity.superresolution.block0, context.identity.superresolution.block1):
                block.to_rgb.weight.zero_()

    def begin(self) -> None:
        """Freeze the rest, and forget views of planes that have changed since."""
        self.context.identity.requires_grad_(False)
        self.context.identity.superresolution.requires_grad_(True)
        self.context.cameras.requires_grad_(False)
        self._views.clear()
        if self.driver is not None:
            with torch.no_grad():
                self._features = self.driver.unet.encode(self.context.identity.planes)

    def modules(self) -> dict[str, nn.Module]:
        """Super-resolution alone."""
        return {"superresolution": self.context.identity.superresolution}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(
            self.context.identity.superresolution.parameters(), lr=self.config.rate, betas=(0.9, 0.99)
        )

    def rate(self, step: int) -> float:
        """A cosine to a tenth."""
        return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Absolute difference of pictures and of their edges; at rest, lips and lids hardly count."""
        context = self.context
        indices = in_turn(self._frames, self.config.batch, context.parts.turn(step), context.config.seed)
        self._seen = f"frames {', '.join(map(str, indices))}"
        target = context.targets(indices)
        if torch.rand((), generator=generator) < 0.5:
            target = over_color(target, uniform(generator, context.device, 3) * 2 - 1)
        image = self._picture(target)
        # where the frame does not count, the picture is compared with itself: edges of the two are no error either
        share = self._rest.weights(target.frames, target.regions) if self.driver is None else 1.0
        wanted = image.detach() + share * (target.image - image.detach())
        return {"l1": losses.l1(image, wanted), "edges": _EDGES * losses.edges(image, wanted)}

    def batch(self) -> str:
        """The frames."""
        return self._seen

    def stepped(self, step: int) -> None:
        """Nothing."""

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """PSNR of faces in held-out frames, in decibels; at rest without lips and lids."""
        scores: dict[str, list[Tensor]] = {"face PSNR": [], "mouth PSNR": [], "PSNR": []}
        for index in spread(self._held_out, _MEASURED):
            target = self.context.targets([index])
            image, still = self._picture(target), torch.ones_like(target.matte)
            if self.driver is None:
                still = 1 - target.regions[:, MOUTH : EYES + 1].amax(1, keepdim=True)
            for name, region in (("face PSNR", FACE), ("mouth PSNR", MOUTH)):
                scores[name].append(losses.psnr(image, target.image, still * target.regions[:, [region]]))
            scores["PSNR"].append(losses.psnr(image, target.image, torch.ones_like(still)))
        if self.driver is None:
            del scores["mouth PSNR"]
        return {name: torch.stack(values).nanmean().item() for name, values in scores.items()}

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Held-out frames, and renders."""
        targets = [self.context.targets([index]) for index in spread(self._held_out, _SHOWN)]
        rows = [[pixels(target.image[0]), pixels(self._picture(target)[0])] for target in targets]
        return {"superresolution": grid(rows)}

    def _picture(self, target: Target) -> Tensor:
        """Super-resolved views of frames over their plates."""
        view = View(*(torch.cat(part) for part in zip(*map(self._view, target.frames), strict=True)))
        return composite(self.context.identity.enlarge(view), view.weight, target.plate)

    def _view(self, index: int) -> View:
        """A frame's view, rendered when it is wanted first."""
        if index in self._views:
            self._views.move_to_end(index)
            return self._views[index]
        identity = self.context.identity
        with torch.no_grad():
            camera = self.context.cameras(moved([index], self.context.device))
            view = identity.render(self._planes(index), camera)
        self._views[index] = view
        if len(self._views) > self._room:
            self._views.popitem(last=False)
        return view

    def _planes(self, index: int) -> Tensor:
        planes = self.context.identity.planes
        if self.driver is None:
            return planes
        target = self.context.targets([index])
        return planes + self.driver(target.features, target.conditions, self._features)
