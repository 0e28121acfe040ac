"""How far each stage of a frame is from what a GPU could do at most: roofline.py's five roofs, beyond the renderer.

    python benchmarks/stages.py frames.json [--rates FILE] [--quick]

``frames.json`` is what ``frames.py --json`` wrote. Work is counted from the operators of a baked frame, which runs on
the CPU for that, in the layout and types of a GPU:

- *dram*, and *l2* where nothing better is known: every operand read once, every result written once;
- *tensor*: torch's count of matrix products, convolutions and attention; the renderer's decoder three times in float32;
- *l1*: what 64 x 256 products at a time, the most that tensor cores take from shared memory, read of their operands;
- *issue*: instructions of our kernels from ``results/kernels.csv``; of cuDNN and attention the ``mma.m16n8k16`` alone.

All are floors: what a library does besides is not in them. Budgets of frames.py are of launched kernels, not replayed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import compiled
import networks
import roofline
from case import FULL, QUICK, Size
from roofline import ROOFS, Rates, Work
from talk3d.bench.meter import flop
from talk3d.bench.traffic import Call, calls
from talk3d.models.baked import _pencils
from talk3d.ops import border_planes

STAGES = ("unet.mid", "unet.up", "compose", "render", "sr")  # of the published networks

_INSTRUCTION = 2 * 16 * 8 * 16  # operations of an mma.m16n8k16
_OPERANDS = 2 * (64 + 256) * 16 / (2 * 64 * 256 * 16)  # bytes of 16 bits that wgmma.m64n256k16 reads for an operation


@dataclass(frozen=True)
class Counted:
    """What a frame does in a stage.

    Attributes:
        flop: Of matrix products, convolutions and attention, and of the renderer's samples.
        calls: Operators.
    """

    flop: float
    calls: list[Call]

    @property
    def moved(self) -> float:
        """Bytes, as a GPU moves them."""
        return float(sum(call.moved + _kept(call) for call in self.calls))


def count(size: Size = FULL) -> dict[str, Counted]:
    """Run a baked frame of random networks on the CPU, and count."""
    avatar = networks.avatar(size)
    baked = avatar.bake(torch.bfloat16)
    baked._rest = border_planes(avatar.identity.planes, "zy")  # the layout that CUDA is given
    tokens = torch.zeros(1, networks.TOKENS, networks.CONDITION)
    pencils = _pencils(avatar.identity.config.camera(10.0)[None])

    def frame() -> None:
        with torch.inference_mode():
            baked._frame(tokens, pencils, size.rays)

    operations, found = flop(frame), calls(frame)
    stages = {}
    for stage in STAGES:
        there = [call for call in found if call.range.startswith(stage)]
        if there:
            worked = sum(value for name, value in operations.items() if name.startswith(stage))
            # of the bilinear taps torch knows nothing: four products and sums for each of 32 channels of three planes
            worked += 2 * 4 * 32 * 3 * size.samples if stage == "render" else 0
            stages[stage] = Counted(worked, there)
    return stages


def work(size: Size, counted: Mapping[str, Counted], arch: str) -> dict[str, Work]:
    """What each stage does, in the units of the roofs."""
    kernels = {row["kernel"]: row for row in compiled.ledger() if row["arch"] == arch}
    found = {}
    for stage, one in counted.items():
        executed = [(kernels[name], numbers) for call in one.calls for name, numbers in _kernels(call)]
        issue = sum(float(row["instructions_per_sample"]) * numbers for row, numbers in executed)
        mufu = sum(float(row["mufu_per_sample"]) * numbers for row, numbers in executed)
        if stage == "render":
            renderer = roofline.render_work(size, 4, kernels, backward=False)
            found[stage] = replace(renderer, dram=one.moved, issue=renderer.issue + issue, mufu=renderer.mufu + mufu)
            continue
        issue += sum(map(_library, one.calls)) / _INSTRUCTION
        found[stage] = Work(one.moved, one.moved, max(one.moved, one.flop * _OPERANDS), one.flop, issue, mufu)
    return found


def _kernels(call: Call) -> Iterator[tuple[str, float]]:
    """Rows of ``kernels.csv`` that an operator of ours launches, and how many of their numbers it makes."""
    made, dtype = math.prod(call.results[0]), "bfloat16"
    if call.name == "add_planes":
        yield f"add_planes, float32 and {dtype}", made / 32  # for each texel
    elif call.name == "pencil_rays":
        yield "triton pencil_rays, fixed limits", made
    elif call.name == "token_attention":
        planes, tokens = call.shapes[:2]
        heads = next(option for option in call.options if isinstance(option, int))
        yield f"triton token_attention, {dtype}", made
        yield f"triton token_attention, folding, {dtype}", tokens[0] * heads * _power_of_2(tokens[1]) * planes[3]
    elif call.name == "plane_linear_act":
        normalise, gate = call.options[:2]
        what = "residual" if not normalise else "norm and gate" if gate else "norm"
        yield f"triton plane_linear_act, {what}, {dtype}", made
    elif call.name in ("rollout_conv_act", "plane_conv_act"):
        channels = call.shapes[0][-3]
        yield f"triton {call.name}, {dtype}", made * channels / 64  # which were counted with 64, one step of the loop
        if call.name == "rollout_conv_act":
            batch, _, _, _, side = call.shapes[0]
            out = call.shapes[1][1]
            yield f"triton rollout_conv, means, {dtype}", 6 * batch * side * channels * side / 128  # texels of a row
            yield f"triton rollout_conv, profiles, {dtype}", 18 * batch * side * out * channels / 64
    elif call.name == "resample2d":
        yield f"triton resample2d, up 2, {dtype}", made
    elif call.name == "resample2d_bias_act":
        yield f"triton resample2d_bias_act, {dtype}", made
    elif call.name == "act_rgb":
        what = "256 channels" if _kept(call) else "128 channels, last"
        yield f"triton act_rgb, {what}, {dtype}", math.prod(call.shapes[0])


def _kept(call: Call) -> int:
    """Bytes of activations that ``act_rgb`` leaves behind on a GPU; on a CPU the convolution before it does."""
    return 2 * math.prod(call.shapes[0]) if call.name == "act_rgb" and call.range.startswith("sr.b0") else 0


def _library(call: Call) -> float:
    """Operations that cuDNN or attention does."""
    if call.name == "conv3x3_bias_act":
        return 2 * math.prod(call.results[0]) * math.prod(call.shapes[1][1:])
    if call.name == "conv_transpose2d":
        return 2 * math.prod(call.shapes[0]) * math.prod(call.shapes[1][1:])
    if "scaled_dot_product" in call.name:
        return 4 * math.prod(call.shapes[0]) * call.shapes[1][2]
    return 0


def _power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def table(milliseconds: Mapping[str, float], given: Rates, works: Mapping[str, Work]) -> list[dict[str, str]]:
    """One row for each stage: time, floors in microseconds, the roof that binds, and how much of it.

    GFLOP are those of tensor cores: of the renderer, three products for float32, and coarse samples twice.
    """
    taken: dict[str, float] = defaultdict(float)
    for name, value in milliseconds.items():
        for stage in works:
            if name == stage or (stage == "unet.up" and name.startswith(stage)):
                taken[stage] += value
    rows = []
    for stage, one in works.items():
        floors = one.floors(given)
        binding = max(floors, key=floors.__getitem__)
        rows.append(
            {
                "stage": stage,
                "us": f"{1e3 * taken[stage]:.1f}",
                "GFLOP": f"{one.tensor / 1e9:.2f}",
                "MB": f"{one.dram / 1e6:.1f}",
                **{roof: f"{floors[roof] * 1e6:.1f}" for roof in ROOFS},
                "binding": binding,
                "percent": f"{1e5 * floors[binding] / taken[stage]:.0f}" if taken[stage] else "",
            }
        )
    return rows


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("times", type=Path, help="what frames.py wrote")
    parser.add_argument("--rates", type=Path, default=roofline.HERE / "results" / "rates.json")
    parser.add_argument("--gpu", default="nvidia-h200", help="whose rates (default: %(default)s)")
    parser.add_argument("--arch", default="sm_90", help="whose counts (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="of the small networks of frames.py --quick")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL
    try:
        given = roofline.rates(options.rates, options.gpu)
        found = json.loads(options.times.read_text())
        if "milliseconds" not in found:
            raise ValueError(f"{options.times} has no budget of a frame: frames.py --json writes one")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = table(found["milliseconds"], given, work(size, count(size), options.arch))
    print(f"times of {found['device']}, rates of {options.gpu}: {asdict(given)}")
    for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
        print("  ".join(f"{value:>8}" for value in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
