"""What every test stands on: no GPU is needed, memory that nobody wrote is poison, and seeds are fixed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from talk3d.avatar import Avatar
from talk3d.models import ConditionEncoder, DeltaUNet, Driver, Identity, SceneConfig
from talk3d.ops import RenderOptions, registry

os.environ.setdefault("TALK3D_GOLDEN", str(Path(__file__).parent / "golden"))  # also where talk3d is not editable
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is imported, hence before anything else


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs Triton kernels on a GPU, where there is one: ``-m gpu`` is everything that runs on it."""
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if HAS_GPU and ("triton" in given or item.path.parts[-2:] == ("kernels", "test_volume.py")):
            item.add_marker("gpu")


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
def triton_takes_what_is_on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, move what tests give Triton's interpreter elsewhere there, and what is found back."""
    if HAS_GPU and request.node.get_closest_marker("gpu"):
        move_for_triton(monkeypatch, "cuda")


def move_for_triton(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Make every operator's Triton implementation take tensors of the CPU, and run on a device."""
    refused, load = registry._wrong_device, registry.Operator._load

    def loaded(self: registry.Operator, impl: str) -> Callable[..., Any]:
        function = load(self, impl)

        def moved(*args: Any) -> Any:
            if registry._device(args) != "cpu":
                return function(*args)
            found = function(*tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, args))
            return tree_map(Tensor.cpu, found)

        return moved if impl == "triton" else function

    monkeypatch.setattr(registry, "_wrong_device", lambda impl, args: None if impl == "triton" else refused(impl, args))
    monkeypatch.setattr(registry.Operator, "_load", loaded)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Make a test's random numbers its own."""
    torch.manual_seed(0)


@pytest.fixture
def make_avatar() -> Callable[..., Avatar]:
    """Make small avatars with random weights, whose drivers move them and whose pictures are 128 pixels wide."""

    def make(semantics: str | None = "published", *, axes: str = "zy", speech: int = 7) -> Avatar:
        rendering = RenderOptions(axes=axes, coarse=8, fine=8)
        config = SceneConfig(rendering=rendering, resolution=16, superresolution="2x", w_dim=8, plane_resolution=16)
        identity = Identity(config)
        identity.w.normal_()
        driver = None
        if semantics is not None:
            unet = DeltaUNet(axes=axes, semantics=semantics, resolution=16)
            driver = Driver(unet, ConditionEncoder(speech, semantics=semantics))
        avatar = Avatar(identity, driver, {"speech": {"name": "made up"}}).eval().requires_grad_(False)
        for name, tensor in avatar.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and not tensor.any():  # biases, and layers that start from nothing
                tensor.normal_(std=0.5)
        return avatar

    return make
