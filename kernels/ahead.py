"""Triton kernels compiled ahead of time, without a GPU: registers, spills, and instructions that a sample takes.

``python -m talk3d.kernels.ahead`` prints what ``render_rays`` takes on each architecture. An instruction is one of a
warp. Those in a loop count as often as it runs; a block that is skipped where nothing is seen counts as if it never
were, so that the figures are the most that can happen.
"""

# triton has no types
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from talk3d.kernels import march, tiles, volume, volume_backward, volume_forward

ARCHS = (80, 86, 89, 90, 100, 120)
_OPTIONS = ("num_warps", "num_stages")
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Compiled:
    """What the code of a kernel is made of.

    Attributes:
        ptx: The code before ptxas.
        counts: ``REG``, ``STACK`` and ``LOCAL`` (bytes of a thread), ``SHARED`` (bytes, without what a launch adds).
        instructions: Address and text of each machine instruction.
        warps: Warps of a program.
        shared: Bytes of shared memory, with what a launch adds.
    """

    ptx: str
    counts: dict[str, int]
    instructions: list[tuple[int, str]]
    warps: int
    shared: int = 0

    @property
    def loops(self) -> list[tuple[int, int]]:
        """Addresses of the first and last instruction of each loop; those that overlap are one, and waiting is none."""
        jumps = []
        for address, text in self.instructions:
            target = re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)
            if target and int(target[1], 16) < address:
                jumps.append((int(target[1], 16), address))
        waits = [address for address, text in self.instructions if "NANOSLEEP" in text]  # for tensor memory, on sm_100
        jumps = [(start, end) for start, end in jumps if not any(start <= address <= end for address in waits)]
        found: list[tuple[int, int]] = []
        for start, end in sorted(jumps):
            if found and start <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end)
            else:
                found.append((start, end))
        return found

    def executed(self, *trips: int, pattern: str = "") -> int:
        """Instructions that all warps of a program execute, if its loops run so often.

        Raises:
            ValueError: If there is not one number for each loop.
        """
        if len(trips) != len(self.loops):
            raise ValueError(f"there are {len(self.loops)} loops, not {len(trips)}")
        total = 0
        for address, text in self.instructions:
            if re.search(pattern, text):
                times = [n for n, (start, end) in zip(trips, self.loops, strict=True) if start <= address <= end]
                total += times[0] if times else 1
        return total * self.warps


def compile_ahead(kernel: Any, arguments: dict[str, Any], target: GPUTarget, **types: str) -> Any:
    """Compile a kernel as a launch would.

    Args:
        kernel: A ``triton.jit`` function.
        arguments: Its constants, sizes that it can rely on being multiples of 16, and ``num_warps`` and the like.
        target: For example ``GPUTarget("cuda", 90, 32)``.
        types: Types of arguments that are not ``*fp32`` (names in ``_ptr``) or ``i32``.

    Returns:
        Triton's compiled kernel; its ``asm`` holds every stage.
    """
    options = {name: arguments[name] for name in _OPTIONS if name in arguments}
    constants = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
    }
    sixteen = [
        index
        for index, (name, type_) in enumerate(signature.items())
        if type_.startswith("*") or (type_ == "i32" and arguments.get(name, 1) % 16 == 0)
    ]
    attributes = {(index,): [["tt.divisibility", 16]] for index in sixteen}
    return triton.compile(ASTSource(kernel, signature, constants, attributes), target=target, options=options)


def inspect(kernel: Any, arguments: dict[str, Any], arch: int, **types: str) -> Compiled:
    """Compile a kernel for an NVIDIA architecture, such as 90, and take its code apart."""
    compiled = compile_ahead(kernel, arguments, GPUTarget("cuda", arch, 32), **types)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run([_CUOBJDUMP, option, cubin], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    counts = {key: int(count) for key, count in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", code)
    instructions = [(int(address, 16), text) for address, text in found]
    real = [(address, text) for address, text in instructions if not re.match(r"NOP\b", text)]  # padding after the end
    return Compiled(compiled.asm["ptx"], counts, real, compiled.metadata.num_warps, compiled.metadata.shared)


@dataclass(frozen=True)
class Pass:
    """A kernel of ``render_rays`` as it is launched: its arguments, how often its loop runs, and its program's rays."""

    name: str
    kernel: Any
    arguments: dict[str, Any]
    trips: tuple[int, ...]
    rays: int
    types: dict[str, str]

    def inspect(self, arch: int) -> Compiled:
        """Its code for an NVIDIA architecture."""
        return inspect(self.kernel, self.arguments, arch, **self.types)

    def per_sample(self, compiled: Compiled, pattern: str = "") -> float:
        """Instructions of its code that match, for each of a ray's samples, coarse and fine together."""
        samples = self.arguments.get("N") or self.arguments["COARSE"] + self.arguments["FINE"]
        return compiled.executed(*self.trips, pattern=pattern) / (self.rays * samples)


def passes(
    dtype: torch.dtype = torch.float16,
    coarse: int = 48,
    fine: int = 48,
    pairs: tuple[int, ...] = (0, 1, 0, 2, 2, 1),
    needs: tuple[bool, bool, bool] | None = None,
    *,
    ptx: bool = True,
) -> Iterator[Pass]:
    """The kernels of a forward, or of a backward to what ``needs`` says (planes, decoder, rays)."""
    N = coarse + fine
    tile = tiles.render_rays()
    precision, gradient = (f(dtype) if ptx else "ieee" for f in (tiles.precision, tiles.gradient_precision))
    field = {
        "R": 16384, "H": 256, "W": 256, "N": N, "PAIRS": pairs, "SHARED": True, "SQUARE": True,
        "OPERAND": volume.OPERANDS[dtype], "PRECISION": precision, "PTX": ptx, **tile,
    }  # fmt: skip
    types = {"planes_ptr": f"*{volume.OPERANDS[dtype]}", "scale": "fp32", "min_weight": "fp32", "place_ptr": "*i32"}

    def of_field(name: str, kernel: Any, samples: int, **more: object) -> Pass:
        return Pass(name, kernel, field | more, (triton.cdiv(samples, tile["SUB"]),), tile["BLOCK_R"], types)

    def of_rays(name: str, kernel: Any, arguments: dict[str, Any], **more: object) -> Pass:
        return Pass(name, kernel, {"rays": 16384, **arguments, **more}, (), arguments["BLOCK_R"], types)

    if needs:
        yield of_field("tint", volume_backward._tint_kernel, N)
        yield of_rays("march backward", march._march_backward_kernel, tiles.march_backward(N), N=N, WHITE=False)
        names = ("NEEDS_PLANES", "NEEDS_DECODER", "NEEDS_RAYS")
        wanted = dict(zip(names, needs, strict=True))
        yield of_field("field backward", volume_backward._field_backward_kernel, N, D_PRECISION=gradient, **wanted)
        return
    plain = {"JITTER": False, "DISPARITY": False}
    yield of_field("coarse", volume_forward._density_kernel, coarse, FIRST=0, COUNT=coarse, DRAW=True, **plain)
    if fine:
        draw = {"COARSE": coarse, "FINE": fine, "RANDOM": False}
        yield of_rays("draw", march._draw_kernel, tiles.draw(coarse, fine), **draw)
        yield of_field("fine", volume_forward._density_kernel, fine, FIRST=coarse, COUNT=fine, DRAW=False, **plain)
    yield of_rays("march", march._march_kernel, tiles.march(fine, N), COARSE=coarse, FINE=fine, CLAMP=True)
    yield of_field("color", volume_forward._color_kernel, N, WHITE=False)


def main() -> None:
    """Print a table for the architectures that are named, or for all."""
    for arch in [int(name) for name in sys.argv[1:]] or ARCHS:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for needs in (None, (True, False, False), (True, True, True)):
                total, parts = 0.0, []
                for found in passes(dtype, needs=needs):
                    compiled = found.inspect(arch)
                    cost, counts = found.per_sample(compiled), compiled.counts
                    total += cost
                    parts.append(f"{found.name} {cost:.1f} ({counts['REG']} registers, {counts['STACK']} B spilled)")
                what = "forward" if needs is None else "backward" if all(needs) else "backward to planes"
                print(f"sm_{arch} {str(dtype)[6:]} {what}: {total:.1f} a sample: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
