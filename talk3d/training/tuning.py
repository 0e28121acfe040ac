"""Tuning: the generator itself learns what no code of it shows of the person, and stays what it was elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from talk3d.training import losses
from talk3d.training.inversion import InversionStage
from talk3d.training.prior import Prior, draw_codes

__all__ = ["TuningStage", "change"]

_CODES, _RIDGE = 4096, 0.01  # codes of which second moments are taken, and how much is added to their diagonal
_WARM, _FINAL_RATE = 10, 0.1  # steps in which the rate grows; what is left of it in the end
_OTHERS = 2  # codes in each step that must look as they did
_TRUNCATION = (0.5, 1.0)  # share of the way from the mean at which they are drawn, as published, and at most
_NEAR = 0.5  # of a half of them: how far from the person at most, as a share of the way to a drawn code
_MEASURED = 4  # other codes of a figure


class _Edit(nn.Module):
    """A change of rank one of an affine layer, that the person's code feels and others hardly: style by key."""

    key: Tensor

    def __init__(self, styles: int, width: int) -> None:
        super().__init__()
        self.style = nn.Parameter(torch.zeros(styles))
        # what a checkpoint need not hold: it is made of the person's code
        self.register_buffer("key", torch.zeros(width), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.style[:, None] * self.key


class _Residual(nn.Module):
    """What is added to the planes of a code: as much as the code is the person's."""

    key: Tensor

    def __init__(self, planes: torch.Size, width: int) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.zeros(planes))
        self.register_buffer("key", torch.zeros(width), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        share = codes @ self.key / len(self.key) ** 0.5
        return share[:, None, None, None, None] * self.planes


class TuningStage:
    """Tunes how a generator's backbone reads the person's code; see :class:`talk3d.training.stage.Stage`.

    Each affine layer, which turns a code into styles, gets a change of rank one: the styles of the person's code move
    freely, those of other codes by as much as they are like it. "Like" is measured by the second moments of codes, so
    that the mean square of what others feel is the least that there can be (as Bau et al. 2020 rewrite a generator).
    Styles are few; what they cannot show is added to the planes, by the same measure. Where it still shows, renders of
    other codes are held to what they were, by the locality regulariser of PTI (Roich et al. 2022). Convolutions,
    decoder and super-resolution stay.

    Args:
        inversion: The stage before.
    """

    name = "tuning"
    parted = False

    def __init__(self, inversion: InversionStage) -> None:
        self.inversion, self.prior, self.context = inversion, inversion.prior, inversion.context
        self.config = inversion.config
        self.steps = self.config.tuning
        self.edits = nn.ModuleList()
        for layer in self.prior.generator.backbone.modules():
            affine = getattr(layer, "affine", None)
            if isinstance(affine, nn.Module):
                styles, width = affine.get_parameter("weight").shape
                edit = _Edit(styles, width).to(self.context.device)
                register_parametrization(affine, "weight", edit)
                self.edits.append(edit)
        with torch.no_grad():
            made = self.prior.planes(self.prior.person.w[None])
        self._scale = made.std().item()
        self.residual = _Residual(made.shape[1:], len(self.prior.person.w)).to(self.context.device)
        self.prior.residual = self.residual

    def begin(self) -> None:
        """Free the changes, which are made for the code that was found, and freeze all else."""
        self.context.identity.requires_grad_(False)
        self.context.cameras.requires_grad_(False)
        self.prior.person.requires_grad_(False)
        self.prior.generator.requires_grad_(False)
        key = self._key()
        for change_of in (*self.edits, self.residual):
            change_of.requires_grad_(True)
            change_of.get_buffer("key").copy_(key)

    def modules(self) -> dict[str, nn.Module]:
        """The changes."""
        return {"edits": self.edits, "residual": self.residual}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        rate = self.config.tuning_rate
        groups = [
            {"params": list(self.edits.parameters()), "lr": rate},
            {"params": list(self.residual.parameters()), "lr": rate * self._scale},
        ]
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Warm-up, and a cosine to a tenth."""
        return min(1.0, (step + 1) / _WARM) * (
            _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2
        )

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
        return self.inversion.measure() | {"change %": 100 * change(prior, ws)}

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Frames, and what the generator makes of their codes."""
        return self.inversion.preview()

    @torch.no_grad()
    def _key(self) -> Tensor:
        """What is 1 style for the person's code, and little for others; never more for these, by root mean square."""
        person, generator = self.prior.person.w.double(), self.prior.original
        codes = draw_codes(generator, _CODES, seed=2).double()
        moments = codes.mT @ codes / len(codes)
        moments += _RIDGE * moments.diagonal().mean() * torch.eye(len(moments), device=moments.device)
        key = torch.linalg.solve(moments, person)
        # a code near 0, which the mean that trial steps start from may be, is felt by others more than by itself, and 0
        # by nobody: only as far as others feel no more than 1 is it brought to 1
        felt = (key @ person).clamp(min=1)
        # layers scale their weights by the root of the width
        return (key / felt * len(person) ** 0.5).to(self.prior.person.w)

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
        after = prior.generator.render(prior.planes(codes), camera).features
        prior.count(self.name, _OTHERS)
        return (after - before).square().mean() / before.square().mean() + losses.l1(after, before)


@torch.no_grad()
def change(prior: Prior, ws: Tensor) -> float:
    """Root mean square of the change of renders from the front, over that of the renders; 0 if nothing changed.

    Args:
        prior: The generator as it was, and as it is.
        ws: Latents ``[B, layer, w_dim]``, the same for each layer.
    """
    camera = prior.original.config.camera().to(ws).expand(len(ws), -1)
    old = prior.original.render(prior.original.planes(ws), camera).features[:, :3]
    new = prior.generator.render(prior.planes(ws[:, 0]), camera).features[:, :3]
    return ((new - old).square().mean() / old.square().mean()).sqrt().item()
