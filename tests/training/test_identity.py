"""The identity stage: a person at rest is learned, the proxy holds the shape, cameras are refined with care."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from talk3d.data.dataset import Sample
from talk3d.training import identity as module
from talk3d.training.config import IdentityStageConfig
from talk3d.training.identity import IdentityStage
from talk3d.training.loop import generator_of
from talk3d.training.proxy import HeadProxy, fit_proxy
from tests.training.conftest import SIZE, Clip
from tests.training.heads import face_mesh, mattes, photograph, views


@pytest.fixture(scope="session")
def proxy() -> HeadProxy:
    return fit_proxy(face_mesh(), mattes(), resolution=25)


class Head(Clip):
    """A head that turns before a wall, in place of the disc."""

    def __init__(self) -> None:
        super().__init__()
        yaws = torch.linspace(-12, 12, len(self))
        self.mesh, self.cameras = face_mesh().numpy(), views(yaws).numpy()
        self.angles[:, 1] = yaws.numpy()
        self.landmarks[:, [13, 14]] = 0.5
        self.landmarks[::2, 14] += 0.1  # every second mouth is open
        self.blink[:] = 0.0
        self.landmarks[:, 33], self.landmarks[:, 263] = (0.4, 0.4), (0.6, 0.4)

    def sample(self, indices) -> Sample:
        sample = super().sample(indices)
        image, matte, _ = photograph(sample.camera, SIZE)
        regions = sample.regions.clone()
        regions[:, 0] = matte[:, 0] * regions[:, 0]
        return sample._replace(image=image - 0.3 * (1 - matte), matte=matte, regions=regions, plate=image * 0 - 0.3)


@pytest.fixture
def clip() -> Head:
    return Head()


@pytest.fixture
def make_stage(make_context, make_config, proxy, monkeypatch):
    monkeypatch.setattr(module, "fit_proxy", lambda *_, **__: proxy)
    monkeypatch.setattr(module, "_POINTS", 256)

    def make(**identity) -> IdentityStage:
        chosen = IdentityStageConfig(**{"steps": 20, "warmup": 10, "refine": 0, "levels": 2} | identity)
        stage = IdentityStage(make_context(replace(make_config(), identity=chosen)))
        stage.begin()
        return stage

    return make


def run(stage: IdentityStage, steps: range) -> dict[str, float]:
    """Take steps; returns the last terms."""
    optimizer = stage.optimizer()
    for step in steps:
        terms = stage.losses(step, generator_of(0, "identity", step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        stage.stepped(step)
    return {name: term.item() for name, term in terms.items()}


def test_the_warm_up_makes_the_density_that_of_the_proxy(make_stage):
    stage = make_stage(warmup=40)
    first = stage.losses(0, generator_of(0, "identity", 0))["proxy"].item()
    assert run(stage, range(40))["proxy"] < first
    inside, outside = torch.tensor([[[0.0, 0.0, 0.05]]]), torch.tensor([[[0.4, 0.0, 0.3]]])
    planes = stage.context.identity.planes
    assert stage.context.identity.query(planes, inside)[0] > stage.context.identity.query(planes, outside)[0]


def test_it_learns_what_the_frames_show(make_stage):
    stage = make_stage(warmup=20, steps=120)
    run(stage, range(20))
    before = stage.measure()
    run(stage, range(20, 140))
    assert stage.measure()["psnr"] > before["psnr"] + 2


def test_a_step_depends_on_its_generator_alone(make_stage):
    stage = make_stage()
    first = stage.losses(15, generator_of(0, "identity", 15))
    stage.losses(16, generator_of(0, "identity", 16))
    again = stage.losses(15, generator_of(0, "identity", 15))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_identity_has_the_sum_of_the_levels(make_stage):
    stage = make_stage()
    run(stage, range(3))
    assert torch.equal(stage.context.identity.planes, stage.pyramid())


def test_without_the_proxy_nothing_holds_the_shape(make_stage):
    stage = make_stage(proxy=False)
    assert stage.steps == 20
    assert stage.losses(1, generator_of(0, "identity", 1)).keys() == {"color", "matte", "smooth"}


def test_with_it_everything_does_and_half_as_much_in_the_second_half(make_stage):
    stage = make_stage(camera_rate=0.0)
    terms = [stage.losses(step, generator_of(0, "identity", 11)) for step in (11, 21)]
    assert terms[0].keys() == {"color", "matte", "smooth", "mesh", "bend", "outside", "inside", "paint", "side"}
    for name in ("mesh", "outside", "inside", "paint", "side"):
        torch.testing.assert_close(terms[1][name], terms[0][name] / 2)
    assert torch.equal(terms[0]["color"], terms[1]["color"])


def test_cameras_stand_still_at_first(make_stage):
    stage = make_stage(camera_rate=1e-4)
    run(stage, range(14))
    assert not stage.context.cameras.correction.any()
    run(stage, range(15, 30))
    assert stage.context.cameras.correction.any()


def test_density_before_the_face_counts_from_the_side_and_at_points(make_stage):
    stage = make_stage()
    bias = stage.context.identity.decoder.output.bias
    torch.nn.init.constant_(bias[:1], -20)
    empty = stage.losses(11, generator_of(0, "identity", 11))
    torch.nn.init.constant_(bias[:1], 20)
    full = stage.losses(11, generator_of(0, "identity", 11))
    assert full["outside"] > 10 * empty["outside"].clamp(min=1e-3)
    assert empty["inside"] > full["inside"]


def test_large_views_begin_small():
    sides = [module._side_of(128, share) for share in (0.0, 0.5, 0.9)]
    assert sides == [64, 96, 128]
    assert module._side_of(64, 0.0) == 64


def test_the_preview_shows_frames_and_sides(make_stage):
    picture = make_stage().preview()["identity"]
    assert picture.dtype == torch.uint8
    assert picture.shape == (5 * 8, 4 * 8, 3)


def test_a_real_proxy_and_refined_cameras(make_context, make_config, clip):
    clip.cameras = views(0.8 * torch.linspace(-12, 12, len(clip))).numpy()
    chosen = IdentityStageConfig(steps=2, warmup=1, refine=3, levels=2)
    stage = IdentityStage(make_context(replace(make_config(), identity=chosen)))
    stage.begin()
    assert stage.proxy(torch.tensor([0.0, 0.0, 0.0])) < 0
    correction = stage.context.cameras.correction.detach().numpy()
    assert (np.abs(correction).max(1)[[i for split in clip.splits.values() for i in split]] > 0).all()
    assert np.isfinite(run(stage, range(3))["color"])
