"""Tuning: the generator itself learns what no code of it shows of the person, and stays what it was elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from talk3d.training import losses
from talk3d.training.inversion import InversionStage
from talk3d.training.precision import full_precision
from talk3d.training.prior import Prior, draw_codes
from talk3d.training.stage import uniform
from talk3d.training.transfer import moved

__all__ = ["TuningStage", "change"]

_CODES = 4096  # of which the one that is the most like the person says how far a change is felt
_REACH = 0.5  # as a share of the way to that one
_PLANES_RATE = 0.1  # of the styles': planes alone learn frames by heart, and not the person
_WARM, _FINAL_RATE = 10, 0.1  # steps in which the rate grows; what is left of it in the end
_OTHERS = 2  # codes in each step that must look as they did
_NEAR = (0.25, 0.5)  # how far from the person they are, as a share of the way to a drawn code
_MEASURED = 4  # other codes of a figure


class _Gate(nn.Module):
    """How much a code feels of a change: the person's all, and none beyond some distance from it.

    Distances are in standard deviations along the principal axes of codes.
    """

    code: Tensor
    whiten: Tensor
    reach: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # what a checkpoint need not hold: it is made of the person's code
        self.register_buffer("code", torch.zeros(width), persistent=False)
        self.register_buffer("whiten", torch.zeros(width, width), persistent=False)
        self.register_buffer("reach", torch.ones(()), persistent=False)

    @torch.no_grad()
    def set(self, prior: Prior) -> None:
        """Put the person in the middle."""
        axes = prior.person.axes
        self.code.copy_(prior.person.w)
        self.whiten.copy_(axes / axes.square().sum(0))
        self.reach.copy_(_REACH * self._far(draw_codes(prior.original, _CODES, seed=2)).min())

    def forward(self, codes: Tensor) -> Tensor:
        x = (1 - (self._far(codes) / self.reach).square()).clamp(min=0)
        return x.square() * (3 - 2 * x)  # smooth at both ends

    def _far(self, codes: Tensor) -> Tensor:
        return _length(codes - self.code, self.whiten)


@full_precision
def _length(apart: Tensor, whiten: Tensor) -> Tensor:
    """In standard deviations ``[B]``: where a change ends must not depend on how a product was rounded."""
    return (apart @ whiten).norm(dim=1)


class _Edit(nn.Module):
    """What is added to the styles that an affine layer makes of a code."""

    def __init__(self, styles: int, gate: _Gate) -> None:
        super().__init__()
        self.style = nn.Parameter(torch.zeros(styles))
        self._gate = [gate]  # not a part of this one

    def forward(self, layer: nn.Module, given: tuple[Tensor], styles: Tensor) -> Tensor:
        return styles + self._gate[0](given[0])[:, None] * self.style


class _Residual(nn.Module):
    """What is added to the planes of a code."""

    def __init__(self, planes: torch.Size, gate: _Gate) -> None:
        super().__init__()
        self.planes = nn.Parameter(torch.zeros(planes))
        self._gate = [gate]

    def forward(self, codes: Tensor) -> Tensor:
        return self._gate[0](codes)[:, None, None, None, None] * self.planes


class TuningStage:
    """Tunes what a generator makes of the person's code; see :class:`talk3d.training.stage.Stage`.

    Something is added to the styles of each layer, of super-resolution too, and a little to the planes. Codes
    feel it by how near they are to the person's: this one all of it, and one that is half as far as the nearest of
    thousands that were drawn nothing at all, so that a code that is drawn keeps its looks to the last bit. Where it
    fades, renders of codes are held to what they were by the locality regulariser of PTI (Roich et al. 2022).
    All weights stay.

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
        self.gate = _Gate(len(self.prior.person.w)).to(self.context.device)
        generator = self.prior.generator
        for layer in (*generator.backbone.modules(), *generator.superresolution.modules()):
            affine = getattr(layer, "affine", None)
            if isinstance(affine, nn.Module):
                edit = _Edit(len(affine.get_parameter("weight")), self.gate).to(self.context.device)
                affine.register_forward_hook(edit)
                self.edits.append(edit)
        with torch.no_grad():
            made = self.prior.planes(self.prior.person.w[None])
        self._scale = made.std().item()
        self.residual = _Residual(made.shape[1:], self.gate).to(self.context.device)
        self.prior.residual = self.residual

    def begin(self) -> None:
        """Free the changes, which are made for the code that was found, and freeze all else."""
        self.context.identity.requires_grad_(False)
        self.context.cameras.requires_grad_(False)
        self.prior.person.requires_grad_(False)
        self.prior.generator.requires_grad_(False)
        self.gate.set(self.prior)
        for change_of in (self.edits, self.residual):
            change_of.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        """The changes."""
        return {"edits": self.edits, "residual": self.residual}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        rate = self.config.tuning_rate
        groups = [
            {"params": list(self.edits.parameters()), "lr": rate},
            {"params": list(self.residual.parameters()), "lr": _PLANES_RATE * rate * self._scale},
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
        """PSNR of the frames, and by how many percent renders of other codes, and of near ones, have changed."""
        prior, draws = self.prior, torch.Generator().manual_seed(1)
        z = torch.randn(_MEASURED, prior.generator.config.z_dim, generator=draws).to(self.context.device)
        ws = prior.original.latents(z)
        near = torch.lerp(prior.person.w, ws, _NEAR[0])
        changes = {"change %": 100 * change(prior, ws), "near change %": 100 * change(prior, near)}
        return self.inversion.measure() | changes

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """Frames, and what the generator makes of their codes."""
        return self.inversion.preview()

    def _locality(self, generator: torch.Generator) -> Tensor:
        """How much renders of codes near the person have changed: differences, and mean square by that of renders."""
        prior, person = self.prior, self.prior.person
        z = moved(torch.randn(_OTHERS, prior.generator.config.z_dim, generator=generator), self.context.device)
        low, high = _NEAR
        share = low + (high - low) * uniform(generator, self.context.device, _OTHERS, 1)
        codes = torch.lerp(person.w, prior.original.latents(z, prior.front.expand(_OTHERS, -1))[:, 0], share)
        ws = codes[:, None].expand(-1, prior.generator.backbone.num_ws, -1)
        camera = self.context.cameras(prior.index[:1]).detach().expand(_OTHERS, -1)
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
