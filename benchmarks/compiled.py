"""Counts of the compiled CUDA kernels: registers, spills, loops, executed instructions and MUFU operations per sample.

    python benchmarks/compiled.py                         # compiles csrc/cuda for every architecture with nvcc
    python benchmarks/compiled.py LIBRARY OR CUBIN

writes ``results/kernels.csv`` and prints it. No GPU is needed, and nothing here is a time: on a GPU the kernels are
bound by how fast instructions issue, and this is how many there are.

A kernel's instructions are counted in its loops, all of them, and a loop's body whole, both sides of its branches
included: an upper bound of what runs once, times how often it runs. ``render_rays`` is counted at 48 + 48 samples a ray
and ``min_weight`` 0, for each sample of each ray, and its backward where every sample has a gradient. Of
``sample_triplane`` a sample is a point, of what packs planes a texel: 32 channels, with the code outside of loops.
Where nothing is said of a sample, that depends on how many there are.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import sass
from sass import Compiled

RESULTS = Path(__file__).parent / "results" / "kernels.csv"
SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"
DEFINED = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DUSE_CUDA=1"]  # as in setup.py
COARSE = FINE = 48
RAYS_PER_WARP = 16
# of the texels' sums of two tiles, on three planes: turned by 0.4, samples evenly spread (benchmarks/texel_sums.py)
PRODUCTS, STRIPS = 10, 3
ARCHS = (80, 86, 89, 90, 100, 120)
COLUMNS = (
    *("kernel", "arch", "registers", "spilled_bytes", "shared_bytes"),
    *("loops", "main_loops", "instructions_per_sample", "mufu_per_sample"),
)

Trips = Callable[[Compiled], Sequence[float] | None]


@dataclass(frozen=True)
class Kernel:
    """A kernel of the table.

    Attributes:
        name: What the table calls it.
        pattern: What its mangled name contains.
        shared: Bytes of its dynamic shared memory.
        trips: How often each of its loops runs in a warp, in their order; None where the compiler made other loops.
        samples: How many samples a warp renders meanwhile.
        whole: Whether code outside of loops counts.
    """

    name: str
    pattern: str
    shared: int = 0
    trips: Trips = lambda compiled: None
    samples: int = 1
    whole: bool = False


def render_trips(compiled: Compiled) -> list[int] | None:
    """Loops of ``csrc/cuda/volume_forward.h``; those that do without quantiles and disparity."""
    bins, half = COARSE - 3, (COARSE + FINE) // 2
    steps = (bins + 1).bit_length()
    # the two that multiply matrices tell whether these are the loops
    matrix = [k for k, loop in enumerate(compiled.loops) if loop.count("HMMA")]
    fragments = matrix[0] - 2 if matrix else 0
    others = len(compiled.loops) - fragments - 15
    quantiles = others // 2 * 2  # two loops, which compilers double or not
    rest = others % 2  # what is left of the merge by fours is a loop, or up to three times the same code
    found = [
        *(2, *[1] * (fragments - 1)),  # the decoder's fragments
        *(0, COARSE // 2),  # coarse depths, in disparity or not
        COARSE // 2,  # coarse samples, in pairs
        steps - 1,  # the first step of a search
        *(bins // 4, bins % 4),  # the cumulative distribution
        *[0] * quantiles,  # quantiles that are given are sorted, and used
        *(FINE // 2, FINE // 2 * steps),  # fine depths; the search in the distribution
        *(FINE // 2 % 4, FINE // 8),  # to the rows
        *(half // 4, *[half % 4] * rest),  # merged
        *((COARSE + FINE) // 2 % 4, (COARSE + FINE) // 8),  # all depths
        0,  # coarse depths alone
        (COARSE + FINE) // 2,  # all samples, in pairs
    ]
    return found if quantiles in (2, 4) and matrix == [fragments + 2, len(found) - 1] else None


TYPES = {"of 16 bits": "HalfField", "of float32": "FloatField"}


def fragments(floats: bool) -> int:
    """Bytes of the decoder in shared memory; floats are two halves, but for biases."""
    return (4096 + 4096) * (2 if floats else 1) + (256 if floats else 128) + 512 + 256 + 16


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


def backward_trips(compiled: Compiled, planes: int, wanted: str) -> list[float] | None:
    """Loops of ``csrc/cuda/volume_backward.h``, where every sample has a gradient."""
    samples = COARSE + FINE
    pairs, intervals = samples // 2, samples - 1
    loops = compiled.loops
    matrix = [k for k, loop in enumerate(loops) if loop.count("HMMA")]
    if len(matrix) not in (2, 3):
        return None
    first, second, *products = matrix
    # what the march lets through is summed up in one loop, or in one that is unrolled and one for the rest
    marches = [loop for loop in loops[first + 1 : second - 1] if loop.count("F")]
    clears = [loop for loop in loops[first + 1 : second - 1] if not loop.count("F")]
    march = [intervals // 4, intervals % 4] if len(marches) == 3 else [intervals]
    # the decoder's sums of a warp are cleared by so many stores: the most in the last loop
    clear = [max(DECODER_SUMS // 32 // max(loop.count("STS"), 1), 1) for loop in clears[-1:]]
    found = [
        *[2] * first,  # the decoder's fragments, there and back: some of them once
        pairs,  # all samples, in pairs
        *march,
        intervals,  # the march's derivative
        *[1] * (len(clears) - 1),
        *clear,
        *(pairs, samples),  # pairs again, and of each pair both
    ]
    if products:  # sums of texels: planes, strips, products, and taps where these do not pay
        found += [planes * pairs, STRIPS / 3 * planes * pairs, PRODUCTS / 3 * planes * pairs, 0]
    if wanted:
        found.append(-(-DECODER // 128))  # numbers of the decoder, for each thread
    if wanted == "all in order":  # a first run finds the unit of sums
        found = [2 * trips if k < second - 1 - len(clears) else trips for k, trips in enumerate(found)]
    return found if len(loops) == len(found) and len(march) + 1 == len(marches) else None


DECODER = 32 * 64 + 64 + 64 * 33 + 33
DECODER_SUMS = 38 * 128 + 32  # floats in shared memory of a warp


def _render_backward(planes: int, texels: str, wanted: str = "") -> Kernel:
    """``wanted``: of planes alone, of all, or of all with sums in order."""
    field = TYPES[texels]
    floats = field == "FloatField"
    backward = fragments(floats) + (4096 + 4096) * (2 if floats else 1) + 512 + taps(planes, floats)
    places = 16 if floats else 4 * 3 * 2 * 2 * 32
    sums = 4 * 4 * DECODER_SUMS if wanted else 16
    return Kernel(
        f"render_rays_backward{wanted and f' of {wanted}'}, {planes} planes {texels}",
        f"render_rays_backward_{'all_' if wanted else ''}kernelINS_{len(field)}{field}ILi{planes}E"
        + {"": "E", "all": "EELNS_6WantedE1E", "all in order": "EELNS_6WantedE2E"}[wanted],
        backward + places + 4 * 4 * RAYS_PER_WARP + sums + 64 * 4 * (2 * (COARSE + FINE) | 1),
        lambda compiled: backward_trips(compiled, planes, wanted),
        RAYS_PER_WARP * (COARSE + FINE),
    )


def sampling_trips(compiled: Compiled) -> list[int]:
    """Loops of ``csrc/cuda/triplane.cu`` at 32 channels: planes, and shuffles between the 8 threads of a point."""
    return [3 if loop.count("LDG") or loop.count("SHFL") else 1 for loop in compiled.loops]


def _of_texels(name: str, pattern: str) -> Kernel:
    """A warp has 8 texels, and no loop."""
    return Kernel(name, pattern, trips=lambda compiled: [] if not compiled.loops else None, samples=8, whole=True)


def _sampling(name: str, pattern: str, channels: int) -> Kernel:
    """A warp has as many points as it has room for with so many channels a thread."""
    return Kernel(name, pattern, trips=sampling_trips, samples=32 * channels // 32, whole=True)


MANGLED = {"float32": "f", "float16": "6__half", "bfloat16": "13__nv_bfloat16"}
ADDED = {
    ("float32", "float32"): "ff",
    ("float32", "float16"): "fNS_4HalfE",
    ("float32", "bfloat16"): "fNS_4Bf16E",
    ("float16", "float32"): "NS_4HalfEf",
    ("float16", "float16"): "NS_4HalfES2_",
    ("float16", "bfloat16"): "NS_4HalfENS_4Bf16E",
}
KERNELS = [
    *(_render(planes, texels) for texels in TYPES for planes in (3, 2)),
    *(
        _render_backward(planes, texels, wanted)
        for texels in TYPES
        for planes in (3, 2)
        for wanted in ("", "all", "all in order")
    ),
    *(
        _of_texels(f"{kernel}, {name}", f"{kernel}_kernelI{mangled}")
        for kernel in ("pack_planes", "unpack_gradient", "unpack_fixed")
        for name, mangled in MANGLED.items()
    ),
    *(
        _of_texels(f"add_planes, {one} and {other}", f"add_planes_kernelI{pattern}E")
        for (one, other), pattern in ADDED.items()
    ),
    Kernel("add_blocks", "add_blocks_kernel"),
    Kernel("amplification", "amplification_kernel"),
    *(
        _sampling(
            f"sample_triplane{back}{', one channel a thread' if wide == 1 else ''}",
            f"sample_triplane{back}_kernelILi{wide}E",
            wide,
        )
        for back in ("", "_backward")
        for wide in (4, 1)
    ),
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
    if (trips := kernel.trips(compiled)) is not None:
        runs = list(zip(compiled.loops, trips, strict=True))
        for column, name in (("instructions_per_sample", ""), ("mufu_per_sample", "MUFU")):
            executed = sum(loop.count(name) * trips for loop, trips in runs)
            executed += compiled.outside(name) if kernel.whole else 0
            found[column] = f"{executed / kernel.samples:.2f}"
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


def compile_all(folder: Path, archs: Sequence[int] = ARCHS) -> Iterator[Path]:
    """Compile ``csrc/cuda`` as the build does, to a cubin for each architecture and file."""
    from torch.utils import cpp_extension

    from talk3d import _C

    nvcc = Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc")
    flags = [flag for flag in _C.build()["nvcc_flags"].split() if not flag.startswith("-X")]
    paths = [f"-I{path}" for path in (SOURCES.parent, *cpp_extension.include_paths("cuda"))]
    for source in sorted(SOURCES.glob("*.cu")):
        for arch in archs:
            cubin = folder / f"{source.stem}_{arch}.cubin"
            command = [nvcc, *cpp_extension.COMMON_NVCC_FLAGS, *flags, *paths, *DEFINED, "-cubin", f"-arch=sm_{arch}"]
            subprocess.run([*command, source, "-o", cubin], check=True)
            yield cubin


def main(arguments: list[str]) -> int:
    """Count, print, and keep."""
    if not arguments and installed() is None:
        print("talk3d was built without CUDA kernels: build it, or name a library", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rows = [found for path in map(Path, arguments) for found in count(path)]
        rows += [found for path in compile_all(Path(folder)) for found in count(path)] if not arguments else []
    new = {(found["kernel"], found["arch"]) for found in rows}
    keep(rows, lambda found: (found["kernel"], found["arch"]) in new)
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
