"""The driver stage: it learns, from its generator alone, and what is driven by one token is not driven by another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from talk3d.models.scene import View
from talk3d.training.config import DriverLosses, DriverStageConfig, SuperResolutionStageConfig, Term
from talk3d.training.driver import DriverStage
from talk3d.training.loop import generator_of, train
from talk3d.training.perceptual import Perceptual
from talk3d.training.targets import EYES, FACE, MOUTH

ON = Term(weight=0.5)
EVERYTHING = DriverLosses(
    l1=ON,
    perceptual=ON,
    mouth=ON,
    eyes=ON,
    matte=ON,
    landmarks=ON,
    photometric=ON,
    temporal=ON,
    delta=ON,
    exchange=ON,
    articulation=ON,
)


class Quiet:
    """A recorder that writes nothing."""

    def begin(self, *_): ...

    def advance(self, *_): ...

    def figures(self, *_): ...

    def pictures(self, *_): ...


@pytest.fixture
def make_stage(make_context, make_config):
    def make(*, before: int = 1, **driver) -> DriverStage:
        settings = make_config(superresolution=SuperResolutionStageConfig(before=before))
        settings = replace(settings, driver=replace(settings.driver, **driver))
        stage = DriverStage(make_context(settings), Perceptual())
        stage.begin()
        return stage

    return make


def lively(stage: DriverStage) -> DriverStage:
    """With a delta that is not zero."""
    for driver in (stage.driver, stage.average):
        torch.nn.init.normal_(driver.unet.head.weight, std=0.05, generator=torch.Generator().manual_seed(2))
    return stage


def test_a_step_depends_on_its_generator_alone(make_stage):
    stage = lively(make_stage(losses=EVERYTHING))
    first = stage.losses(3, generator_of(0, "driver", 3))
    stage.losses(4, generator_of(0, "driver", 4))
    torch.manual_seed(99)
    again = stage.losses(3, generator_of(0, "driver", 3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(stage.losses(3, generator_of(1, "driver", 3))["l1"], first["l1"])


def test_what_is_exchanged_is_not_what_the_region_shows(make_stage, monkeypatch):
    stage = make_stage()
    target, seen = stage.context.targets([3, 4]), {}
    monkeypatch.setattr(stage.driver.conditions, "forward", lambda features, conditions: (features, conditions))
    for step in range(12):
        region, (features, conditions) = stage._exchange(target, generator_of(0, "driver", step))
        same = [torch.equal(mine[:1], its) for mine, its in zip(target.conditions, conditions, strict=True)]
        seen[region] = (torch.equal(features, target.features[:1]), *same)
    # the clip's landmarks never move
    assert seen == {MOUTH: (True, False, True, True), EYES: (False, True, True, True), FACE: (True, True, False, True)}


# those of trained networks need weights: test_judges.py has them
@pytest.mark.parametrize("name", sorted(vars(EVERYTHING).keys() - {"identity", "sync"}))
def test_each_loss_is_on_or_off_and_weighted(make_stage, name):
    def found(weight: float) -> dict[str, torch.Tensor]:
        losses = replace(DriverLosses(l1=Term(weight=0.1)), **{name: Term(weight=weight)})
        stage = lively(make_stage(losses=losses, camera_rate=1e-4))
        return stage.losses(1, generator_of(0, "driver", 1))

    once, twice = found(1.0), found(2.0)
    assert once[name] > 0
    torch.testing.assert_close(twice[name], 2 * once[name])
    assert name not in found(0.0) or name == "l1"


def test_schedules_are_followed(make_stage):
    stage = make_stage(losses=DriverLosses(mouth=Term(weight=1.0, start=0.5)), steps=10)
    assert "mouth" not in stage.losses(4, generator_of(0, "driver", 4))
    assert "mouth" in stage.losses(5, generator_of(0, "driver", 5))


def test_windows_and_single_frames_alternate(make_stage):
    stage = make_stage(batch=4, window=2, losses=DriverLosses(exchange=Term(weight=0)))
    drawn = {step: stage._draw(step, 2 if step % 2 else 1) for step in range(2)}
    stage.losses(1, generator_of(0, "driver", 1))
    assert stage.batch() == f"frames {', '.join(map(str, drawn[1]))}"
    assert [b - a for a, b in zip(drawn[1][::2], drawn[1][1::2], strict=True)] == [1, 1]


def test_a_part_is_what_the_whole_shows_there(make_stage):
    stage = make_stage(before=1)
    target = stage.context.targets([3])
    features, weight = torch.randn(1, 8, 8, 8), torch.rand(1, 1, 8, 8)
    raw, whole = stage._pairs(View(features, weight, weight), target, (0, 0, 8))
    assert (raw.found.shape[2], whole.found.shape[2]) == (8, 32)
    cut = (..., slice(0, 6), slice(2, 8))
    view = View(features[cut], weight[cut], weight[cut])
    raw_part, part = stage._pairs(view, target.part(0, 2, 6), (0, 2, 6))
    torch.testing.assert_close(raw_part.found, raw.found[cut])
    # three pixels of the view are cut off below and at the left, where the view goes on; a pixel is four of the picture
    assert part.corner == (0, 20)
    for found, expected in zip(part[:3], whole[:3], strict=True):
        torch.testing.assert_close(found, expected[..., 0:12, 20:32])


def test_without_a_super_resolution_it_is_compared_as_it_is_rendered(make_stage):
    stage = make_stage(before=0)
    assert stage.frame(stage.context.targets([3])).found.shape == (1, 3, 8, 8)
    assert make_stage(before=1).frame(stage.context.targets([3])).found.shape == (1, 3, 32, 32)


def test_a_part_of_the_rays_is_rendered(make_stage):
    stage = lively(make_stage(part=0.5))
    assert stage._place(torch.Generator())[2] == 4
    target = stage.context.targets([3, 4])
    planes, cameras = stage._planes(target.features, target.conditions), stage.context.cameras(target.index)
    generator = torch.Generator().manual_seed(0)
    view, (origins, directions) = stage._render(planes, cameras, (2, 1, 4), generator)
    whole = stage.context.identity.render(planes, cameras)
    assert view.features.shape == (2, 8, 4, 4)
    assert origins.shape == directions.shape == (2, 16, 3)
    # random depths against the middle ones: alike, and nothing like another part
    error = (view.features - whole.features[..., 2:6, 1:5]).abs().mean()
    assert error < 0.5 * (view.features - whole.features[..., 4:8, 4:8]).abs().mean()


def test_the_way_down_is_run_once_a_step(make_stage, monkeypatch):
    stage, calls = make_stage(batch=4), []
    encode = stage.driver.unet.encode
    monkeypatch.setattr(
        stage.driver.unet, "encode", lambda planes, **rest: calls.append(planes) or encode(planes, **rest)
    )
    stage.losses(1, generator_of(0, "driver", 1))
    assert [len(planes) for planes in calls] == [1]


def test_the_identity_is_frozen_or_has_a_rate_of_its_own(make_stage):
    stage = lively(make_stage())
    torch.stack(list(stage.losses(0, generator_of(0, "driver", 0)).values())).sum().backward()
    assert all(p.grad is None for p in stage.context.identity.parameters())
    assert stage.context.cameras.correction.grad is None
    assert list(stage.modules()) == ["driver", "articulation", "average"]

    stage = lively(make_stage(identity_rate=1e-4, camera_rate=1e-5))
    torch.stack(list(stage.losses(0, generator_of(0, "driver", 0)).values())).sum().backward()
    assert stage.context.identity.planes.grad.abs().sum() > 0
    assert stage.context.cameras.correction.grad.abs().sum() > 0
    assert list(stage.modules()) == ["driver", "articulation", "average", "identity", "cameras"]
    assert [group["lr"] for group in stage.optimizer().param_groups] == [1e-3, 5e-5, 2e-3, 1e-4, 1e-5]


def test_the_average_follows(make_stage):
    stage = make_stage(ema=0.5)
    bias = stage.driver.unet.head.bias
    with torch.no_grad():
        bias.fill_(1.0)
    stage.stepped(100)
    torch.testing.assert_close(stage.average.unet.head.bias, torch.full_like(bias, 0.5))
    assert make_stage(ema=0.0).average is not None
    without = make_stage(ema=0.0)
    assert without.average is without.driver
    assert "average" not in without.modules()


def test_rates_rise_and_fall(make_stage):
    stage = make_stage(steps=100, warmup=4)
    assert [stage.rate(step) for step in (0, 3)] == pytest.approx([0.2, 0.8], rel=0.01)
    assert stage.rate(99) == pytest.approx(0.1, rel=0.02)


def test_it_learns_what_speech_does(make_stage, tmp_path, clip):
    off = Term(weight=0)
    losses = DriverLosses(temporal=off, perceptual=off, exchange=off, articulation=off, delta=off)
    stage = make_stage(steps=60, rate=3e-3, map_rate=0.02, losses=losses)
    before = stage.measure()
    train(stage, tmp_path, replace(stage.context.config.run, save_every=100), Quiet())
    assert stage.measure()["face PSNR"] > before["face PSNR"] + 3
    # the lower half is the darker the louder it is
    target = stage.context.targets(range(16))
    with torch.no_grad():
        image = stage.frame(target).found
    mouth = (image * target.regions[:, MOUTH : MOUTH + 1]).sum((1, 2, 3))
    correlation = torch.corrcoef(torch.stack((mouth, -torch.from_numpy(clip.loud[:16]))))[0, 1]
    assert correlation > 0.8


def test_figures_and_pictures_are_deterministic(make_stage):
    stage = lively(make_stage())
    figures = stage.measure()
    assert next(iter(figures)) == "face PSNR"
    assert figures == stage.measure()
    pictures, again = stage.preview(), stage.preview()
    assert set(pictures) == {"frames", "turned"}
    for name, picture in pictures.items():
        assert picture.dtype == torch.uint8
        assert picture.shape[2] == 3
        assert torch.equal(picture, again[name])


def test_measuring_changes_no_gradient(make_stage):
    stage = lively(make_stage())
    stage.measure()
    terms = stage.losses(0, generator_of(0, "driver", 0))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in stage.driver.unet.head.parameters())


@pytest.mark.parametrize(("batch", "window"), [(0, 1), (2, 0), (3, 2), (1, 2)])
def test_a_batch_is_made_of_windows(batch, window):
    message = f"driver.batch must be a multiple of driver.window, both at least 1, got {batch} and {window}"
    with pytest.raises(ValueError, match=message):
        DriverStageConfig(batch=batch, window=window)
