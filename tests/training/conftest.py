"""A tiny clip, and a tiny model of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from talk3d import cameras as cams
from talk3d.data.dataset import Sample
from talk3d.models import superresolution
from talk3d.models.identity import Identity
from talk3d.training import config as settings
from talk3d.training.cameras import CameraTrack
from talk3d.training.config import DriverStageConfig, FitConfig, ModelConfig, RunConfig, SuperResolutionStageConfig
from talk3d.training.stage import StageContext
from talk3d.training.targets import Targets

SIZE, FRAMES, FEATURES = 32, 24, 4


class Clip:
    """What training reads of a dataset, drawn: a disc whose lower half is darker the louder it is."""

    folder, size, fps = "clip", SIZE, 25.0
    meta = SimpleNamespace(
        camera=SimpleNamespace(focal=4.2647, pivot=(0.0, 0.0, 0.2), radius=2.7), source={"name": "clip"}
    )
    features_info = SimpleNamespace(name="logmel", width=FEATURES, mean=0.0, scale=1.0, model=None)

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.splits = {"train": range(16), "val": range(17, 20), "test": range(21, FRAMES)}
        self.valid = np.ones(FRAMES, bool)
        self.angles = random.normal(size=(FRAMES, 3)).astype(np.float32)
        yaw, pitch = (torch.from_numpy(self.angles[:, k]) for k in (1, 0))
        self.cameras = cams.pack(cams.look_at(yaw, pitch), cams.intrinsics(4.2647)).numpy()
        self.loud = random.random(FRAMES).astype(np.float32)
        self.blink = random.random((FRAMES, 2)).astype(np.float32)
        self.features = random.normal(size=(FRAMES, 16, FEATURES)).astype(np.float32) * 0.1 + self.loud[:, None, None]
        self.mesh = random.normal(size=(478, 3)).astype(np.float32) * 0.1
        self.landmarks = random.random((FRAMES, 478, 2)).astype(np.float32)
        self.points = random.normal(size=(FRAMES, 478, 3)).astype(np.float32)
        self.face_landmarks = random.random((FRAMES, 3, 2)).astype(np.float32)
        self.crops = np.tile(np.eye(2, 3), (FRAMES, 1, 1))
        self.plate = np.full((SIZE, SIZE, 3), 13, np.uint8)
        self.decoded = 0

    def __len__(self) -> int:
        return FRAMES

    def sample(self, indices: Any) -> Sample:
        index = torch.as_tensor(list(indices))
        self.decoded += len(index)
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
        disc = (x.square() + y.square() < 0.5).float()
        image = torch.stack([disc * (1.2 - float(self.loud[i]) * (y > 0).float()) - 0.9 for i in index])
        mouth, eyes = disc * (y > 0.3) * (x.abs() < 0.3), disc * (y < -0.2) * (y > -0.4)
        regions = torch.stack((disc, mouth, eyes, (y > 0.8).float()))
        count = len(index)
        return Sample(
            index=index,
            image=image[:, None].expand(-1, 3, -1, -1),
            matte=disc.expand(count, 1, -1, -1),
            regions=regions.expand(count, -1, -1, -1),
            plate=torch.full((count, 3, SIZE, SIZE), -0.9),
            camera=torch.from_numpy(self.cameras)[index],
            features=self.speech_windows(index.numpy()),
            blink=torch.from_numpy(self.blink)[index].mean(1),
            angles=torch.from_numpy(self.angles)[index],
            landmarks=torch.zeros(count, 3, 2),
            points=torch.zeros(count, 478, 3),
        )

    def speech_windows(self, chosen: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.features[chosen])[:, None].expand(-1, 8, -1, -1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def tiny_superresolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that makes 32 pixels of 8, in a millisecond."""
    monkeypatch.setitem(superresolution.VARIANTS, "tiny", superresolution._Shape(8, (8, 8), (2, 2)))
    monkeypatch.setattr(settings, "Variant", Literal["small", "8xdc", "tiny"])


@pytest.fixture
def clip() -> Clip:
    return Clip()


def tiny_config(**changes: Any) -> FitConfig:
    """Sizes at which a step takes a few hundredths of a second."""
    model = ModelConfig(
        plane_resolution=16, plane_channels=8, view=8, coarse=4, fine=4, superresolution="tiny", w_dim=4,
        unet_width=8, token=16,
    )  # fmt: skip
    driver = DriverStageConfig(steps=6, batch=2, rate=1e-3, ema=0.9, warmup=0)
    superresolution = SuperResolutionStageConfig(before=1, steps=3)
    run = RunConfig(save_every=2, log_every=1, device="cpu")
    return FitConfig(**{"model": model, "superresolution": superresolution, "driver": driver, "run": run} | changes)


@pytest.fixture
def make_config() -> Callable[..., FitConfig]:
    return tiny_config


def at_rest(identity: Identity) -> Identity:
    """A person at rest who is something dense and coloured."""
    torch.nn.init.normal_(identity.planes, generator=torch.Generator().manual_seed(1))
    torch.nn.init.constant_(identity.decoder.output.bias[:1], 5.0)
    return identity


@pytest.fixture
def make_context(clip: Clip) -> Callable[..., StageContext]:
    def make(chosen: FitConfig | None = None) -> StageContext:
        chosen = chosen or tiny_config()
        camera = clip.meta.camera
        torch.manual_seed(chosen.seed)
        scene = chosen.model.scene(focal=camera.focal, radius=camera.radius, pivot=camera.pivot)
        targets = Targets(clip, picture=SIZE, view=8)
        return StageContext(chosen, targets, at_rest(Identity(scene)), CameraTrack(torch.from_numpy(clip.cameras)))

    return make
