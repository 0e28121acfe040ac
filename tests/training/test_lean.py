"""Losses that keep little: their gradients are those of the plain forms, and what they keep is counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from talk3d.networks import ArcFace
from talk3d.testing import held
from talk3d.training import judges, lean, losses
from talk3d.training.adversary import Crops, make_adversary
from talk3d.training.config import DriverLosses, Term
from talk3d.training.config_prior import AdversaryConfig
from talk3d.training.driver import DriverStage
from talk3d.training.lean import absolute, again, at_once, halved
from talk3d.training.loop import generator_of
from talk3d.training.pairs import Pair
from talk3d.training.perceptual import Perceptual
from talk3d.training.targets import EYES, MOUTH
from tests.networks.test_networks import made
from tests.training.conftest import tiny_config

BATCH, SIDE = 2, 256
PIXELS = BATCH * SIDE**2


def picture(channels: int = 3, side: int = SIDE) -> Tensor:
    return torch.rand(BATCH, channels, side, side) * 2 - 1


class TestParts:
    def test_absolute(self):
        x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(absolute(x), x, torch.tensor([5.0, 5.0, 7.0], dtype=torch.float64))
        assert absolute(x).tolist() == [2, 0, 3]
        assert slope.tolist() == [-5, 0, 7]
        y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(absolute, y)
        torch.autograd.gradgradcheck(absolute, y)

    @pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 4)])
    def test_halved(self, size):
        x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
        if 1 in size:
            with pytest.raises(RuntimeError):
                halved(x)
            return
        assert torch.equal(halved(x), avg_pool2d(x, 2))
        torch.autograd.gradcheck(halved, x)

    def test_at_once(self):
        x, y = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        torch.autograd.gradcheck(partial(at_once, lambda x, y: (x.exp() * y).sum()), (x, y))
        torch.autograd.gradcheck(lambda x: at_once(lambda x, y: (x * y.detach()).sum(), x, y.detach()), x)

    def test_again(self):
        x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda x: again(lambda x: x.exp().sum(), 2 * x), x)

    def test_what_nobody_follows_is_computed_as_it_is(self):
        x = torch.ones(3, requires_grad=True)
        for found in (at_once(torch.sum, x.detach()), again(torch.sum, x.detach()), absolute(x.detach())):
            assert not found.requires_grad
        with torch.no_grad():
            assert at_once(torch.sum, x) == again(torch.sum, x) == 3


def cases() -> dict[str, tuple[Callable[[], tuple[Callable[[Tensor], Tensor], Tensor]], float]]:
    """Losses of something, and the bytes that they may keep."""

    def pair(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        target, regions = picture(), (picture(4) > 0).float()
        say = {"l1": Pair.l1, "mouth": lambda pair: pair.within(MOUTH)}
        say["all"] = lambda pair: pair.l1() + pair.within(MOUTH) + pair.within(EYES)
        return lambda x: say[name](Pair(x, target, regions)), picture()

    def perceptual() -> tuple[Callable[[Tensor], Tensor], Tensor]:
        target, loss = picture(), Perceptual()
        return lambda x: loss(x, target), picture()

    def recognised() -> tuple[Callable[[Tensor], Tensor], Tensor]:
        network, face = made(ArcFace)[0].requires_grad_(False), torch.ones(BATCH, 1, SIDE, SIDE)
        with torch.no_grad():
            wanted = judges.recognised(network, picture(), face)
        return lambda x: judges.identity(network, x, wanted, face), picture()

    def adversary() -> tuple[Callable[[Tensor], Tensor], Tensor]:
        wanted = AdversaryConfig(weight=1.0, crop=32, channels=256)
        config = tiny_config(driver=replace(tiny_config().driver, adversary=wanted))
        judge, raw, cameras = make_adversary(config, SIDE), picture(side=8), torch.rand(BATCH, 25)
        real = Crops(picture(side=32), raw)
        return lambda x: judge.losses(Crops(x, raw), real, cameras, 1, 1.0)["adversary"], picture(side=32)

    def between() -> tuple[Callable[[Tensor], Tensor], Tensor]:
        target = picture()
        return lambda x: losses.temporal(x.unflatten(0, (1, 2)), target.unflatten(0, (1, 2))), picture()

    planes = torch.randn(1, 3, 4, 32, 32)
    delta = torch.randn(BATCH, 3, 4, 32, 32)
    few = 64  # a region's area, an identity's variance
    return {
        "l1": (partial(pair, "l1"), 3 * PIXELS),
        "mouth": (partial(pair, "mouth"), (3 + 4) * PIXELS + few),
        "l1, mouth and eyes": (partial(pair, "all"), (3 + 2 * 4) * PIXELS + few),
        "edges": (lambda: ((lambda t: lambda x: losses.edges(x, t))(picture()), picture()), 6 * PIXELS),
        "temporal": (between, 3 * PIXELS // 2),
        "perceptual": (perceptual, 3 * 4 * PIXELS // 4),
        "identity": (recognised, 3 * 4 * PIXELS),
        "adversary": (adversary, 3 * 4 * BATCH * 32**2),
        "delta": (lambda: (lambda x: losses.delta_size(x, planes), delta), 4 * delta.numel() + few),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("cast", [False, True])
def test_gradients_are_those_of_the_plain_form(name, cast, monkeypatch):
    torch.manual_seed(0)
    loss, at = cases()[name][0]()
    how = torch.autocast("cpu", torch.bfloat16) if cast else nullcontext()

    def run() -> tuple[Tensor, Tensor]:
        start = at.clone().requires_grad_()
        with how:
            value = loss(start * 1)
        value.backward()
        return value.detach(), start.grad

    found, slope = run()
    monkeypatch.setattr(lean, "_follows", lambda *given: False)
    expected, wanted = run()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.parametrize("name", cases())
def test_what_is_kept_is_counted(name):
    torch.manual_seed(0)
    make, room = cases()[name]
    loss, at = make()
    start = at.clone().requires_grad_() * torch.ones(())
    with held() as count:
        value = loss(start)
        assert 0 < count() <= room
    value.backward()


@pytest.mark.parametrize("name", cases())
def test_the_plain_form_keeps_more(name, monkeypatch):
    """Or the count is worth nothing."""
    if name == "delta":
        pytest.skip("it keeps the delta either way, but for a half, which is widened")
    torch.manual_seed(0)
    make, room = cases()[name]
    monkeypatch.setattr(lean, "_follows", lambda *given: False)
    loss, at = make()
    start = at.clone().requires_grad_() * torch.ones(())
    with held() as count:
        value = loss(start)
        assert count() > 1.5 * room
    value.backward()


def test_a_step_of_the_driver_learns_the_same(make_context, monkeypatch):
    names = ("l1", "perceptual", "mouth", "eyes", "matte", "temporal", "delta", "exchange", "articulation")
    chosen = DriverLosses(**dict.fromkeys(names, Term(weight=0.5)))
    adversary = AdversaryConfig(weight=0.1, start=0.0, ramp=0.0, crop=16, channels=64)
    config = tiny_config()
    config = replace(config, driver=replace(config.driver, losses=chosen, adversary=adversary))
    found = []
    for plain in (False, True):
        stage = DriverStage(make_context(config), Perceptual())
        torch.nn.init.normal_(stage.driver.unet.head.weight, generator=torch.Generator().manual_seed(0))
        stage.begin()
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(lean, "_follows", lambda *given: False)
            terms = stage.losses(1, generator_of(0, "driver", 1))
            torch.stack(list(terms.values())).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in stage.driver.parameters()]))
    lean_one, wanted = found
    assert (lean_one - wanted).norm() <= 1e-6 * wanted.norm()
    assert wanted.norm() > 0
