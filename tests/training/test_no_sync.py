"""A training step asks a GPU for nothing that it would have to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from talk3d.training import identity
from talk3d.training.config import (
    DriverLosses,
    FitConfig,
    IdentityStageConfig,
    SuperResolutionStageConfig,
    Term,
)
from talk3d.training.config_prior import AdversaryConfig
from talk3d.training.driver import DriverStage
from talk3d.training.identity import IdentityStage
from talk3d.training.inversion import InversionStage
from talk3d.training.judges import Judges
from talk3d.training.loop import Parted, _Losses, _step
from talk3d.training.perceptual import Perceptual
from talk3d.training.rest import Rest
from talk3d.training.stage import Stage, StageContext
from talk3d.training.superresolution import SuperResolutionStage
from talk3d.training.targets import Targets
from talk3d.training.team import Parts
from talk3d.training.tracking import TrackingStage
from talk3d.training.tuning import TuningStage
from tests.training.conftest import Clip, tiny_config
from tests.training.generated import Generated, generated_context, small_generator
from tests.training.test_identity import Head, proxy  # noqa: F401
from tests.training.test_judges import files, speaking  # noqa: F401
from tests.training.waits import Refuse

Make = Callable[..., StageContext]


def tensors_of(thing: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Everything that hangs on a stage and lies where the networks do; numbers that it draws with are the host's."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (type, Rest, Targets, Clip, Generated)):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    if isinstance(thing, nn.Module):
        yield from (*thing.parameters(), *thing.buffers())
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    else:
        parts = list(vars(thing).values()) if type(thing).__module__.startswith("talk3d") else []
    for part in parts:
        yield from tensors_of(part, seen)


class Quiet:
    def figures(self, *_: object) -> None: ...


@contextmanager
def watched(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refuse]:
    """Refuse to wait for what the stage has, and for frames."""
    refuse, found = Refuse(list(tensors_of(stage))), Targets.__call__

    def targets(*arguments: Any) -> Any:
        target = found(*arguments)
        refuse.add(target)
        return target

    monkeypatch.setattr(Targets, "__call__", targets)
    monkeypatch.setattr("talk3d.arguments._may_look", lambda value: False)  # as it says of what is on a GPU
    with refuse:
        yield refuse


def steps_wait_for_nothing(stage: Stage, settings: FitConfig, steps: list[int], monkeypatch: Any) -> None:
    stage.begin()
    optimizer = stage.optimizer()
    how = (settings.run, 0, Parted(Parts()), False)
    _step(stage, steps[0], optimizer, how)  # what is made once may look
    losses = _Losses(stage.name, Quiet(), every=100)
    losses._check = lambda *_: []  # which a CPU does at once, and a GPU when a log is due
    with watched(stage, monkeypatch):
        for step in steps:
            losses.add(step, _step(stage, step, optimizer, how)[0], stage.batch())


def test_what_waits_is_refused():
    x, index = torch.ones(3), torch.tensor([0, 2])
    weight = torch.ones(3, requires_grad=True)
    host = torch.ones(3)
    with Refuse([x, index]) as refuse:
        (2 * x).sum()
        host.sum().item()  # the host's own
        x[index], x[1:], host[[0, 1]], host.to(x.device, non_blocking=True), x.to(torch.float64)
        torch.zeros(3, device="cpu").to(x)
        assert refuse.has((weight * x).view(3, 1)[1:])  # views of what autograd follows, too
        for look in (
            lambda: (2 * x).sum().item(),
            lambda: bool((x > 0).all()),
            lambda: float((weight * x).view(3, 1)[1]),
            lambda: x.nonzero(),
            lambda: x.tolist(),
            lambda: x.cpu(),
            lambda: x[x > 0],
            lambda: x[[0, 1]],
            lambda: x[None, [0, 1]],
            lambda: x.__setitem__([0, 1], 3.0),
            lambda: x.new_tensor([1.0]),
            lambda: torch.tensor([1.0], device=x.device),
            lambda: host.to(x),
            lambda: host.to(x.device),
            lambda: torch.zeros(3, device="cpu").tolist(),
        ):
            with pytest.raises(AssertionError, match="would wait for a GPU"):
                look()


def test_the_driver(make_context: Make, monkeypatch):
    on = Term(weight=0.5)
    names = ("l1", "perceptual", "mouth", "eyes", "matte", "temporal", "delta", "exchange", "articulation")
    losses = DriverLosses(**dict.fromkeys((*names, "landmarks", "photometric"), on))
    settings = tiny_config()
    driver = replace(settings.driver, losses=losses, identity_rate=1e-3, camera_rate=1e-4)
    settings = replace(settings, driver=driver)
    steps_wait_for_nothing(DriverStage(make_context(settings), Perceptual()), settings, [1, 2], monkeypatch)


def test_the_driver_with_judges(speaking, files, make_context: Make, monkeypatch):  # noqa: F811
    settings, on = tiny_config(run=replace(files, save_every=2)), Term(weight=1.0)
    losses = replace(DriverLosses(), identity=on, sync=on)
    adversary = AdversaryConfig(weight=0.1, start=0.0, ramp=0.0, crop=16, channels=64, every=2)
    driver = replace(settings.driver, losses=losses, part=0.875, batch=4, adversary=adversary)
    settings = replace(settings, driver=driver)
    context = make_context(settings)
    stage = DriverStage(context, Perceptual(), Judges(files, losses, context.targets))
    steps_wait_for_nothing(stage, settings, [1, 2, 3], monkeypatch)


def test_the_identity(make_context: Make, proxy, monkeypatch):  # noqa: F811
    clip = Head()
    monkeypatch.setattr(identity, "fit_proxy", lambda *_, **__: proxy)
    chosen = IdentityStageConfig(steps=40, warmup=1, refine=0, levels=2, camera_rate=1e-5)
    settings = tiny_config(identity=chosen)
    context = make_context(settings)
    targets = Targets(clip, picture=clip.size, view=8)
    stage = IdentityStage(StageContext(settings, targets, context.identity, context.cameras))
    steps_wait_for_nothing(stage, settings, [0, 2, 3, 30, 31], monkeypatch)


@pytest.mark.parametrize("moves", [False, True])
def test_super_resolution(make_context: Make, moves, monkeypatch):
    settings = tiny_config(superresolution=SuperResolutionStageConfig(before=8, steps=8, batch=2))
    context = make_context(settings)
    driver = DriverStage(context, Perceptual()).average if moves else None
    steps_wait_for_nothing(SuperResolutionStage(context, driver), settings, [0, 1, 2, 3], monkeypatch)


@pytest.fixture(scope="module")
def generated() -> Generated:
    return Generated(small_generator())


@pytest.mark.parametrize("name", ["inversion", "tuning", "tracking"])
def test_with_a_prior(generated, name, monkeypatch):
    settings = tiny_config()
    weights = replace(settings.prior.losses, depth=0.1, matte=0.1)
    settings = replace(settings, prior=replace(settings.prior, frames=2, inversion=40, tuning=20, losses=weights))
    context, prior = generated_context(generated, settings)
    inversion = InversionStage(context, prior, Perceptual())
    if name == "inversion":
        monkeypatch.setattr(InversionStage, "_looks", lambda stage, step: step % 10 == 0)  # as on a GPU
        steps_wait_for_nothing(inversion, settings, [1, 6, 7, 31], monkeypatch)
    elif name == "tuning":
        inversion.begin()
        steps_wait_for_nothing(TuningStage(inversion), settings, [0, 1], monkeypatch)
    else:
        steps_wait_for_nothing(TrackingStage(context, prior), settings, [0, 1], monkeypatch)


def test_a_look_in_a_stage_is_found(make_context: Make, monkeypatch):
    """The stages' tests can fail: each of the ways to wait is put into a step."""
    settings = tiny_config()
    looks: list[Callable[[Tensor], Any]] = [
        lambda loss: loss.item(),
        lambda loss: torch.tensor([1.0], device=loss.device),
        lambda loss: loss[None][[0]],
        lambda loss: loss[None][loss[None] > 0],
        lambda loss: torch.ones(2).to(loss.device),
    ]
    for look in looks:
        stage = SuperResolutionStage(make_context(settings))
        losses = stage.losses

        def looking(*arguments: Any, losses=losses, look=look) -> Any:
            found = losses(*arguments)
            look(next(iter(found.values())))
            return found

        stage.losses = looking
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="would wait for a GPU"):
            steps_wait_for_nothing(stage, settings, [0, 1], patch)
