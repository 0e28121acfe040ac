"""A step of the driver's training against its literal form: time, and bytes kept for the backward.

    python benchmarks/training_step.py DATASET [--preset demo] [--rounds 9] [--json]

Time: one frame, the whole view, all losses and the backward, on what `talk3d prepare` made. The literal form is the
same stage with `talk3d.reference` under it, differentiated by autograd: dense roll-out, the way down for each sample,
a super-resolution that modulates its weights, every intermediate kept. Both run in turns in one process.

Bytes: U-Net and renderer alone at the published sizes, 128 x 128 rays, 48 + 48 samples; every storage that autograd
saves counts once, weights do not. "Recomputed" is with `driver.recompute`; inputs of what is computed again count too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import frames
from paired import Spread, interleave, ratios
from talk3d.data.dataset import Dataset
from talk3d.memory import keep_freed_memory
from talk3d.models import DeltaUNet, Identity, SceneConfig
from talk3d.ops import RenderOptions
from talk3d.training.config import PRESETS, FitConfig
from talk3d.training.driver import DriverStage
from talk3d.training.fit import _context
from talk3d.training.loop import generator_of
from talk3d.training.perceptual import Perceptual


def make_stage(data: Path, config: FitConfig) -> DriverStage:
    """The driver's stage over an identity that is opaque here and there."""
    driver = replace(config.driver, batch=1, window=1, part=1.0)
    torch.manual_seed(0)
    context = _context(Dataset(data), replace(config, driver=driver), torch.device("cpu"))
    nn.init.normal_(context.identity.planes)
    nn.init.constant_(context.identity.decoder.output.bias[:1], 2.0)
    stage = DriverStage(context, Perceptual())
    stage.begin()
    return stage


def seconds_of(stage: DriverStage) -> float:
    """One step, but for the optimiser's."""
    start = time.perf_counter()
    terms = stage.losses(0, generator_of(0, "driver", 0))
    torch.stack(list(terms.values())).sum().backward()
    taken = time.perf_counter() - start
    stage.driver.zero_grad(set_to_none=True)
    return taken


@contextmanager
def unfolded(stage: DriverStage) -> Iterator[None]:
    """Use the super-resolution as it was trained, if the step has one."""
    folded, identity = stage._enlarge, stage.context.identity
    if folded is not None:
        stage._enlarge = lambda features, part: identity.superresolution(features, identity.w[None])  # type: ignore[assignment]
    try:
        yield
    finally:
        stage._enlarge = folded


@contextmanager
def literal(unet: DeltaUNet) -> Iterator[None]:
    """Call the reference of each operator as it stands, and the whole U-Net for each sample."""
    forward = unet.forward
    unet.forward = lambda tokens, planes: forward(tokens, planes.expand(len(tokens), -1, -1, -1, -1))  # type: ignore[method-assign]
    try:
        with frames.literal():
            yield
    finally:
        unet.forward = forward  # type: ignore[method-assign]


def times(stage: DriverStage, rounds: int) -> tuple[Spread, Spread]:
    """How many times less ours takes than the literal form, and the seconds of that."""
    seconds: dict[str, list[float]] = {"ours": [], "literal": []}
    seconds_of(stage)
    for side, _ in interleave(list(seconds), rounds):
        with ExitStack() as stack:
            if side == "literal":
                stack.enter_context(unfolded(stage))
                stack.enter_context(literal(stage.driver.unet))
            seconds[side].append(seconds_of(stage))
    return ratios(seconds["literal"], seconds["ours"]), Spread(tuple(seconds["literal"]))


@contextmanager
def counted(modules: list[nn.Module]) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd saves, but for parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def _count_inputs(unet: DeltaUNet) -> None:
    """Let the hooks see what is kept so that it can be computed again: a product saves its factors."""
    run = unet._run

    def counting(part: Callable[..., Any], *inputs: Any) -> Any:
        one = torch.ones((), requires_grad=True)
        return run(part, *(x * one if isinstance(x, Tensor) else x for x in inputs))

    if unet._recomputes:
        unet._run = counting  # type: ignore[method-assign]


def saved_bytes(side: str) -> int:
    """Bytes kept for the backward of a frame."""
    torch.manual_seed(0)
    options = RenderOptions(axes="zy", near="auto", far="auto")
    identity = Identity(SceneConfig(rendering=options)).requires_grad_(False)
    nn.init.normal_(identity.planes)
    unet, tokens = DeltaUNet(axes="zy").recompute(side == "recomputed"), torch.randn(1, 5, 64)
    with literal(unet) if side == "literal" else nullcontext(), counted([identity, unet]) as found:
        _count_inputs(unet)
        identity.render(identity.planes + unet(tokens, identity.planes), identity.config.camera()[None])
    return sum(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    ratio, seconds = times(make_stage(options.data, PRESETS[options.preset]), options.rounds)
    kept = {side: saved_bytes(side) for side in ("ours", "recomputed", "literal")}
    results: dict[str, Any] = {
        "ratio": ratio.median,
        "quartiles": ratio.quartiles,
        "bound": ratio.bound,
        "literal_seconds": seconds.median,
        "saved_bytes": kept,
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return
    low, high = ratio.quartiles
    print(f"{options.preset}: {ratio.median:.2f} [{low:.2f}, {high:.2f}] times less time, at least {ratio.bound:.2f}")
    for side in ("ours", "recomputed"):
        share = kept["literal"] / kept[side]
        print(f"kept for the backward, {side}: {kept[side] / 2**20:.0f} MiB, 1/{share:.1f} of the literal form's")


if __name__ == "__main__":
    main()
