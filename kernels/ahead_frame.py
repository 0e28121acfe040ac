"""Every Triton kernel compiled ahead of time, at the sizes that a frame has, and counted for the table.

``python -m talk3d.kernels.ahead_frame`` prints registers, spills and instructions; see :mod:`talk3d.kernels.ahead`.
"""

# triton has no types
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from talk3d.kernels import ahead, attention, grouped, linear, norm, pencil, resample, rgb, rollout, tiles, triplane

TARGETS = {f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in ahead.ARCHS} | {
    "gfx942": GPUTarget("hip", "gfx942", 64)
}


@dataclass(frozen=True)
class Launch:
    """A kernel as a frame or a training step launches it.

    Attributes:
        name: What the table calls it.
        kernel: A ``triton.jit`` function.
        arguments: Its constants, and sizes that it can rely on being multiples of 16.
        numbers: How many numbers of the result a program makes.
        types: Types of arguments that are not ``*fp32`` or ``i32``.
        trips: How often each of its loops runs.
    """

    name: str
    kernel: Any
    arguments: dict[str, Any]
    numbers: int
    types: dict[str, str] = field(default_factory=dict)
    trips: tuple[int, ...] = ()


def launches() -> Iterator[Launch]:
    """Every kernel, as the super-resolution and the U-Net of the published sizes launch it."""
    scalars = {"slope": "fp32", "gain": "fp32", "clamp": "fp32", "filter_gain": "fp32"}
    for short, name in (("bf16", "bfloat16"), ("fp32", "float32")):
        pictures = {f"{which}_ptr": f"*{short}" for which in ("x", "y", "bias", "filter", "d_x", "d_y")} | scalars
        tile = tiles.bias_act(256)
        common = {"rows": 65536, "columns": 256, "C": 256, "BIAS": True, "LAST": True, "CLAMP": True}
        numbers = tile["BLOCK_R"] * tile["BLOCK_C"]
        yield Launch(f"bias_act, {name}", resample._bias_act_kernel, common | tile, numbers, pictures)
        flat = {"count": 65536 * 256, "CLAMP": True, "BLOCK": tiles.ELEMENTWISE}
        kernel = resample._bias_act_bwd_kernel
        yield Launch(f"bias_act_backward, {name}", kernel, flat, tiles.ELEMENTWISE, pictures)
        yield from _resamplings(name, pictures)
        yield from _attentions(short, name)
        yield from _rollouts(short, name)
        yield from _norms(short, name)
        yield from _grouped(short, name)
        yield from _linear(short, name)
        yield from _pictures(short, name)
    scalars = dict.fromkeys(("step", "near", "far", "half", "nearest", "share"), "fp32")
    for auto in (False, True):
        constants = {"AUTO": auto, "BLOCK": tiles.RAYS}
        where = "box" if auto else "fixed limits"
        yield Launch(f"pencil_rays, {where}", pencil._rays_kernel, constants, 8 * tiles.RAYS, scalars)


def _resamplings(name: str, types: dict[str, str]) -> Iterator[Launch]:
    plain = {"BIAS": False, "ACTIVATE": False, "CLAMP": False}
    sizes = {"C": 128, "stride_b": 16, "stride_c": 1, "stride_h": 16, "stride_w": 128}
    for what, up, down, options in (
        ("resample2d_bias_act", 1, 1, {"BIAS": True, "ACTIVATE": True, "CLAMP": True}),
        ("resample2d, up 2", 2, 1, plain),
        ("resample2d, down 2", 1, 2, plain),
    ):
        tile = tiles.resample(128, True, [up, up], [down, down])
        constants = {"UP": (up, up), "DOWN": (down, down), "FH": 4, "FW": 4, "FLIP": False, "LAST": True, **options}
        numbers = tile["ROWS"] * tile["TILE_W"] * tile["BLOCK_C"] * up**2
        odd = dict.fromkeys(("H", "W", "OH", "OW", "first_x", "first_y", "shift_x", "shift_y", "across", "along"), 1)
        yield Launch(f"{what}, {name}", resample._resample_kernel, sizes | odd | constants | tile, numbers, types)


def _attentions(short: str, name: str) -> Iterator[Launch]:
    """Texels of 256 channels, 4 heads, 5 tokens of 64 channels."""
    multiplied = {
        "OPERAND": attention.OPERANDS[getattr(torch, name)],
        "PRECISION": tiles.precision(getattr(torch, name)),
    }
    tensors = ("tokens", "query", "key", "value", "out", "planes", "norm", "norm_bias", "out_bias", "planes_out", "map")
    outputs = ("d_out", "d_planes", "normalised", "probabilities", "d_scores")
    types = {f"{tensor}_ptr": f"*{short}" for tensor in (*tensors, *outputs)} | {"scale": "fp32", "eps": "fp32"}
    sizes = {
        "B": 1,
        "N": 1024,
        "D": 256,
        "T": 5,
        "stride_b": 16,
        "stride_p": 16,
        "stride_n": 256,
        "width": 64,
        "heads": 4,
    }
    fold = tiles.fold_tokens(256, 5, 4, 64)
    kernel, numbers = attention._fold_kernel, fold["TOKENS"] * fold["BLOCK_D"]
    yield Launch(f"token_attention, folding, {name}", kernel, {**sizes, "E": 64, **multiplied, **fold}, numbers, types)
    tile = tiles.token_attention(256, 5, 4, many=name == "float32")
    kernel, numbers = attention._attend_kernel, tile["BLOCK_N"] * tile["BLOCK_D"]
    yield Launch(f"token_attention, {name}", kernel, {**sizes, "MAP": False, **multiplied, **tile}, numbers, types)
    tile = tiles.token_attention(256, 5, 4, many=True)
    kernel, numbers = attention._attend_bwd_kernel, tile["BLOCK_N"] * tile["BLOCK_D"]
    yield Launch(f"token_attention_backward, {name}", kernel, {**sizes, **multiplied, **tile}, numbers, types)


def _rollouts(short: str, name: str) -> Iterator[Launch]:
    """Planes of 128 x 128 with 64 channels."""
    which = ("texels", "weight", "first", "second", "third", "bias", "out")
    types = {f"{tensor}_ptr": f"*{short}" for tensor in which} | {"factor": "fp32"}
    sizes = {"B": 1, "R": 128, "C": 64, "O": 64, "laid_bits": 1, "kept_bits": 1}
    tile = tiles.rollout_pool(128, 64)
    yield Launch(f"rollout_conv, means, {name}", rollout._pool_kernel, sizes | tile, tile["BLOCK_C"], types)
    tile = tiles.rollout_response(64, 64)
    dtype = getattr(torch, name)
    multiplied = {"OPERAND": attention.OPERANDS[dtype], "PRECISION": tiles.precision(dtype)}
    kernel, numbers = rollout._respond_kernel, 3 * tile["BLOCK_R"] * tile["BLOCK_O"]
    strides = {"stride_p": 64 * 64 * 27, "stride_o": 64 * 27, "stride_c": 9, "stride_h": 3, "stride_w": 1}
    yield Launch(f"rollout_conv, profiles, {name}", kernel, sizes | strides | multiplied | tile, numbers, types)
    tile = tiles.rollout_add(64)
    kernel, numbers = rollout._add_kernel, tile["BLOCK_W"] * tile["BLOCK_C"]
    yield Launch(f"rollout_conv, sum, {name}", kernel, sizes | {"BIAS": True, "ENDS": True} | tile, numbers, types)


def _norms(short: str, name: str) -> Iterator[Launch]:
    """Planes of 128 x 128 with 64 channels in groups of 8."""
    types = {f"{tensor}_ptr": f"*{short}" for tensor in ("x", "bias", "weight", "offset", "y")}
    types |= {"eps": "fp32", "slope": "fp32"}
    tile = tiles.group_norm(128 * 128, 64, 8)
    sizes = {"N": 128 * 128, "C": 64, "batch": 1, "BIAS": True, "PADDED_PARTS": tile["PARTS"], **tile}
    kernel, trips = norm._statistics_kernel, (tile["PART"] // tile["BLOCK_N"],) * 2
    yield Launch(f"group_norm_act, statistics, {name}", kernel, sizes, tile["PART"] * 64, types, trips)
    kernel = norm._normalise_kernel
    yield Launch(f"group_norm_act, {name}", kernel, sizes, tile["BLOCK_N"] * 64, types)


def _grouped(short: str, name: str) -> Iterator[Launch]:
    """Planes of 128 x 128 with 64 channels."""
    types = {f"{tensor}_ptr": f"*{short}" for tensor in ("x", "weight", "bias", "y")} | {"slope": "fp32"}
    dtype = getattr(torch, name)
    tile = tiles.grouped(64, 64, dtype)
    sizes = {"B": 1, "H": 128, "W": 128, "C": 64, "O": 64, "stride_c": 1, "laid_bits": 1, **tile}
    multiplied = {"OPERAND": attention.OPERANDS[dtype], "PRECISION": tiles.precision(dtype)}
    numbers, kernel = tile["BLOCK_N"] * tile["BLOCK_O"], grouped._conv_kernel
    for operator, rolls, own in (("plane_conv_act", False, 64), ("rollout_conv_act", True, 192)):
        strides = {"stride_t": own, "stride_o": 9 * own, "stride_p": 64 * 9 * own + rolls * 64}
        constants = sizes | strides | multiplied | {"BIAS": not rolls, "ROLLOUT": rolls}
        yield Launch(f"{operator}, {name}", kernel, constants, numbers, types, (9,))


def _linear(short: str, name: str) -> Iterator[Launch]:
    """Texels of 256 channels; behind the gate there are 1024."""
    types = {f"{tensor}_ptr": f"*{short}" for tensor in ("x", "weight", "bias", "residual", "y")} | {"eps": "fp32"}
    dtype = getattr(torch, name)
    multiplied = {"OPERAND": attention.OPERANDS[dtype], "PRECISION": tiles.precision(dtype)}
    for what, width, out, norm_, gate in (
        ("norm", 256, 768, True, False),
        ("norm and gate", 256, 1024, True, True),
        ("residual", 1024, 256, False, False),
    ):
        tile = tiles.plane_linear(width, out, dtype)
        strides = {"stride_p": 1024 * width, "stride_n": width, "residual_p": 1024 * out, "residual_n": out}
        sizes = {"N": 1024, "D": width, "O": out, "M": 1, **strides, **tile}
        options = {"NORMALISE": norm_, "GATE": gate, "RESIDUAL": not norm_}
        numbers, steps = tile["BLOCK_N"] * tile["BLOCK_O"], width // tile["BLOCK_D"]
        kernel, constants = linear._linear_kernel, sizes | options | multiplied
        yield Launch(f"plane_linear_act, {what}, {name}", kernel, constants, numbers, types, (steps,))


def _pictures(short: str, name: str) -> Iterator[Launch]:
    """The last block of the super-resolution: 512 x 512 pixels of 128 channels, which nobody keeps."""
    types = {f"{tensor}_ptr": f"*{short}" for tensor in ("x", "bias", "weight", "rgb_bias", "filter", "y")}
    types |= dict.fromkeys(("slope", "gain", "clamp", "rgb_clamp"), "fp32")
    for what, channels, side, keep in (("256 channels", 256, 256, True), ("128 channels, last", 128, 512, False)):
        tile = tiles.act_rgb(channels)
        sizes = {"H": side, "W": side, "C": channels, "stride_b": 16, "stride_c": 1, "stride_h": 16, "stride_w": 32}
        options = {"BIAS": True, "UP": True, "KEEP": keep, "CLAMP": True, "RGB_CLAMP": True}
        numbers = tile["BLOCK_N"] * tile["BLOCK_C"]
        yield Launch(f"act_rgb, {what}, {name}", rgb._act_rgb_kernel, sizes | options | tile, numbers, types)


def count(launch: Launch, arch: str) -> dict[str, str]:
    """Registers, spills, shared memory, and instructions that a warp executes for a number of the result."""
    found = {"kernel": f"triton {launch.name}", "arch": arch}
    target = TARGETS[arch]
    if target.backend == "hip":
        return found | _of_amd(launch.kernel, launch.arguments, target, launch.types)
    taken = ahead.inspect(launch.kernel, launch.arguments, int(target.arch), **launch.types)
    return (
        found
        | _of_nvidia(taken)
        | {
            "instructions_per_sample": f"{taken.executed(*launch.trips) / launch.numbers:.3f}",
            "mufu_per_sample": f"{taken.executed(*launch.trips, pattern='MUFU') / launch.numbers:.3f}",
        }
    )


def count_rendering(arch: str) -> Iterator[dict[str, str]]:
    """The same of the kernels of ``render_rays``, for each of its samples, and of ``sample_triplane``, for a number."""
    target = TARGETS[arch]
    amd = target.backend == "hip"
    for dtype in (torch.float16, torch.float32):
        for of, needs in (("", None), (" to planes", (True, False, False)), (" to all", (True, True, True))):
            for step in ahead.passes(dtype, needs=needs, ptx=not amd):
                if of == " to all" and step.name != "field backward":
                    continue  # the others are the same
                name = f"triton render_rays, {step.name}{of if step.name == 'field backward' else ''}, {str(dtype)[6:]}"
                found = {"kernel": name, "arch": arch}
                if amd:
                    yield found | _of_amd(step.kernel, step.arguments, target, step.types)
                else:
                    yield found | of_pass(step, step.inspect(int(target.arch)))
    tile = tiles.sample_triplane(32)
    plain = {"PAIRS": (0, 1, 0, 2, 2, 1), "MEAN": True, "SHARED": True, "C": 32, **tile}
    both = plain | {"NEEDS_PLANES": True, "NEEDS_POINTS": True}
    numbers = tile["BLOCK_M"] * tile["BLOCK_C"]
    kernels = (
        ("", triplane._sample_triplane_fwd_kernel, plain),
        ("_backward", triplane._sample_triplane_bwd_kernel, both),
    )
    for back, kernel, arguments in kernels:
        yield count(Launch(f"sample_triplane{back}", kernel, arguments, numbers, {"scale": "fp32"}), arch)


def of_pass(step: ahead.Pass, taken: ahead.Compiled) -> dict[str, str]:
    """What the table says of a kernel of ``render_rays``."""
    return _of_nvidia(taken) | {
        "instructions_per_sample": f"{step.per_sample(taken):.3f}",
        "mufu_per_sample": f"{step.per_sample(taken, 'MUFU'):.3f}",
    }


def _of_nvidia(taken: ahead.Compiled) -> dict[str, str]:
    return {
        "registers": str(taken.counts["REG"]),
        "spilled_bytes": str(taken.counts["STACK"] + taken.counts["LOCAL"]),
        "shared_bytes": str(taken.shared),
        "loops": str(len(taken.loops)),
    }


def _of_amd(kernel: Any, arguments: dict[str, Any], target: GPUTarget, types: dict[str, str]) -> dict[str, str]:
    """Its loops are not taken apart, so that nothing is said about how often instructions run."""
    if arguments.get("PRECISION", "ieee").startswith("tf32"):
        arguments = arguments | {"PRECISION": "ieee"}  # AMD multiplies float32 as it is
    compiled = ahead.compile_ahead(kernel, arguments, target, **types)
    code = compiled.asm["amdgcn"]
    registers, spilled = (
        re.search(rf"\.{name}:\s+(\d+)", code)[1]  # type: ignore[index]  # every kernel has them
        for name in ("vgpr_count", "vgpr_spill_count")
    )
    return {
        "registers": registers,
        "spilled_bytes": str(4 * int(spilled)),
        "shared_bytes": str(compiled.metadata.shared),
    }


def main() -> None:
    """Print what is counted for the architectures that are named, or for all."""
    for arch in sys.argv[1:] or TARGETS:
        for launch in launches():
            print("  ".join(f"{key}={value}" for key, value in count(launch, arch).items()), flush=True)


if __name__ == "__main__":
    main()
