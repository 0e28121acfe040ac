"""The super-resolution stage: it learns, nothing else moves, and views are rendered once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talk3d.training.config import SuperResolutionStageConfig
from talk3d.training.driver import DriverStage
from talk3d.training.loop import generator_of
from talk3d.training.perceptual import Perceptual
from talk3d.training.superresolution import SuperResolutionStage


@pytest.fixture
def make_stage(make_context, make_config):
    def make(*, driven: bool = False, **changes) -> SuperResolutionStage:
        chosen = SuperResolutionStageConfig(**{"before": 40, "steps": 40, "batch": 2} | changes)
        context = make_context(replace(make_config(), superresolution=chosen))
        stage = SuperResolutionStage(context, DriverStage(context, Perceptual()).average if driven else None)
        stage.begin()
        return stage

    return make


def test_it_learns_and_leaves_the_rest_alone(make_stage):
    stage = make_stage()
    identity = stage.context.identity
    planes, decoder = identity.planes.clone(), identity.decoder.output.weight.clone()
    before = stage.measure()["face PSNR"]
    optimizer = stage.optimizer()
    for step in range(40):
        terms = stage.losses(step, generator_of(0, "superresolution", step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert stage.measure()["face PSNR"] > before + 1
    assert torch.equal(identity.planes, planes)
    assert torch.equal(identity.decoder.output.weight, decoder)
    assert identity.planes.grad is None


def test_a_frame_s_view_is_rendered_once_and_again_when_planes_have_changed(make_stage, monkeypatch):
    stage = make_stage()
    rendered = []
    render = stage.context.identity.render
    monkeypatch.setattr(stage.context.identity, "render", lambda *a, **k: rendered.append(1) or render(*a, **k))
    for step in range(10):
        stage.losses(step % 2, generator_of(0, "superresolution", step))
    assert len(rendered) == 4
    stage.begin()
    stage.losses(0, generator_of(0, "superresolution", 0))
    assert len(rendered) == 6


def test_few_steps_look_at_few_frames(make_stage):
    stage = make_stage(before=8, batch=2)
    seen = {frame for step in range(8) for frame in _frames(stage, step)}
    assert len(seen) == 4


def _frames(stage: SuperResolutionStage, step: int) -> list[int]:
    stage.losses(step, generator_of(0, "superresolution", step))
    return [int(word) for word in stage.batch().removeprefix("frames ").split(", ")]


def test_what_does_not_count_is_no_error(make_stage, monkeypatch):
    stage = make_stage()
    monkeypatch.setattr(stage._rest, "weights", lambda index, regions: 0 * regions[:, :1])
    assert not any(term.item() for term in stage.losses(0, generator_of(0, "superresolution", 0)).values())


class TestDriven:
    """With a driver it is the person who moves."""

    def test_views_are_of_the_moved_planes(self, make_stage):
        stage = make_stage(driven=True)
        before = stage._view(3).features
        torch.nn.init.normal_(stage.driver.unet.head.maps)
        stage.begin()
        assert not torch.equal(stage._view(3).features, before)
        target, identity = stage.context.targets([3]), stage.context.identity
        planes = identity.planes + stage.driver(target.features, target.conditions, identity.planes)
        expected = identity.render(planes, stage.context.cameras(target.index)).features
        torch.testing.assert_close(stage._view(3).features, expected)

    def test_lips_count_fully(self, make_stage, clip, monkeypatch):
        terms = make_stage(driven=True).losses(0, generator_of(0, "superresolution", 0))
        sample = clip.sample
        nowhere = lambda indices: (s := sample(indices))._replace(regions=torch.zeros_like(s.regions))  # noqa: E731
        monkeypatch.setattr(clip, "sample", nowhere)
        found = make_stage(driven=True).losses(0, generator_of(0, "superresolution", 0))
        torch.testing.assert_close(found, terms)

    def test_the_driver_stays(self, make_stage):
        stage = make_stage(driven=True)
        torch.stack(list(stage.losses(0, generator_of(0, "superresolution", 0)).values())).sum().backward()
        assert all(p.grad is None for p in stage.driver.parameters())
        assert list(stage.measure()) == ["face PSNR", "mouth PSNR", "PSNR"]
        assert (stage.name, stage.steps) == ("superresolution", 40)


def test_the_preview_shows_frames_beside_pictures(make_stage):
    assert make_stage().preview()["superresolution"].shape == (3 * 32, 2 * 32, 3)
