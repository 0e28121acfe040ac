"""A clip that a small generator made, from codes and cameras that a test hides: the one of the golden vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talk3d import cameras as cams
from talk3d.data.dataset import Sample
from talk3d.models import GeneratorConfig, TriPlaneGenerator
from talk3d.models.identity import Identity
from talk3d.ops import RenderOptions
from talk3d.testing import golden
from talk3d.training.cameras import CameraTrack
from talk3d.training.config import FitConfig
from talk3d.training.prior import FilledTargets, Prior
from talk3d.training.stage import StageContext

CONFIG = GeneratorConfig(
    rendering=RenderOptions(axes="original", coarse=12, fine=12, coupled="published"),
    resolution=32,
    superresolution="2x",
    superresolution_clamp=None,
    z_dim=128,
    channel_base=2048,
    channel_max=16,
)


def _published(key: str) -> str:
    for ours, theirs in (
        (r"^backbone\.blocks\.", "backbone.synthesis.b"),
        (r"^mapping\.", "backbone.mapping."),
        (r"\blayers\.(\d+)", r"fc\1"),
        (r"\bto_rgb\b", "torgb"),
        (r"^decoder\.hidden", "decoder.net.0"),
        (r"^decoder\.output", "decoder.net.2"),
    ):
        key = re.sub(ours, theirs, key)
    return key


@cache
def _weights() -> dict[str, Tensor]:
    return golden("eg3d/g1_small_generator_weights")


def small_generator() -> TriPlaneGenerator:
    """Golden g1's."""
    generator = TriPlaneGenerator(CONFIG)
    generator.load_state_dict({key: _weights()[_published(key)] for key in generator.state_dict()})
    return generator.eval().requires_grad_(False)


class Generated:
    """What training reads of a dataset. Its cameras are tracked: off by up to so many degrees.

    Args:
        generator: Whose pictures they are.
        frames: How many.
        error: Of yaw and of pitch.
        offset: Of each frame's code from the person's, standard deviation.
        seed: Of everything.
    """

    folder, size, fps = "generated", 128, 25.0
    features_info = SimpleNamespace(name="logmel", width=4, mean=0.0, scale=1.0, model=None)

    def __init__(
        self, generator: TriPlaneGenerator, frames: int = 4, *, error: float = 3.0, offset: float = 0.02, seed: int = 0
    ) -> None:
        config, draws = generator.config, torch.Generator().manual_seed(seed)
        self.generator = generator
        self.meta = SimpleNamespace(
            camera=SimpleNamespace(focal=config.focal, pivot=config.pivot, radius=config.radius),
            source={"name": "generated"},
        )
        code = generator.latents(torch.randn(1, config.z_dim, generator=draws), psi=0.7)[0, 0]
        self.codes = code + offset * torch.randn(frames, config.w_dim, generator=draws)
        self.yaw, self.pitch = ((2 * torch.rand(frames, generator=draws) - 1) * reach for reach in (10.0, 5.0))
        self.truth = self._cameras(config, self.yaw, self.pitch)
        # never by less than half of it, so that nobody is right by chance
        signs = torch.where(torch.rand(2, frames, generator=draws) < 0.5, -1.0, 1.0)
        off = signs * error * (0.5 + 0.5 * torch.rand(2, frames, generator=draws))
        self.cameras = self._cameras(config, self.yaw + off[0], self.pitch + off[1]).numpy()
        with torch.no_grad():
            ws = self.codes[:, None].expand(-1, generator.backbone.num_ws, -1)
            made = [generator(ws[[k]], self.truth[[k]]) for k in range(frames)]
        self.image = torch.cat([one.image for one in made]).clamp(-1, 1)
        self.raw = torch.cat([one.view.features[:, :3] for one in made])
        random = np.random.default_rng(seed)
        self.valid = np.ones(frames, bool)
        self.splits = {"train": range(frames), "val": range(frames), "test": range(frames)}
        self.angles = torch.stack((self.pitch, self.yaw, 0 * self.yaw), 1).numpy()
        self.landmarks = random.random((frames, 478, 2)).astype(np.float32)
        self.mesh = random.normal(size=(478, 3)).astype(np.float32) * 0.1
        self.blink = np.zeros((frames, 2), np.float32)
        self.features = random.normal(size=(frames, 16, 4)).astype(np.float32)
        self.points = np.zeros((frames, 478, 3), np.float32)
        self.face_landmarks = np.zeros((frames, 3, 2), np.float32)
        self.crops = np.tile(np.eye(2, 3), (frames, 1, 1))
        self.plate = np.full((self.size, self.size, 3), 13, np.uint8)

    @staticmethod
    def _cameras(config: GeneratorConfig, yaw: Tensor, pitch: Tensor) -> Tensor:
        poses = cams.look_at(yaw, pitch, radius=config.radius, pivot=config.pivot)
        return cams.pack(poses, cams.intrinsics(config.focal))

    def __len__(self) -> int:
        return len(self.image)

    def sample(self, indices: Any) -> Sample:
        index = torch.as_tensor(list(indices))
        count, side = len(index), self.size
        disc = torch.zeros(side, side)
        disc[32:96, 32:96] = 1
        regions = torch.stack((disc, 0 * disc, 0 * disc, 0 * disc))
        return Sample(
            index=index,
            image=self.image[index],
            matte=disc.expand(count, 1, -1, -1),
            regions=regions.expand(count, -1, -1, -1),
            plate=torch.full((count, 3, side, side), -0.9),
            camera=torch.from_numpy(self.cameras)[index],
            features=self.speech_windows(index.numpy()),
            blink=torch.zeros(count),
            angles=torch.from_numpy(self.angles)[index],
            landmarks=torch.zeros(count, 3, 2),
            points=torch.zeros(count, 478, 3),
        )

    def speech_windows(self, chosen: np.ndarray) -> Tensor:
        return torch.from_numpy(self.features[chosen])[:, None].expand(-1, 8, -1, -1)


class RawTargets(FilledTargets):
    """Renders are compared with what the generator rendered: a small picture is more than a reduced large one."""

    def __call__(self, indices: Any) -> Any:
        found = super().__call__(indices)
        return found._replace(view_image=self.dataset.raw[list(indices)])


def generated_context(clip: Generated, config: FitConfig) -> tuple[StageContext, Prior]:
    """A context for this clip, and a prior that is its generator."""
    generator = small_generator()
    targets = RawTargets(clip, picture=128, view=32)
    identity = Identity(generator.config.scene())
    track = CameraTrack(torch.from_numpy(clip.cameras))
    return StageContext(config, targets, identity, track), Prior(generator, targets, config.prior.frames)


def with_prior(make_config: Callable[..., FitConfig], **changes: Any) -> FitConfig:
    """A tiny configuration with a prior."""
    config = make_config()
    return replace(config, prior=replace(config.prior, **changes))
