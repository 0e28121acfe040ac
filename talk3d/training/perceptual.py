"""The perceptual loss: LPIPS with local weights, or structural similarity and edges."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from talk3d.networks import load_lpips
from talk3d.training import losses
from talk3d.training.lean import at_once, halved

__all__ = ["Perceptual"]


class Perceptual(nn.Module):
    """Compares pictures as people do.

    LPIPS (Zhang et al. 2018) with the trunk AlexNet, if its weights are given; nothing is downloaded. Otherwise
    1 - MS-SSIM and half the difference of edges, on pictures of at most 128 pixels: finer scales hardly count for
    structural similarity, and cost most.

    Args:
        weights: State dict of torchvision's AlexNet, of which the ``features`` are used; None for no LPIPS.

    Attributes:
        note: What is used, in a sentence.

    Raises:
        ImportError: If the package ``lpips`` is missing, with what to do.
        ValueError: If the file holds no such weights.
    """

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.lpips: nn.Module | None = None if weights is None else load_lpips(weights)
        self.note = (
            "The perceptual loss is MS-SSIM and edges: LPIPS needs the weights of AlexNet, and run.lpips names none."
            if weights is None
            else f"The perceptual loss is LPIPS, with the weights of {weights}."
        )

    def forward(
        self, found: Float[Tensor, "batch 3 height width"], target: Float[Tensor, "batch 3 height width"]
    ) -> Tensor:
        """Mean over the frames; gradients flow to what was found."""
        target, compare = target.detach(), self._learned
        if self.lpips is None:
            compare = _structure
            while found.shape[-1] > 128:
                found, target = halved(found), halved(target)
        return at_once(lambda x: compare(x, target), found)

    def _learned(self, found: Tensor, target: Tensor) -> Tensor:
        assert self.lpips is not None
        distance: Tensor = self.lpips(found, target)
        return distance.mean()


def _structure(found: Tensor, target: Tensor) -> Tensor:
    return losses.ms_ssim(found, target) + 0.5 * losses.edges(found, target)
