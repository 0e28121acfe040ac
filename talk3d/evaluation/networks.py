"""Metrics of trained networks, whose weights are local files; nothing is downloaded, and no pickle runs code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.evaluation.likeness import Likeness
from talk3d.networks import SyncNet, load_lpips, load_network

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
        self._network = load_lpips(weights).to(device)

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
        try:
            import torch_fidelity  # noqa: F401  # torchmetrics says it less plainly
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError:
            raise ImportError("FID needs the package torch-fidelity: pip install 'talk3d[fid]'") from None

        class Network(NoTrainInceptionV3):
            title = "FID's Inception"

            def __init__(self) -> None:
                # a file without weights, for the library would run what a file asks for
                empty = io.BytesIO()
                torch.save({}, empty)
                empty.seek(0)
                super().__init__("inception-v3-compat", [str(_FEATURES)], empty)  # type: ignore[arg-type]

            def load_state_dict(self, state: Mapping[str, Tensor], *args: Any, **options: Any) -> Any:
                return super().load_state_dict(state, *args, **options) if state else None

        self._network = load_network(Network, weights).to(device)

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
