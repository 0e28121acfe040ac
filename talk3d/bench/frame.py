"""The budget of one frame of an avatar, from speech features to a picture in the host's memory."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from talk3d import cameras
from talk3d.avatar import Avatar, BakedAvatar
from talk3d.bench.meter import flop, seconds
from talk3d.models import ConditionEncoder, Conditions, DeltaUNet, Driver, Generated, Identity, SceneConfig
from talk3d.ops import RenderOptions
from talk3d.profiling import annotate
from talk3d.testing import head_planes

__all__ = ["FRAME", "Budget", "Side", "Spread", "measure", "published_avatar"]

FRAME = "frame"  # the name of the whole

_SPEECH = 44  # characters that Talk3D's speech recogniser tells apart
_WARM_UP = 2  # frames of each side that are not counted: libraries load, choose and allocate

Progress = Callable[[int, int], object]
"""Called with frames that are done, and frames that there are."""


@dataclass(frozen=True)
class Spread:
    """How a quantity came out over the rounds.

    Attributes:
        median: Half of the rounds lie below.
        low: Lower quartile.
        high: Upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise the values of all rounds."""
        low, median, high = np.quantile(list(values), [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Side:
    """A frame, baked or unbaked.

    Attributes:
        milliseconds: Of each stage, in the order of the frame, and of what stages belong to: ``"sr.b0.conv"``,
            ``"sr.b0"``, ``"sr"``, :data:`FRAME`.
        gflop: Likewise; see :func:`talk3d.bench.meter.flop`.
    """

    milliseconds: Mapping[str, Spread]
    gflop: Mapping[str, float]


@dataclass(frozen=True)
class Budget:
    """What a frame costs.

    Attributes:
        baked: As ``Avatar.bake()`` renders it.
        unbaked: As ``Avatar.forward`` does, in float32.
        ratio: Unbaked over baked of each stage that both have and that takes time, round by round.
        replay: Milliseconds of the baked frame by a CUDA graph, where there is one.
        bake: Milliseconds that baking took, once.
        id_cache: How many of them for what the U-Net keeps of an identity.
        psnr: Of the baked picture against the unbaked one, in dB; infinite if they are the same.
    """

    baked: Side
    unbaked: Side
    ratio: Mapping[str, Spread]
    replay: Spread | None
    bake: float
    id_cache: float
    psnr: float


def measure(
    avatar: Avatar,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    rounds: int = 7,
    progress: Progress = lambda done, total: None,
) -> Budget:
    """Measure a frame, baked and unbaked in turns, in an order that is drawn anew for each round.

    Args:
        avatar: Whose; it moves to the device.
        dtype: Of the baked networks.
        device: Where to render.
        rounds: How often each side has its turn.
        progress: Told after each frame.

    Raises:
        ValueError: On no rounds, or a type that the device does not have.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = torch.device(device)
    start = time.perf_counter()
    found: list[BakedAvatar] = []
    spent = seconds(lambda: found.append(avatar.bake(dtype, device=device)), device)
    bake, baked = time.perf_counter() - start, found[0]
    sides = _sides(avatar.to(device), baked)
    pictures = {name: run() for name, run in sides.items()}
    total, done = len(sides) * (_WARM_UP + rounds), 0
    draw = random.Random(0)  # the same order for the same call
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(_WARM_UP + rounds):
        for name in draw.sample(list(sides), len(sides)):
            measured = seconds(sides[name], device)
            if turn >= _WARM_UP:
                taken[name].append(_tree(measured))
            done += 1
            progress(done, total)
    replay = taken.get("replay")
    pairs = list(zip(taken["unbaked"], taken["baked"], strict=True))
    both = [name for name in pairs[0][0] if all(fast.get(name, 0) > 0 for _, fast in pairs)]
    return Budget(
        baked=_side(taken["baked"], sides["baked"]),
        unbaked=_side(taken["unbaked"], sides["unbaked"]),
        ratio={name: Spread.of(slow[name] / fast[name] for slow, fast in pairs) for name in both},
        replay=None if replay is None else Spread.of(1e3 * each[FRAME] for each in replay),
        bake=1e3 * bake,
        id_cache=1e3 * spent.get("unet.id_cache", 0.0),
        psnr=_psnr(pictures["baked"], pictures["unbaked"]),
    )


def published_avatar() -> Avatar:
    """Make Talk3D's networks at the published sizes, with random weights and a density spread as in a trained head."""
    # everything else is as published by default
    config = SceneConfig(rendering=RenderOptions(axes="zy"), focal=cameras.TALK3D_FOCAL, pivot=cameras.TALK3D_PIVOT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        identity = Identity(config)
        identity.w.normal_()
        driver = Driver(DeltaUNet(axes="zy", semantics="published"), ConditionEncoder(_SPEECH, semantics="published"))
        for parameter in driver.parameters():
            if not parameter.any():  # a delta that starts from nothing would leave nothing to compare
                torch.nn.init.normal_(parameter, std=0.02)
    planes, (w0, b0, w1, b1) = head_planes(size=config.plane_resolution)
    with torch.no_grad():
        identity.planes.copy_(planes)
        layers = identity.decoder.hidden, identity.decoder.output
        for layer, weight, bias in zip(layers, (w0, w1), (b0, b1), strict=True):
            layer.weight.copy_(weight * weight.shape[1] ** 0.5)  # which the layer divides by
            layer.bias.copy_(bias)
    return Avatar(identity, driver).eval().requires_grad_(False)


def _sides(avatar: Avatar, baked: BakedAvatar) -> dict[str, Callable[[], Tensor]]:
    """Make the functions that render a frame; each gives its picture on the host."""
    moves, camera = baked.moves(range(1)), baked.config.camera()[None].to(baked.device)
    head = Conditions(*(part.to(baked.device) for part in (moves.blink, moves.angles, moves.landmarks)))
    driver = avatar.driver
    generator = torch.Generator().manual_seed(0)
    speech = None
    if driver is not None:
        speech = torch.randn(1, 8, 16, driver.conditions.features, generator=generator).to(baked.device)

    def show(made: Generated) -> Tensor:
        pictures = baked.compose(made, baked.behind(range(1)))
        with annotate("io.d2h"):
            return pictures.cpu()

    def fast(*, graph: bool) -> Tensor:
        tokens = None if speech is None else baked.tokens(speech, head)
        return show(baked.frames(tokens, camera, graph=graph))

    def slow() -> Tensor:
        with torch.no_grad():
            return show(avatar.identity(camera) if speech is None else avatar(speech, head, camera))

    sides: dict[str, Callable[[], Tensor]] = {"baked": lambda: fast(graph=False), "unbaked": slow}
    if baked.device.type == "cuda" and speech is not None:
        sides["replay"] = lambda: fast(graph=True)
    return sides


def _side(rounds: list[dict[str, float]], run: Callable[[], object]) -> Side:
    milliseconds = {name: Spread.of(1e3 * each[name] for each in rounds) for name in rounds[0]}
    work = _tree(flop(run))
    return Side(milliseconds, {name: work.get(name, 0.0) / 1e9 for name in milliseconds})


def _tree(parts: Mapping[str, float]) -> dict[str, float]:
    """Add parts up to what they belong to: ``"sr.b0.conv"`` to ``"sr.b0"``, ``"sr"`` and the frame."""
    found: dict[str, float] = {FRAME: sum(parts.values())}
    for name, value in parts.items():
        names = name.split(".")
        for depth in range(1, len(names) + 1):
            above = ".".join(names[:depth])
            found[above] = found.get(above, 0.0) + value
    return found


def _psnr(actual: Tensor, expected: Tensor) -> float:
    error = float((actual.double() - expected.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
