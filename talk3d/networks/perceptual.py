"""What people see of a difference: LPIPS (Zhang et al. 2018), version 0.1, on AlexNet."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import nn

from talk3d.networks.reading import read_state

__all__ = ["load_lpips"]


def load_lpips(weights: Path) -> nn.Module:
    """Load LPIPS on the CPU, frozen, for inference: pictures ``[B, 3, H, W]`` from -1 to 1 to ``[B, 1, 1, 1]``.

    Args:
        weights: State dict of torchvision's AlexNet, of which the ``features`` are used; the linear heads come with
            the package.

    Raises:
        ImportError: If the package ``lpips`` is missing, with what to do.
        UnreadableCheckpoint: If the file holds no such weights. A ``ValueError``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names torchvision's options of years ago
            import lpips

            network: nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    except ImportError:
        raise ImportError("LPIPS needs the package lpips: pip install 'talk3d[perceptual]'") from None
    # lpips cuts the trunk into slices, and keeps its numbers: net.slice2.3.weight
    trunk = {
        f"features.{name.split('.', 2)[2]}": parameter
        for name, parameter in network.named_parameters()
        if name.startswith("net.")
    }
    for name, value in read_state(weights, "torchvision's AlexNet", trunk, spare="classifier.").items():
        trunk[name].data.copy_(value)
    return network.eval().requires_grad_(False)
