"""A person is found in a generator: golden g1's small one, from codes and cameras that are hidden."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from talk3d import cameras as cams
from talk3d.training import inversion as module
from talk3d.training import losses
from talk3d.training.inversion import InversionStage
from talk3d.training.loop import generator_of, train
from talk3d.training.perceptual import Perceptual
from talk3d.training.record import Recorder
from talk3d.training.tuning import TuningStage, change
from tests.training.conftest import tiny_config
from tests.training.generated import Generated, generated_context, small_generator


def make(clip, **changes):
    config = tiny_config()
    config = replace(config, prior=replace(config.prior, frames=4, **changes))
    context, prior = generated_context(clip, config)
    return InversionStage(context, prior, Perceptual())


def run(stage, steps=None):
    """As the loop does, without its files."""
    stage.begin()
    optimizer = stage.optimizer()
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(stage.steps if steps is None else steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * stage.rate(step)
        terms = stage.losses(step, generator_of(0, stage.name, step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        stage.stepped(step)
    return stage


def yaw_errors(stage, clip):
    frames = stage.prior.frames
    found, truth = (cams.angles(cams.unpack(c)[0])[0] for c in (_cameras(stage), clip.truth[frames]))
    return (found - truth).abs()


def _cameras(stage):
    return stage.context.cameras(torch.tensor(stage.prior.frames)).detach()


@pytest.fixture(scope="module")
def clip():
    return Generated(small_generator())


def elsewhere(stage, clip):
    """PSNR of pictures of the hidden codes from where no frame is, decibels."""
    made, prior, frames = clip.generator, stage.prior, stage.prior.frames
    found = []
    with torch.no_grad():
        hidden, codes = clip.codes[frames], prior.person.codes()
        planes = prior.planes(codes)
        for yaw, pitch in ((7, 3), (-7, -3), (4, -4), (-12, 0)):
            camera = clip._cameras(made.config, clip.yaw[frames] + yaw, clip.pitch[frames] + pitch)
            truth = made(hidden[:, None].expand(-1, made.backbone.num_ws, -1), camera).image.clamp(-1, 1)
            image = prior.enlarge(prior.generator.render(planes, camera), codes)
            found.append(losses.psnr(image, truth, torch.ones_like(truth[:, :1])))
    return torch.stack(found).mean().item()


def disturbed(share):
    """The generator with each weight of its backbone's convolutions off by a share of their deviation."""
    generator, draws = small_generator(), torch.Generator().manual_seed(11)
    for name, weight in generator.backbone.named_parameters():
        if name.endswith("weight") and "affine" not in name:
            weight.add_(share * weight.std() * torch.randn(weight.shape, generator=draws))
    return generator


@pytest.fixture(scope="module", params=["0", "1", "2", "disturbed"])
def found(request):
    """Both stages, and what was measured after each; of hidden codes by number, and of another generator's pictures."""
    if not os.environ.get("TALK3D_SLOW"):
        pytest.skip("takes some ten minutes for each: TALK3D_SLOW=1 runs it")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    own = request.param != "disturbed"
    clip = Generated(small_generator() if own else disturbed(0.03), seed=int(request.param) if own else 0)
    stage = make(clip)  # as many steps as a fit has
    wrong = yaw_errors(stage, clip)
    run(stage)
    figures = {"own": own, "stage": stage, "wrong": wrong, "right": yaw_errors(stage, clip)}
    figures |= {"inverted": stage.measure(), "elsewhere": elsewhere(stage, clip)}
    tuning = run(TuningStage(stage))
    figures |= {"tuned": tuning.measure(), "tuned elsewhere": elsewhere(stage, clip)}
    torch.set_num_threads(threads)
    print({"clip": request.param} | {name: value for name, value in figures.items() if name != "stage"})
    return figures


def test_the_frames_are_found(found):
    """Cameras are tracked wrongly by 1.5 to 3 degrees, in yaw and in pitch; nobody says anything of the code."""
    if not found["own"]:
        pytest.skip("what a generator cannot show is for tuning")
    assert found["wrong"].min() > 1.4
    assert found["inverted"]["PSNR"] >= 34
    assert found["inverted"]["render PSNR"] >= 34
    assert found["right"].max() <= 0.5


def test_tuning_gains_and_leaves_other_codes_alone(found):
    """Of frames that the generator can show all, tuning can only gain what the inversion left, 35 dB and better.

    Those of the disturbed generator are beyond what any code shows. In both, the person gains from elsewhere, too: no
    frame is learned by heart. Codes that are drawn feel nothing by construction, so that this asks whether the
    construction holds; by how much those near the person change is a figure, and no more.
    """
    before, after = found["inverted"], found["tuned"]
    assert after["PSNR"] >= before["PSNR"] + 2
    assert found["tuned elsewhere"] > found["elsewhere"]
    assert after["change %"] <= 1
    assert after["near change %"] > 0
    prior = found["stage"].prior
    z = torch.randn(2, prior.generator.config.z_dim)  # codes that no stage has seen
    assert 100 * change(prior, prior.original.latents(z)) <= 1
    weights = prior.original.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in prior.generator.state_dict().items())


def test_the_identity_is_the_code_s(clip):
    """Its planes, and its super-resolution whose styles tuning has changed, are those of the person's code."""
    stage = make(clip, inversion=1)
    tuning, (identity, prior) = TuningStage(stage), (stage.context.identity, stage.prior)
    prior.person.start(clip.codes[0])
    tuning.begin()
    before = prior.generator(prior.person.w.expand(1, prior.generator.backbone.num_ws, -1), camera_of(stage)).image
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in (*tuning.edits.parameters(), *tuning.residual.parameters()):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draws))
        prior.give(identity)
        view = prior.generator.render(prior.planes(prior.person.w[None]), camera_of(stage))
        image = prior.enlarge(view, prior.person.w[None])
        torch.testing.assert_close(identity(camera_of(stage)).image, image, rtol=1e-4, atol=1e-4)
    assert (image - before).abs().max() > 0.1


def camera_of(stage):
    return stage.context.cameras(torch.tensor([0])).detach()


def test_two_runs_are_equal_and_one_that_was_stopped_goes_on(clip, tmp_path):
    found = []
    for name, stops in (("whole", [None]), ("parts", [1, 3, None])):
        for stop in stops:
            stage = make(clip, inversion=5)
            stepped = stage.stepped

            def killed(step, stop=stop, stepped=stepped):
                if step == stop:
                    raise KeyboardInterrupt
                stepped(step)

            stage.stepped = killed
            with Recorder(tmp_path / name, quiet=True) as recorder, suppress(KeyboardInterrupt):
                train(stage, tmp_path / name, replace(tiny_config().run, save_every=1), recorder)
        found.append({**stage.prior.person.state_dict(), "cameras": stage.context.cameras.correction.detach()})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    assert list((tmp_path / "whole" / "previews").glob("inversion_*_frames.png"))


def test_the_preview_shows_frames_and_sides(clip):
    stage = make(clip)
    pictures, target = stage.preview(), stage.target
    size, side = target.image.shape[3], target.view_image.shape[3]
    assert pictures["frames"].shape == (3 * size, 4 * size, 3)
    assert pictures["turned"].shape == (3 * side, 3 * side, 3)
    frames, difference = pictures["frames"][:size], pictures["frames"][2 * size :]
    assert (frames.float() - pictures["frames"][size : 2 * size].float()).abs().sub(difference).abs().max() <= 2


class TestDivergence:
    def test_it_is_stopped_and_named_and_the_best_is_kept(self, clip, monkeypatch):
        monkeypatch.setattr(module, "_PATIENCE", 3)
        monkeypatch.setattr(module, "_WORSE", 1.5)
        stage = make(clip, inversion=30, code_rate=30.0)
        stage.rate = lambda step: 0.002 if step < 8 else 1.0  # good steps, then wild ones
        run(stage)
        assert stage.state.stopped
        (note,) = stage.notes
        assert "The inversion of frames" in note
        assert "diverged: in step" in note
        assert "the best one is kept" in note
        assert torch.equal(stage.prior.person.at, stage.state.at)
        left = stage.losses(29, torch.Generator())
        assert left["stopped"] == 0
        best = torch.stack(list(stage.compare(*stage.render(shared=True), torch.Generator(), large=False).values()))
        assert best.sum() <= 1.05 * stage.state.least
        assert stage.measure()["render PSNR"] > 12

    def test_what_is_no_number_stops_at_once(self, clip):
        stage = make(clip, inversion=10)
        run(stage, 3)
        kept = stage.state.at.clone()
        with torch.no_grad():
            stage.prior.person.at.fill_(math.nan)
        assert "stopped" in stage.losses(3, torch.Generator())
        stage.stepped(3)
        assert torch.equal(stage.prior.person.at, kept)
        assert stage.notes[0].count("nan") == 1

    def test_trial_steps_do_not_count(self, clip):
        stage = make(clip, inversion=4)
        stage.begin()
        stage.losses(2, torch.Generator())
        assert stage.state.least < math.inf
        stage.begin()
        assert stage.state.least == math.inf


def test_each_loss_counts(clip):
    stage = make(clip, inversion=10)
    stage.config = replace(stage.config, losses=replace(stage.config.losses, depth=1.0, matte=1.0))
    stage._face = module.FaceMesh(torch.from_numpy(clip.mesh))
    stage.begin()
    terms = stage.losses(9, torch.Generator())
    wanted = {"color", "edges", "perceptual", "face", "picture", "matte", "depth", "offsets", "poses"}
    assert terms.keys() == wanted
    zero = dict.fromkeys(wanted - {"color"}, 0.0)
    stage.config = replace(stage.config, losses=replace(stage.config.losses, **zero))
    assert stage.losses(9, torch.Generator()).keys() == {"color"}


def test_nothing_else_is_in_the_graph(clip):
    stage = make(clip, inversion=10)
    stage.begin()
    torch.stack(list(stage.losses(9, torch.Generator()).values())).sum().backward()
    assert all(p.grad is not None for p in stage.prior.person.parameters())
    assert all(p.grad is None for p in stage.prior.generator.parameters())
    tuning = TuningStage(stage)
    for parameter in stage.prior.person.parameters():
        parameter.grad = None
    tuning.begin()
    torch.stack(list(tuning.losses(0, torch.Generator()).values())).sum().backward()
    assert all(p.grad is None for p in stage.prior.person.parameters())
    generator = stage.prior.generator
    for frozen in (generator, stage.prior.original):
        assert all(p.grad is None for p in frozen.parameters())
    assert len(tuning.edits) == 20 + 6  # layers of backbone and super-resolution
    assert all(p.grad.abs().max() > 0 for p in (*tuning.edits.parameters(), *tuning.residual.parameters()))


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0])
def test_a_change_is_felt_near_the_person_and_nowhere_else(clip, size):
    """Also by the mean of codes that a run starts from, which is 0 in some generators."""
    stage = make(clip, inversion=1)
    tuning = TuningStage(stage)
    person = size * clip.codes[0]
    stage.prior.person.start(person)
    tuning.begin()
    with torch.no_grad():
        assert tuning.gate(person[None]).item() == 1
        others = stage.prior.original.latents(torch.randn(200, stage.prior.generator.config.z_dim))[:, 0]
        assert (tuning.gate(others) < 0.1).all()
        assert tuning.gate(others).count_nonzero() <= 2
        way = tuning.gate(torch.lerp(person, others[:1], torch.linspace(0, 1, 50)[:, None]))
        assert (way.diff() <= 0).all()
        assert way.diff().abs().max() < 0.1
        tuning.residual.planes.fill_(1.0)
        for edit in tuning.edits:
            edit.style.fill_(1.0)
        assert change(stage.prior, stage.prior.person.w.expand(1, 14, -1)) > 0.01
        assert change(stage.prior, others[:2, None].expand(-1, 14, -1)) == 0
