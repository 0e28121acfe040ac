"""Counts of the Triton kernels around the renderer, compiled ahead of time: rows of ``results/kernels.csv``.

    python benchmarks/compiled_triton.py [--json]         # prints alone, and keeps nothing

Instructions and special functions (MUFU) are those that a warp executes for one number of the result, at the sizes of a
frame; ``shared_bytes`` include what a launch asks for. AMD's code is compiled, and its instructions are not counted.
"""

from __future__ import annotations

import json
import os
import sys

import compiled

PREFIX = "triton "


def count() -> list[dict[str, str]]:
    """Count every kernel for every architecture of the table."""
    os.environ.pop("TRITON_INTERPRET", None)  # read when triton is imported
    from talk3d.kernels import ahead_frame

    return [ahead_frame.count(launch, arch) for launch in ahead_frame.launches() for arch in ahead_frame.TARGETS]


def main(arguments: list[str]) -> int:
    """Count, print, and keep."""
    rows = count()
    if "--json" in arguments:
        print(json.dumps(rows))
        return 0
    compiled.keep(rows, lambda found: found["kernel"].startswith(PREFIX))
    compiled.show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
