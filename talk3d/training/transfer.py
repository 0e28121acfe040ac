"""Numbers of the host, sent to where a stage computes; nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["moved"]


def moved(values: Tensor | Sequence[int] | Sequence[float], device: torch.device) -> Tensor:
    """Send numbers to a device.

    ``torch.tensor(values, device=device)``, ``new_tensor`` and a list as an index copy out of memory that the system
    may move, and wait until all that was asked of the GPU before is done. What is copied out of pinned memory is not
    waited for; PyTorch keeps that memory until the copy was made.

    Args:
        values: On the host; a list of whole numbers becomes int64.
        device: Where they are wanted.
    """
    host = values if isinstance(values, Tensor) else torch.tensor(values)
    if device.type == "cuda" and host.device.type == "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
