"""Tuning: the generator itself learns what no code of it shows of the person, and stays what it was elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from talk3d.models.generator import TriPlaneGenerator
from talk3d.training import losses
from talk3d.training.inversion import InversionStage

__all__ = ["TuningStage", "change"]

_FINAL_RATE = 0.1
_OTHERS = 2  # codes in each step that must look as they did
_TRUNCATION = (0.5, 1.0)  # share of the way from the mean at which they are drawn, as published, and at most
_NEAR = 0.5  # of a half of them: how far from the person at most, as a share of the way to a drawn code
_MEASURED = 4  # other codes of a figure


class TuningStage:
    """Tunes all of a generator but its super-resolution; see :class:`talk3d.training.stage.Stage`.

    Codes, offsets and cameras are what the inversion found. After PTI (Roich et al. 2022): renders of other codes, some
    near the person's and some anywhere, are compared with those of the generator as it was (the locality regulariser).

    Args:
        inversion: The stage before.
    """

    name = "tuning"
    parted = False

    def __init__(self, inversion: InversionStage) -> None:
        self.inversion, self.prior, self.context = inversion, inversion.prior, inversion.context
        self.config = inversion.config
        self.steps = self.config.tuning

    def begin(self) -> None:
        """Free the generator, and freeze its super-resolution, its mapping network and the person."""
        self.context.identity.requires_grad_(False)
        self.context.cameras.requires_grad_(False)
        self.prior.person.requires_grad_(False)
        self.prior.generator.requires_grad_(False)
        for network in (self.prior.generator.backbone, self.prior.generator.decoder):
            network.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        """The generator."""
        return {"generator": self.prior.generator}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        parameters = [parameter for parameter in self.prior.generator.parameters() if parameter.requires_grad]
        return torch.optim.Adam(parameters, lr=self.config.tuning_rate)

    def rate(self, step: int) -> float:
        """A cosine to a tenth."""
        return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The frames against what was filmed, and other codes against what they were."""
        terms = self.inversion.compare(*self.inversion.render(shared=False), generator, large=True)
        if self.config.locality:
            terms["locality"] = self.config.locality * self._locality(generator)
        return terms

    def batch(self) -> str:
        """The frames."""
        return self.inversion.batch()

    def stepped(self, step: int) -> None:
        """Nothing."""

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """PSNR of the frames, and by how many percent renders of other codes have changed."""
        prior, draws = self.prior, torch.Generator().manual_seed(1)
        z = torch.randn(_MEASURED, prior.generator.config.z_dim, generator=draws).to(self.context.device)
        ws = prior.original.latents(z, psi=_TRUNCATION[1])
        return self.inversion.measure() | {"change %": 100 * change(prior.original, prior.generator, ws)}

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Frames, and what the generator makes of their codes."""
        return self.inversion.preview()

    def _locality(self, generator: torch.Generator) -> Tensor:
        """How much renders of other codes have changed: mean square of differences, by that of the renders."""
        prior, person = self.prior, self.prior.person
        z = torch.randn(_OTHERS, prior.generator.config.z_dim, generator=generator).to(person.w)
        psi = torch.rand(_OTHERS, 1, generator=generator).to(person.w)
        codes = prior.original.latents(z)[:, 0]
        mean = prior.original.mapping.w_avg
        if mean is not None:
            low, high = _TRUNCATION
            codes = mean + (low + (high - low) * psi) * (codes - mean)
        # the half that is near the person, where a change shows first
        near = person.w + _NEAR * psi * (codes - person.w)
        codes = torch.where(torch.arange(_OTHERS, device=codes.device)[:, None] < _OTHERS // 2, near, codes)
        ws = codes[:, None].expand(-1, prior.generator.backbone.num_ws, -1)
        camera = self.context.cameras(torch.tensor(prior.frames[:1], device=codes.device)).detach().expand(_OTHERS, -1)
        with torch.no_grad():
            before = prior.original.render(prior.original.planes(ws), camera).features
        after = prior.generator.render(prior.generator.planes(ws), camera).features
        prior.count(self.name, _OTHERS)
        return (after - before).square().mean() / before.square().mean() + losses.l1(after, before)


@torch.no_grad()
def change(before: TriPlaneGenerator, after: TriPlaneGenerator, ws: Tensor) -> float:
    """Root mean square of the change of renders from the front, over that of the renders; 0 if nothing changed.

    Args:
        before: The generator as it was.
        after: The generator as it is.
        ws: Latents ``[B, layer, w_dim]``.
    """
    camera = before.config.camera().to(ws).expand(len(ws), -1)
    old, new = (one.render(one.planes(ws), camera).features[:, :3] for one in (before, after))
    return ((new - old).square().mean() / old.square().mean()).sqrt().item()
