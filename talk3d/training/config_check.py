"""Which numbers settings may have: found out before a run begins, not an hour later."""

from __future__ import annotations

import math
from dataclasses import asdict

from talk3d.training.config import FitConfig
from talk3d.training.config_file import leaves

__all__ = ["check"]

_LARGEST = 2**31 - 1
_AT_LEAST_ONE = {"parts", "superresolution.batch", "identity.levels", "run.save_every", "run.keep", "run.log_every"}
_AT_MOST = {"model.plane_resolution": 2048, "model.plane_channels": 1024, "model.view": 1024, "model.w_dim": 4096}
_AT_MOST |= {"model.unet_width": 1024, "model.token": 4096, "identity.levels": 16, "seed": 2**63 - 1}


def check(config: FitConfig) -> None:
    """Raise unless every number is finite, not negative, and of a size that a machine may hold.

    Raises:
        ValueError: Naming the setting.
    """
    for name, value in leaves(asdict(config)).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
        least = 1 if name in _AT_LEAST_ONE or (name.startswith("model.") and name != "model.fine") else 0
        most = _AT_MOST.get(name, _LARGEST)
        if isinstance(value, int) and not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}")
