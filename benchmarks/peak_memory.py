"""Peak memory of a case, measured in a process of its own.

``python benchmarks/peak_memory.py CASE SIDE`` prints the bytes that ``SIDE`` (``peer`` or one of our implementations)
needs above inputs, outputs and gradients.

The kernel's high-water mark of resident memory counts everything: tensors, scratch buffers of native code, allocator
waste. What is not the case's own is kept out of it: a small run first loads code and starts threads, freed memory goes
back to the system, and the mark is reset. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch
import tyro

from case import FULL, QUICK, Run, Size, Tensors
from cases import CASES

RESOLUTION = 2**20  # bytes; the kernel counts pages in batches for each thread, and less than this is not told apart


def measure(case: str, side: str, *, quick: bool, threads: int) -> int:
    """Run :func:`extra` in a fresh process.

    Args:
        case: A name of ``CASES``.
        side: ``"peer"``, or an implementation.
        quick: Measure the small size, to see whether it works.
        threads: Threads of torch.

    Returns:
        Bytes above inputs, outputs and gradients, at least :data:`RESOLUTION`.
    """
    command = [sys.executable, __file__, case, side, "--threads", str(threads), *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"peak memory of {case}, {side}: {done.stderr.strip()}")
    return max(int(done.stdout), RESOLUTION)


def extra(case: str, side: str, size: Size) -> int:
    """Bytes above inputs, outputs and gradients at the peak of one run."""
    bind(case, side, QUICK)()
    run = bind(case, side, size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; see proc(5)
    kept = run()
    return resident("VmHWM") - before - size_of(kept)


def bind(case: str, side: str, size: Size) -> Run:
    """Make inputs, and bind one side of a case to them."""
    chosen = CASES[case]
    function = chosen.peer(size) if side == "peer" else chosen.ours(size, side)
    return chosen.timed(function, chosen.problem(size, 0))


def resident(what: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, or ``VmHWM`` at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def size_of(tensors: Tensors) -> int:
    """Bytes of storage, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def main(
    case: tyro.conf.Positional[str], side: tyro.conf.Positional[str], threads: int = 2, quick: bool = False
) -> None:
    """Print the bytes that one side of a case needs above inputs, outputs and gradients.

    Args:
        case: A name of ``cases.CASES``.
        side: ``peer``, or one of our implementations.
        threads: Threads of torch.
        quick: The small size, to see whether it works.
    """
    torch.set_num_threads(threads)
    print(extra(case, side, QUICK if quick else FULL))


if __name__ == "__main__":
    tyro.cli(main)
