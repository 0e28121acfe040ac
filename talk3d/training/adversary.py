"""The adversarial loss: a dual discriminator that tells crops of renders from crops of frames."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from talk3d import cameras as cams
from talk3d.models.discriminator import DualDiscriminator
from talk3d.training.config import FitConfig
from talk3d.training.config_prior import AdversaryConfig
from talk3d.training.lean import at_once
from talk3d.training.pairs import Pair
from talk3d.weights.discriminator import read_discriminator

__all__ = ["Adversary", "Crops", "crop_cameras", "make_adversary", "penalty"]

_CHANNELS = 512  # at most, as published
# the gradients of all networks are shortened together: Adam does not mind the size of its loss, the others do
_SCALE = 0.01


class Crops(NamedTuple):
    """What is judged.

    Attributes:
        image: Crops of pictures ``[B, 3, S, S]``.
        raw: The same of the renders that they were made from ``[B, 3, s, s]``.
    """

    image: Float[Tensor, "batch 3 side side"]
    raw: Float[Tensor, "batch 3 rows columns"]


def crop_cameras(
    cameras: Float[Tensor, "batch 25"], place: tuple[int, int, int], size: int
) -> Float[Tensor, "batch 25"]:
    """Cameras whose whole picture is a crop: top, left and side in pixels of a picture of so many."""
    top, left, side = place
    poses, matrices = cams.unpack(cameras)
    rows = []
    for row, start in zip(matrices[..., :2, :].unbind(-2), (left, top), strict=True):
        rows.append(size / side * torch.cat((row[..., :2], row[..., 2:] - start / size), -1))
    return cams.pack(poses, torch.stack((*rows, matrices[..., 2, :]), -2))


def penalty(network: nn.Module, crops: Crops, cameras: Float[Tensor, "batch 25"]) -> Tensor:
    """Squared slope of a discriminator at crops of frames, sum over pixels of both, mean over crops (R1)."""
    image, raw = (part.detach().requires_grad_() for part in crops)
    with torch.enable_grad():
        logits = network(image, raw, cameras)
        slopes = torch.autograd.grad(logits.sum(), (image, raw), create_graph=True)
    return torch.stack([slope.square().sum((1, 2, 3)) for slope in slopes]).sum(0).mean()


def make_adversary(config: FitConfig, size: int) -> Adversary | None:
    """The adversary of a configuration, or None if its loss is off.

    Raises:
        ValueError: If its file is none, or there is no generator that goes with it.
    """
    wanted = config.driver.adversary
    if not wanted.weight:
        return None
    if wanted.checkpoint is not None and config.prior.generator is None:
        raise ValueError(
            f"{wanted.checkpoint} is a discriminator without a generator: it was trained against the one of its "
            "snapshot; pass --generator too, or leave driver.adversary.checkpoint out"
        )
    if wanted.crop > size:
        raise ValueError(f"driver.adversary.crop is {wanted.crop}, and a step makes pictures of {size} pixels")
    batch = config.driver.batch
    group = next(count for count in (4, 2, 1) if batch % count == 0)
    if wanted.checkpoint is None:
        network = DualDiscriminator(wanted.crop, channel_base=wanted.channels, channel_max=_CHANNELS, group=group)
    else:
        network = read_discriminator(wanted.checkpoint, group=group)
        if network.resolution != wanted.crop:
            raise ValueError(
                f"{wanted.checkpoint} judges pictures of {network.resolution} pixels, and driver.adversary.crop is "
                f"{wanted.crop}"
            )
    return Adversary(wanted, network)


class Adversary(nn.Module):
    """A discriminator that learns beside what it judges, in the same steps.

    The loss of what is judged does not move it, and its own loss moves nothing else; so one optimiser does for both,
    and is saved and resumed as for any other network.

    Args:
        config: How much it counts, and when.
        network: The discriminator.
    """

    def __init__(self, config: AdversaryConfig, network: DualDiscriminator) -> None:
        super().__init__()
        self.config, self.network = config, network

    def group(self) -> dict[str, Any]:
        """Its parameters, and their learning rate."""
        return {"params": list(self.network.parameters()), "lr": self.config.rate, "betas": (0.0, 0.99)}

    def losses(
        self, found: Crops, real: Crops, cameras: Float[Tensor, "batch 25"], step: int, weight: float
    ) -> dict[str, Tensor]:
        """What it says of renders, and what it learns (non-saturating, Goodfellow et al. 2014).

        Args:
            found: Crops of renders.
            real: Of frames, at the same places.
            cameras: Of the crops.
            step: From 0 on; in every n-th its slope is penalised.
            weight: Of what it says.
        """
        cameras, real = cameras.detach().float(), Crops(*(part.detach().float() for part in real))
        found = Crops(*(part.float() for part in found))
        with torch.autocast(found.image.device.type, enabled=False):
            frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
            says = at_once(partial(self._says, frozen, cameras), *found)
            fake = self.network(*(part.detach() for part in found), cameras)
            learns = softplus(fake).mean() + softplus(-self.network(*real, cameras)).mean()
            terms = {"adversary": weight * says, "discriminator": _SCALE * learns}
            if step % self.config.every == 0:
                slope = self.config.every * self.config.gamma / 2 * penalty(self.network, real, cameras)
                terms["slope"] = _SCALE * slope
        return terms

    def _says(self, frozen: dict[str, Tensor], cameras: Tensor, image: Tensor, raw: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, frozen, (image, raw, cameras))
        return softplus(-logits).mean()

    def forward(
        self,
        pairs: list[Pair],
        cameras: Float[Tensor, "batch 25"],
        step: int,
        weight: float,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses of a step, of crops somewhere in what was rendered.

        Args:
            pairs: The view, and the picture if there is one.
            cameras: Of the whole frames.
            step: From 0 on.
            weight: Of what it says.
            generator: Says where.

        Raises:
            ValueError: If what was rendered is smaller than a crop.
        """
        raw, large = pairs[0], pairs[-1]
        side, size = self.config.crop, large.found.shape[3]
        if size < side:
            raise ValueError(f"driver.adversary.crop is {side}, and a step makes pictures of {size} pixels")
        times = large.whole // raw.whole
        row, column = (times * torch.randint((size - side) // times + 1, (2,), generator=generator)).tolist()
        top, left = large.corner[0] + row, large.corner[1] + column
        cut = (..., slice(row, row + side), slice(column, column + side))
        begin, count = (top // times - raw.corner[0], left // times - raw.corner[1]), max(side // times, 1)
        small = (..., slice(begin[0], begin[0] + count), slice(begin[1], begin[1] + count))
        found, real = Crops(large.found[cut], raw.found[small]), Crops(large.target[cut], raw.target[small])
        return self.losses(found, real, crop_cameras(cameras, (top, left, side), large.whole), step, weight)
