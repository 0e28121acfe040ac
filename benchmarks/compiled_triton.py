"""Counts of the Triton kernels, compiled ahead of time: rows of ``results/kernels.csv``.

    python benchmarks/compiled_triton.py [ARCH...]        # every architecture, by default
    python benchmarks/compiled_triton.py --json ARCH...   # prints alone, without what renders, and keeps nothing

Instructions and special functions (MUFU) are those that a warp executes for one number of the result, at the sizes of a
frame, and of ``render_rays`` for one of 48 + 48 samples; ``shared_bytes`` include what a launch asks for. AMD's code is
compiled, and its instructions are not counted. An architecture takes some ten minutes of a core, and has a process.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import compiled

PREFIX = "triton "
ARCHS = [*(f"sm_{arch}" for arch in compiled.ARCHS), "gfx942"]
TESTED = ("sm_80", "sm_90", "gfx942")  # in each run of the tests: they differ most. test_compile.py has what renders


def count(arch: str, *, rendering: bool = True) -> list[dict[str, str]]:
    """Count every kernel for an architecture of the table, or every one but those that render."""
    os.environ.pop("TRITON_INTERPRET", None)  # read when triton is imported
    from talk3d.kernels import ahead_frame

    rows = [ahead_frame.count(launch, arch) for launch in ahead_frame.launches()]
    return [*rows, *ahead_frame.count_rendering(arch)] if rendering else rows


def main(arguments: list[str]) -> int:
    """Count, print, and keep."""
    if "--json" in arguments:
        archs = [argument for argument in arguments if argument != "--json"]
        print(json.dumps([row for arch in archs for row in count(arch, rendering=False)]))
        return 0
    archs = arguments or ARCHS
    with ProcessPoolExecutor(min(len(archs), os.cpu_count() or 1), get_context("spawn")) as pool:
        for arch, rows in zip(archs, pool.map(count, archs), strict=True):
            compiled.keep(rows, lambda found, arch=arch: found["kernel"].startswith(PREFIX) and found["arch"] == arch)
            compiled.show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
