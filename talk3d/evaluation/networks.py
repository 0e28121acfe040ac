"""Metrics of trained networks, whose weights are local files; nothing is downloaded, and no pickle runs code."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.evaluation.likeness import Likeness
from talk3d.networks import SyncNet

__all__ = ["Fid", "Inception", "Lpips", "Networks"]

_FEATURES = 2048


class Lpips:
    """LPIPS (Zhang et al. 2018), version 0.1, on AlexNet.

    Args:
        weights: State dict of torchvision's AlexNet, of which the ``features`` are used; the linear heads come with
            the package.
        device: Where to compare.

    Raises:
        ImportError: If the package ``lpips`` is missing, with what to do.
        ValueError: If the file holds no such weights.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it names torchvision's options of years ago
                import lpips

                network: nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        except ImportError:
            raise ImportError("LPIPS needs the package lpips: pip install 'talk3d[perceptual]'") from None
        state = _read(weights, "torchvision's AlexNet")
        try:
            for name, parameter in network.named_parameters():
                # lpips cuts the trunk into slices, and keeps its numbers: net.slice2.3.weight
                if name.startswith("net."):
                    parameter.data.copy_(state[f"features.{name.split('.', 2)[2]}"])
        except (KeyError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"{weights} does not hold the weights of torchvision's AlexNet: {error}") from None
        self._network = network.eval().requires_grad_(False).to(device)

    def __call__(
        self, found: Float[Tensor, "batch 3 side side"], truth: Float[Tensor, "batch 3 side side"]
    ) -> Float[Tensor, " batch"]:
        """Compare pictures from -1 to 1."""
        with torch.inference_mode():
            return self._network(found, truth).flatten()


class Inception:
    """The features that FID compares.

    Args:
        weights: ``pt_inception-2015-12-05-6726825d.pth`` of torch-fidelity, or another file of this layout.
        device: Where to run.

    Raises:
        ImportError: If the package torch-fidelity is missing, with what to do.
        ValueError: If the file holds no such weights.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        _read(weights, "FID's Inception")  # before a library reads it that might trust it
        try:
            import torch_fidelity  # noqa: F401  # torchmetrics says it less plainly
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError:
            raise ImportError("FID needs the package torch-fidelity: pip install 'talk3d[fid]'") from None
        try:
            network = NoTrainInceptionV3("inception-v3-compat", [str(_FEATURES)], str(weights))
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{weights} does not hold the weights of FID's Inception: {error}") from None
        self._network = network.eval().to(device)

    def __call__(self, pictures: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch 2048"]:
        """Take pictures from 0 to 1 to features, on the CPU."""
        with torch.inference_mode():
            return self._network((pictures * 255).round().to(torch.uint8)).reshape(len(pictures), _FEATURES).cpu()


class Networks(NamedTuple):
    """The networks whose weights are there.

    Attributes:
        device: Where they are.
        lpips: Compares pictures.
        inception: Makes FID's features.
        syncnet: Compares lips with the sound.
        likeness: Compares faces.
    """

    device: torch.device
    lpips: Lpips | None = None
    inception: Inception | None = None
    syncnet: SyncNet | None = None
    likeness: Likeness | None = None


class Fid:
    """The Frechet distance of two sets of features; memory does not grow with their number."""

    def __init__(self) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        features = nn.Identity()
        features.num_features = _FEATURES  # type: ignore[assignment]  # how torchmetrics learns the width
        self._metric = FrechetInceptionDistance(feature=features)

    def add(self, found: Float[Tensor, "batch 2048"], truth: Float[Tensor, "batch 2048"]) -> None:
        """Add features of our pictures and of the true ones."""
        self._metric.update(found, real=False)
        self._metric.update(truth, real=True)

    def compute(self) -> float:
        """Compare.

        Raises:
            ValueError: If there are fewer than two pictures.
        """
        if int(self._metric.real_features_num_samples) < 2:
            raise ValueError("it needs two frames")
        return float(self._metric.compute())


def _read(weights: Path, what: str) -> dict[str, Any]:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{weights} does not hold the weights of {what}: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{weights} does not hold the weights of {what}: it is no dictionary")
    return state
