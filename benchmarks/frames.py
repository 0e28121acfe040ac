"""Frames and training steps a second, and the memory that they take; for a GPU.

    python benchmarks/frames.py [--batches 1 4 8 16] [--rounds 20] [--compile] [--json FILE]
    python benchmarks/frames.py --device cpu --quick --batches 1 2 --rounds 1         # whether it runs

Frames are rendered from condition tokens to pictures that stay on the device, at the published sizes: "graph" replays a
CUDA graph, "launched" does without one, both baked in bfloat16. "reference" is the published form, unbaked, with
`talk3d.reference` under it, in float32, convolutions in TF32 as torch has it; "compiled" the same by
`torch.compile(mode="max-autotune")` under autocast to bfloat16.

A training step is U-Net, renderer and super-resolution of the aligned driver for one frame and for a batch of four, the
mean magnitude of the picture, and the backward to the U-Net; ours under autocast to bfloat16, the reference in float32.

With --compile the super-resolution alone is compiled, too, and measured against ours as `Avatar.bake` does it.

The budget of a frame, stage by stage, is that of `talk3d bench`, whose command line needs other libraries.

Sides run in turns in one process. Ratios are to the reference, with the lower 95 % bound of their median; memory is
what torch's allocator had at most while a side ran, above what was there before.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import networks
import talk3d
from case import FULL, QUICK, Size
from paired import Spread, interleave, ratios
from talk3d.bench.frame import FRAME
from talk3d.bench.frame import measure as budget
from talk3d.ops.registry import Operator

CALLS = 5  # of a side in its turn on a GPU, at most, which then is waited for once
TURN = 0.1  # seconds of a turn in which more than one call is worth while
TRAINED = (1, 4)  # frames in a step
WARM_UP = 3  # libraries load and choose, graphs are captured, what compiles is compiled

Sides = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One side of one comparison."""

    what: str
    side: str
    batch: int
    per_second: float
    ratio: float
    at_least: float
    peak_bytes: int | None


@contextmanager
def literal() -> Iterator[None]:
    """Call the reference of each operator as it stands, so that autograd and compilers see what is in it."""
    called = Operator.__call__
    Operator.__call__ = lambda self, *arguments, impl=None: self._load("reference")(*arguments)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Operator.__call__ = called  # type: ignore[method-assign]


def frames(size: Size, batch: int, device: str, *, compiled: bool) -> Sides:
    """Functions that render a batch of frames of Talk3D's networks."""
    avatar = copy.deepcopy(networks.avatar(size)).to(device)
    baked = networks.avatar(size).bake(torch.bfloat16, device=device)
    driver, identity = avatar.driver, avatar.identity
    tokens, cameras = _inputs(avatar, batch, device)

    def forward() -> Tensor:
        planes = identity.planes.expand(batch, -1, -1, -1, -1)
        view = identity.render(planes + driver.unet(tokens, planes), cameras)
        image: Tensor = identity.enlarge(view)
        return image

    def reference(run: Callable[[], Tensor] = forward) -> object:
        with literal(), torch.no_grad():
            return run()

    sides: Sides = {
        "launched": lambda: baked.frames(tokens, cameras, graph=False),
        "reference": reference,
    }
    if baked.device.type == "cuda":
        sides["graph"] = lambda: baked.frames(tokens, cameras)
    if compiled:
        fused = torch.compile(forward, mode="max-autotune")

        def run_compiled() -> object:
            with torch.autocast(device, torch.bfloat16):
                return reference(fused)

        sides["compiled"] = run_compiled
    return sides


def training(size: Size, batch: int, device: str) -> Sides:
    """Functions that compute a step's gradients."""
    identity = copy.deepcopy(networks.avatar(size)).identity.to(device)
    torch.manual_seed(0)
    unet = networks.make_unet(size, "aligned").to(device)
    tokens, cameras = _inputs(networks.avatar(size), batch, device)
    enlarge = identity.superresolution.fold(identity.w)

    def step(planes: Tensor, picture: Callable[[Tensor], Tensor]) -> None:
        delta = unet(tokens, planes)
        view = identity.render(identity.planes + delta, cameras)
        picture(view.features).float().abs().mean().backward()
        unet.zero_grad(set_to_none=True)

    def ours() -> None:
        with torch.autocast(device, torch.bfloat16):
            step(identity.planes, enlarge)

    def reference() -> None:
        with literal():
            step(
                identity.planes.expand(batch, -1, -1, -1, -1),
                lambda features: identity.superresolution(features, identity.w.expand(batch, -1)),
            )

    return {"ours": ours, "reference": reference}


def _inputs(avatar: talk3d.Avatar, batch: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, networks.TOKENS, networks.CONDITION, generator=generator)
    cameras = torch.stack([avatar.identity.config.camera(3.0 * index) for index in range(batch)])
    return tokens.to(device), cameras.to(device)


def measure(what: str, batch: int, sides: Sides, rounds: int, device: str) -> Iterator[Row]:
    """Run all sides in turns, and compare each with the reference."""
    calls = dict.fromkeys(sides, 1)
    taken: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, int | None] = dict.fromkeys(sides)
    for side, run in sides.items():
        for _ in range(WARM_UP if device == "cuda" else 1):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, start = torch.cuda.memory_allocated(), time.perf_counter()
            run()
            torch.cuda.synchronize()
            calls[side] = min(max(round(TURN / (time.perf_counter() - start)), 1), CALLS)
            peaks[side] = torch.cuda.max_memory_allocated() - before
    for side, _ in interleave(list(sides), rounds):
        start = time.perf_counter()
        for _ in range(calls[side]):
            sides[side]()
        if device == "cuda":
            torch.cuda.synchronize()
        taken[side].append((time.perf_counter() - start) / calls[side])
    for side, seconds in taken.items():
        ratio = ratios(taken["reference"], seconds)
        rate = Spread(tuple(batch / each for each in seconds))
        yield Row(what, side, batch, rate.median, ratio.median, ratio.bound, peaks[side])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="small networks, which say nothing of speed")
    parser.add_argument("--compile", action="store_true", help="at last the first batch against torch.compile: minutes")
    parser.add_argument("--json", type=Path, help="write rows to this file, too")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("frames: --device cuda needs an NVIDIA GPU, and torch finds none", file=sys.stderr)
        return 1
    size, device = QUICK if options.quick else FULL, options.device
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rows: list[dict[str, object]] = []
    found: dict[str, object] = {"device": name, "torch": torch.__version__, "rows": rows}

    def keep() -> None:  # after each step: the next one may be one too many
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")

    def compare(what: str, batch: int, sides: Sides) -> None:
        try:
            measured = list(measure(what, batch, sides, options.rounds, device))
        except torch.OutOfMemoryError as error:  # of the reference, which keeps everything
            print(f"{what}, batch {batch}: {error}", file=sys.stderr)
            return
        for row in measured:
            rows.append(asdict(row))
            # a rate belongs to a GPU with a name; of a processor only the ratio is said
            rate = f"{row.per_second:.1f} a second, " if device == "cuda" else ""
            peak = "" if row.peak_bytes is None else f", {row.peak_bytes / 2**20:.0f} MiB"
            compared = f"{row.ratio:.2f} x [{row.at_least:.2f}]"
            print(f"{what}, batch {batch}, {row.side}: {rate}{compared}{peak}", flush=True)
        keep()

    print(f"{name}, torch {torch.__version__}, {'quick' if options.quick else 'published'} sizes", flush=True)
    first, *others = options.batches
    compare("frames", first, frames(size, first, device, compiled=False))
    spent = budget(copy.deepcopy(networks.avatar(size)), dtype=torch.bfloat16, device=device, rounds=options.rounds)
    stages = {name: spread.median for name, spread in spent.baked.milliseconds.items()}
    found["milliseconds"] = stages
    keep()
    for stage, milliseconds in stages.items():
        print(f"budget, {stage}: {100 * milliseconds / stages[FRAME]:.1f} %", flush=True)
    for batch in TRAINED:
        compare("training", batch, training(size, batch, device))
    for batch in others:
        compare("frames", batch, frames(size, batch, device, compiled=False))
    if options.compile:
        try:
            fast = networks.avatar(size).bake(torch.bfloat16, device=device, superresolution="fastest", batch=first)
            found["superresolution"] = asdict(fast.choice)
            keep()
            ratio = fast.choice.compiled / fast.choice.plain
            print(f"super-resolution: {fast.choice.kept} is kept, compiled takes {ratio:.2f} x of plain", flush=True)
        except RuntimeError as error:
            print(f"super-resolution: {error}", file=sys.stderr)
        compare("compiled frames", first, frames(size, first, device, compiled=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
