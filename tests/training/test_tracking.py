"""Cameras are found through the rendered depth, with a few renders of each frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talk3d import cameras as cams
from talk3d.models.scene import View
from talk3d.training.cameras import CameraTrack
from talk3d.training.loop import generator_of, train
from talk3d.training.record import Recorder
from talk3d.training.tracking import TrackingStage, align
from tests.training.generated import Generated, generated_context, small_generator
from tests.training.heads import photograph, views

SIDE = 64


def seen(cameras):
    picture, matte, depth = photograph(cameras, SIDE)
    return View(picture, depth.nan_to_num(1.0), matte)


def degrees(found, truth):
    """Angles between cameras, and distances in hundredths of a unit."""
    (one, _), (other, _) = cams.unpack(found), cams.unpack(truth)
    turn = (one[:, :3, :3].mT @ other[:, :3, :3]).diagonal(dim1=1, dim2=2).sum(1)
    return torch.rad2deg(torch.acos(((turn - 1) / 2).clamp(-1, 1))), 100 * (one - other)[:, :3, 3].norm(dim=1)


@pytest.fixture
def tracked():
    truth = views(torch.tensor([-10.0, 0.0, 12.0]))
    yaw, pitch = torch.tensor([-8.5, -1.2, 13.0]), torch.tensor([-4.2, 1.0, 2.5])
    return truth, cams.pack(cams.look_at(yaw, pitch, roll=1.0), cams.intrinsics(cams.FFHQ_FOCAL))


def test_cameras_are_found_in_two_rounds(tracked):
    truth, wrong = tracked
    track, index = CameraTrack(wrong), torch.arange(3)
    images = photograph(truth, SIDE)[0]
    turned, moved = degrees(track(index), truth)
    assert turned.min() > 1
    for _ in range(2):
        view = seen(track(index).detach())
        with torch.no_grad():
            track.correction[:] = align(images, view, track, index, view.weight > 0.5)
    turned, moved = degrees(track(index), truth)
    assert turned.max() < 0.3
    assert moved.max() < 1.5  # 5 mm, of a head that is 1 m away


def test_frames_are_found_alone(tracked):
    truth, wrong = tracked
    track, index = CameraTrack(wrong), torch.arange(3)
    images, view = photograph(truth, SIDE)[0], seen(wrong)
    together = align(images, view, track, index, view.weight > 0.5)
    one = View(*(part[1:2] for part in view))
    alone = align(images[1:2], one, track, index[1:2], one.weight > 0.5)
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-6)


def test_a_frame_that_shows_nothing_stays_where_it_was_tracked(tracked):
    truth, wrong = tracked
    track, index = CameraTrack(wrong), torch.arange(3)
    view = seen(wrong)
    found = align(photograph(truth, SIDE)[0], view, track, index, torch.zeros_like(view.weight, dtype=torch.bool))
    assert found.abs().max() < 1e-6


@pytest.fixture(scope="module")
def generated():
    return Generated(small_generator(), 11, error=1.0, offset=0.0)


def test_the_stage_renders_each_frame_once_a_round(generated, make_config, tmp_path):
    config = make_config()
    config = replace(config, prior=replace(config.prior, frames=2, rounds=3))
    context, prior = generated_context(generated, config)
    prior.person.start(generated.codes[0])
    stage = TrackingStage(context, prior)
    assert stage.steps == 3 * 5  # 33 frames of three splits, eight at a time
    rendered = []
    render = context.identity.render
    stage.begin()
    context.identity.render = lambda planes, cameras: rendered.append(len(cameras)) or render(planes, cameras)
    before = context.cameras.correction.clone()
    for step in range(stage.steps):
        stage.losses(step, generator_of(0, "tracking", step))["color"].backward()
        with torch.no_grad():
            context.cameras.correction -= context.cameras.correction.grad
        context.cameras.correction.grad = None
        stage.stepped(step)
    assert sum(rendered) / stage.frames == stage.passes == 3
    assert (context.cameras.correction != before).any(1).all()
    context.identity.render = render
    assert stage.measure()["passes per frame"] == 3 <= 4


def test_a_run_that_was_stopped_goes_on(generated, make_config, tmp_path):
    found = []
    for name, stops in (("whole", []), ("parts", [1, 3])):
        for stop in [*stops, None]:
            config = make_config()
            config = replace(config, prior=replace(config.prior, frames=2, rounds=1))
            context, prior = generated_context(generated, config)
            stage = TrackingStage(context, prior)
            stage.steps = stage.steps if stop is None else stop
            with Recorder(tmp_path / name, quiet=True) as recorder:
                train(stage, tmp_path / name, replace(config.run, save_every=100), recorder)
        found.append(context.cameras.correction.detach().clone())
    assert torch.equal(*found)
    assert stage.passes == 1
