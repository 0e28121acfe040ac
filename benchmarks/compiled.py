"""Counts of the compiled CUDA kernels: registers, spills, loops, executed instructions and MUFU operations per sample.

    python benchmarks/compiled.py [LIBRARY OR CUBIN]      # the library that is installed, by default

writes ``results/kernels.csv`` and prints it. No GPU is needed, and nothing here is a time: on a GPU the kernels are
bound by how fast instructions issue, and this is how many there are.

A kernel's instructions are counted in its loops, all of them, and a loop's body whole, both sides of its branches
included: an upper bound of what runs once, times how often it runs. ``render_rays`` is counted at 48 + 48 samples a ray
and ``min_weight`` 0, for each sample of each ray.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import sass
from sass import Compiled

RESULTS = Path(__file__).parent / "results" / "kernels.csv"
COARSE = FINE = 48
RAYS_PER_WARP = 16
COLUMNS = (
    *("kernel", "arch", "registers", "spilled_bytes", "shared_bytes"),
    *("loops", "main_loops", "instructions_per_sample", "mufu_per_sample"),
)

Trips = Callable[[Compiled], Sequence[int] | None]


@dataclass(frozen=True)
class Kernel:
    """A kernel of the table.

    Attributes:
        name: What the table calls it.
        pattern: What its mangled name contains.
        shared: Bytes of its dynamic shared memory.
        trips: How often each of its loops runs in a warp, in their order; None where the compiler made other loops.
        samples: How many samples a warp renders meanwhile.
    """

    name: str
    pattern: str
    shared: int = 0
    trips: Trips = lambda compiled: None
    samples: int = 1


def render_trips(compiled: Compiled) -> list[int] | None:
    """Loops of ``csrc/cuda/volume_forward.h``; those that do without quantiles and disparity."""
    bins, half = COARSE - 3, (COARSE + FINE) // 2
    steps = (bins + 1).bit_length()
    found = [
        *(2, 1, 1),  # the decoder's fragments
        *(0, COARSE // 2),  # coarse depths, in disparity or not
        COARSE // 2,  # coarse samples, in pairs
        steps - 1,  # the first step of a search
        *(bins // 4, bins % 4),  # the cumulative distribution
        *(0, 0, 0, 0),  # quantiles that are given are sorted, and used
        *(FINE // 2, FINE // 2 * steps),  # fine depths; the search in the distribution
        FINE // 2,  # to the rows
        *(half // 4, half % 4),  # merged
        *(0, (COARSE + FINE) // 2),  # coarse depths alone, all depths
        (COARSE + FINE) // 2,  # all samples, in pairs
    ]
    # the two that multiply matrices tell whether these are the loops
    matrix = [k for k, loop in enumerate(compiled.loops) if loop.count("HMMA")]
    return found if len(compiled.loops) == len(found) and matrix == [5, len(found) - 1] else None


TYPES = {"of 16 bits": "HalfField", "of float32": "FloatField"}


def fragments(floats: bool) -> int:
    """Bytes of the decoder in shared memory; floats are two halves, but for biases."""
    return (4096 + 4096 + 128) * (2 if floats else 1) + 512 + 256 + 16


def taps(planes: int, floats: bool) -> int:
    return 4 * 8 * (4 * 16 * (planes + floats) + 16)


def render_shared(planes: int, floats: bool) -> int:
    """Dynamic shared memory of a block of ``render_rays``: fragments, taps, waiting tiles, rows of 64 rays."""
    waiting = 4 * 2048 * (2 if floats else 1)
    return fragments(floats) + taps(planes, floats) + waiting + 64 * 4 * ((COARSE + max(COARSE, FINE) + 4) | 1)


def _render(planes: int, texels: str) -> Kernel:
    field = TYPES[texels]
    return Kernel(
        f"render_rays, {planes} planes {texels}",
        f"render_rays_kernelINS_{len(field)}{field}ILi{planes}E",
        render_shared(planes, field == "FloatField"),
        render_trips,
        RAYS_PER_WARP * (COARSE + FINE),
    )


def backward_trips(compiled: Compiled) -> list[int] | None:
    """Loops of ``csrc/cuda/volume_backward.h``, where every sample has a gradient."""
    samples = COARSE + FINE
    intervals = samples - 1
    # what the march lets through is summed up in an unrolled loop, or in one that is too long for that
    march = [intervals // 4, intervals % 4] if len(compiled.loops) == 12 else [intervals]
    found = [
        *(2, 1, 1, 2, 1, 1),  # the decoder's fragments, there and back
        samples // 2,  # all samples, in pairs
        *march,
        intervals,  # the march's derivative
        *(samples // 2, samples),  # pairs again, and of each pair both
    ]
    matrix = [k for k, loop in enumerate(compiled.loops) if loop.count("HMMA")]
    return found if len(compiled.loops) == len(found) and matrix == [6, len(found) - 1] else None


def _render_backward(planes: int, texels: str) -> Kernel:
    field = TYPES[texels]
    floats = field == "FloatField"
    shared = (
        fragments(floats) + (4096 + 4096) * (2 if floats else 1) + 512 + taps(planes, floats) + 4 * 4 * RAYS_PER_WARP
    )
    return Kernel(
        f"render_rays_backward, {planes} planes {texels}",
        f"render_rays_backward_kernelINS_{len(field)}{field}ILi{planes}E",
        shared + 64 * 4 * (2 * (COARSE + FINE) | 1),
        backward_trips,
        RAYS_PER_WARP * (COARSE + FINE),
    )


KERNELS = [
    *(_render(planes, texels) for texels in TYPES for planes in (3, 2)),
    *(_render_backward(planes, texels) for texels in TYPES for planes in (3, 2)),
    Kernel("pack_planes, float32", "pack_planes_kernelIff"),
    Kernel("pack_planes, float16", "pack_planes_kernelI6__half"),
    Kernel("pack_planes, bfloat16", "pack_planes_kernelI13__nv_bfloat16"),
    Kernel("unpack_gradient, float32", "unpack_gradient_kernelIf"),
    Kernel("unpack_gradient, float16", "unpack_gradient_kernelI6__half"),
    Kernel("unpack_gradient, bfloat16", "unpack_gradient_kernelI13__nv_bfloat16"),
    Kernel("sample_triplane", "sample_triplane_kernelILi4E"),
    Kernel("sample_triplane_backward", "sample_triplane_backward_kernelILi4E"),
]


def row(kernel: Kernel, compiled: Compiled) -> dict[str, str]:
    """Count one kernel."""
    found = {
        "kernel": kernel.name,
        "arch": compiled.arch,
        "registers": str(compiled.registers),
        "spilled_bytes": str(compiled.spilled),
        "shared_bytes": str(kernel.shared),
        "loops": str(len(compiled.loops)),
        "main_loops": " ".join(str(len(loop.instructions)) for loop in compiled.loops if loop.count("HMMA")),
    }
    if trips := kernel.trips(compiled):
        runs = list(zip(compiled.loops, trips, strict=True))
        executed = sum(len(loop.instructions) * trips for loop, trips in runs)
        mufu = sum(loop.count("MUFU") * trips for loop, trips in runs)
        found["instructions_per_sample"] = f"{executed / kernel.samples:.2f}"
        found["mufu_per_sample"] = f"{mufu / kernel.samples:.2f}"
    return found


def count(library: Path) -> list[dict[str, str]]:
    """Count every kernel of the table in a library or a cubin, for each architecture that is there."""
    compiled = sass.read(library)
    rows = [row(kernel, each) for kernel in KERNELS for each in compiled if kernel.pattern in each.symbol]
    return sorted(rows, key=lambda found: (found["kernel"], int(found["arch"].removeprefix("sm_"))))


def installed() -> Path | None:
    """The library with the kernels of this installation."""
    found = find_spec("talk3d._cuda")
    return Path(found.origin) if found and found.origin else None


def ledger() -> list[dict[str, str]]:
    """Read what was counted last."""
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def keep(rows: list[dict[str, str]], instead: Callable[[dict[str, str]], bool]) -> None:
    """Write rows into the ledger, instead of those that they replace."""
    kept = [found for found in ledger() if not instead(found)] if RESULTS.exists() else []
    beside = RESULTS.with_suffix(".tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            sorted([*kept, *rows], key=lambda found: (found["kernel"], int(re.sub(r"\D", "", found["arch"]))))
        )
    beside.replace(RESULTS)


def show(rows: list[dict[str, str]]) -> None:
    """Print rows."""
    for found in rows:
        print("  ".join(f"{found.get(column, ''):>{max(len(column), 6)}}" for column in COLUMNS))


def main(arguments: list[str]) -> int:
    """Count, print, and keep."""
    library = Path(arguments[0]) if arguments else installed()
    if library is None or not library.is_file():
        print("there are no CUDA kernels to count: build them, or name a library", file=sys.stderr)
        return 1
    rows = count(library)
    new = {(found["kernel"], found["arch"]) for found in rows}
    keep(rows, lambda found: (found["kernel"], found["arch"]) in new)
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
