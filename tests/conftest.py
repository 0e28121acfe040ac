"""What every test stands on: no GPU is needed, memory that nobody wrote is poison, and seeds are fixed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TALK3D_GOLDEN", str(Path(__file__).parent / "golden"))  # also where talk3d is not editable
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is imported, hence before anything else


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not HAS_GPU:
        pytest.skip("needs an NVIDIA GPU, and torch finds none")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN (integers: their maximum), also what C++ allocates, so that gaps do not go unseen."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # what fill_uninitialized_memory, on by default, waits for
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Make a test's random numbers its own."""
    torch.manual_seed(0)
