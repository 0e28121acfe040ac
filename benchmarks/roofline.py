"""How far a kernel is from what a GPU could do at most, by five roofs: DRAM, L2, L1, tensor cores, and instructions.

    python benchmarks/roofline.py OUT.json [--rates FILE]

``OUT.json`` is what ``pytest benchmarks --device cuda --benchmark-json OUT.json`` wrote. A roof's floor is the time
that a kernel needs for it alone; the largest floor binds. The roof of instructions is that of the schedulers, or that
of the special function unit where it is lower: both are paid in issue slots. Two roofs alone would say that the
renderer waits for memory, which it does not.

Instructions come from ``results/kernels.csv``, which counts the compiled code; bytes and operations from the sizes.
Rates are those of ``results/rates.json`` or of such a file, in bytes, operations and warp instructions a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import compiled
from case import FULL, Size
from cases import CASES

HERE = Path(__file__).parent
ROOFS = ("dram", "l2", "l1", "tensor", "issue")


@dataclass(frozen=True)
class Rates:
    """What a GPU does in a second.

    Attributes:
        dram: Bytes read and written.
        l2: Bytes from L2 to the multiprocessors.
        l1: Bytes from L1 to registers.
        tensor: Floating-point operations on 16-bit numbers with sums in float32.
        issue: Warp instructions.
        mufu: Warp instructions of the special function unit.
    """

    dram: float
    l2: float
    l1: float
    tensor: float
    issue: float
    mufu: float


@dataclass(frozen=True)
class Work:
    """What a kernel does, in the units of :class:`Rates`."""

    dram: float
    l2: float
    l1: float
    tensor: float
    issue: float
    mufu: float

    def floors(self, rates: Rates) -> dict[str, float]:
        """Seconds that each roof needs alone."""
        found = {roof: getattr(self, roof) / getattr(rates, roof) for roof in ROOFS}
        found["issue"] = max(found["issue"], self.mufu / rates.mufu)
        return found


def rates(path: Path, gpu: str) -> Rates:
    """Read the rates of a GPU.

    Raises:
        ValueError: If the file does not know it.
    """
    known = json.loads(path.read_text())
    if gpu not in known:
        raise ValueError(f"{path.name} knows {', '.join(known)}, not {gpu}: measure its rates and add them")
    return Rates(**{name: value for name, value in known[gpu].items() if name != "source"})


def render_work(size: Size, texel_bytes: int, kernels: Mapping[str, Mapping[str, str]], *, backward: bool) -> Work:
    """Count the renderer's work: ``kernels`` are the rows of ``kernels.csv`` of one architecture by name.

    Every sample of the first pass is evaluated again in the second; the backward evaluates each twice. Between L2 and
    L1 go the texels that a tile of 8 x 8 rays sees, once a pass, which were counted for the camera of a talking head
    (144 MB at 16 bits and 256 x 256 texels); a gradient goes there for each tap.
    """
    name = f"render_rays{'_backward' if backward else ''}, 3 planes of {'16 bits' if texel_bytes == 2 else 'float32'}"
    row = kernels[name]
    if not row["instructions_per_sample"]:
        raise ValueError(f"kernels.csv does not count the instructions of {name}, {row['arch']}")
    samples = size.samples
    evaluations = 2 * samples if backward else samples + size.rays**2 * size.coarse
    products = 3 if texel_bytes == 4 else 1
    multiplied = 2 * (32 * 64 + 64 * 8 + 64 * 32)  # the density's column stands eight times
    planes = 3 * size.planes**2 * 32
    taps = 12 * 32
    return Work(
        dram=planes * texel_bytes + (planes * 4 + planes * texel_bytes if backward else 0) + 4 * size.rays**2 * 40,
        l2=144e6 * texel_bytes / 2 * (size.planes / 256) ** 2 + (samples * taps * 4 if backward else 0),
        l1=evaluations * taps * texel_bytes,
        tensor=products * multiplied * (evaluations + (samples if backward else 0)),
        issue=float(row["instructions_per_sample"]) * samples,
        mufu=float(row["mufu_per_sample"]) * samples,
    )


WORK = {
    "render_rays_forward": (4, False),
    "render_rays_forward_float16": (2, False),
    "render_rays_backward_planes": (4, True),
    "render_rays_backward_planes_float16": (2, True),
}


def table(seconds: Mapping[str, float], given: Rates, arch: str, size: Size = FULL) -> list[dict[str, str]]:
    """One row for each case that is known: time, floors in microseconds, the roof that binds, and how much of it."""
    kernels = {row["kernel"]: row for row in compiled.ledger() if row["arch"] == arch}
    rows = []
    for name, taken in seconds.items():
        if name not in WORK:
            continue
        texel_bytes, backward = WORK[name]
        floors = render_work(size, texel_bytes, kernels, backward=backward).floors(given)
        binding = max(floors, key=floors.__getitem__)
        rows.append(
            {
                "case": name,
                "us": f"{taken * 1e6:.1f}",
                **{roof: f"{floors[roof] * 1e6:.1f}" for roof in ROOFS},
                "binding": binding,
                "percent": f"{100 * floors[binding] / taken:.0f}",
            }
        )
    return rows


def read(path: Path) -> dict[str, float]:
    """Median seconds of ours by case, of a file that pytest-benchmark wrote."""
    found = {}
    for entry in json.loads(path.read_text())["benchmarks"]:
        name = entry["param"] if entry.get("param") else entry["name"].partition("[")[2].rstrip("]")
        if name in CASES:
            found[name] = float(entry["stats"]["median"])
    return found


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("times", type=Path, help="what pytest-benchmark wrote")
    parser.add_argument("--rates", type=Path, default=HERE / "results" / "rates.json")
    parser.add_argument("--gpu", default="nvidia-h200", help="whose rates (default: %(default)s)")
    parser.add_argument("--arch", default="sm_90", help="whose counts (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        given = rates(options.rates, options.gpu)
        rows = table(read(options.times), given, options.arch)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not rows:
        print(f"{options.times} has no times of {', '.join(WORK)}", file=sys.stderr)
        return 1
    print(f"rates of {options.gpu}: {asdict(given)}")
    for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
        print("  ".join(f"{value:>{36 if column == 'case' else 8}}" for column, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
