"""The super-resolution stage: it learns, nothing else moves, and views are rendered once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talk3d.training.config import SuperResolutionStageConfig
from talk3d.training.loop import generator_of
from talk3d.training.superresolution import SuperResolutionStage


@pytest.fixture
def make_stage(make_context, make_config):
    def make(**changes) -> SuperResolutionStage:
        chosen = SuperResolutionStageConfig(**{"steps": 40, "batch": 2} | changes)
        stage = SuperResolutionStage(make_context(replace(make_config(), superresolution=chosen)))
        stage.begin()
        return stage

    return make


def test_it_learns_and_leaves_the_rest_alone(make_stage):
    stage = make_stage()
    identity = stage.context.identity
    planes, decoder = identity.planes.clone(), identity.decoder.output.weight.clone()
    before = stage.measure()["psnr"]
    optimizer = stage.optimizer()
    for step in range(40):
        terms = stage.losses(step, generator_of(0, "superresolution", step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert stage.measure()["psnr"] > before + 1
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
    stage = make_stage(steps=8, batch=2)
    seen = {frame for step in range(8) for frame in _frames(stage, step)}
    assert len(seen) == 4


def _frames(stage: SuperResolutionStage, step: int) -> list[int]:
    stage.losses(step, generator_of(0, "superresolution", step))
    return [int(word) for word in stage.batch().removeprefix("frames ").split(", ")]


def test_what_does_not_count_is_no_error(make_stage, monkeypatch):
    stage = make_stage()
    monkeypatch.setattr(stage._rest, "weights", lambda index, regions: 0 * regions[:, :1])
    assert not any(term.item() for term in stage.losses(0, generator_of(0, "superresolution", 0)).values())


def test_the_preview_shows_frames_beside_pictures(make_stage):
    assert make_stage().preview()["superresolution"].shape == (3 * 32, 2 * 32, 3)
