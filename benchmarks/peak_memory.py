"""Peak memory of a case, measured in a process of its own.

``python benchmarks/peak_memory.py CASE SIDE`` prints the bytes that ``SIDE`` (``peer`` or one of our implementations)
needs above inputs, outputs and gradients.

The kernel's high-water mark of resident memory counts everything: tensors, scratch buffers of native code, allocator
waste. What is not the case's own is kept out of it: a small run first loads code and starts threads, freed memory goes
back to the system, and the mark is reset. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

from case import FULL, QUICK, Run, Size, Tensors
from cases import CASES

RESOLUTION = 2**20  # bytes; the kernel counts pages in batches for each thread, and less than this is not told apart


def measure(case: str, side: str, *, quick: bool, threads: int, device: str = "cpu") -> int:
    """Run :func:`extra` in a fresh process.

    Args:
        case: A name of ``CASES``.
        side: ``"peer"``, or an implementation.
        quick: Measure the small size, to see whether it works.
        threads: Threads of torch.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Bytes above inputs, outputs and gradients, at least :data:`RESOLUTION`.
    """
    command = [
        sys.executable,
        __file__,
        case,
        side,
        "--threads",
        str(threads),
        "--device",
        device,
        *(["--quick"] if quick else []),
    ]
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


def bind(case: str, side: str, size: Size, device: str = "cpu") -> Run:
    """Make inputs, and bind one side of a case to them."""
    chosen = CASES[case]
    function = chosen.peer(size) if side == "peer" else chosen.ours(size, side)
    return chosen.timed(function, chosen.problem(size, 0).to(device))


def resident(what: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, or ``VmHWM`` at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def size_of(tensors: Tensors) -> int:
    """Bytes of storage, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def extra_on_gpu(case: str, side: str, size: Size) -> int:
    """The same of a GPU's memory, as torch counts what it hands out."""
    bind(case, side, QUICK, "cuda")()
    run = bind(case, side, size, "cuda")
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - size_of(kept)


def main() -> None:
    """Print the bytes that one side of a case needs above inputs, outputs and gradients."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("case", choices=CASES, metavar="case", help="a name of cases.CASES")
    parser.add_argument("side", help="peer, or one of our implementations")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="the small size, to see whether it works")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = extra if options.device == "cpu" else extra_on_gpu
    print(measured(options.case, options.side, QUICK if options.quick else FULL))


if __name__ == "__main__":
    main()
