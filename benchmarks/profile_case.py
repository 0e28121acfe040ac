"""Run one case for a profiler: a warm-up, then iterations, each in an nvtx range (free when nothing records)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import nvtx  # type: ignore[import-untyped]
import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from case import FULL, INPUT_SETS, QUICK
from cases import CASES


def main(
    case: Annotated[str, tyro.conf.Positional],
    *,
    impl: str = "cpu",
    iterations: int = 10,
    threads: int = 2,
    trace: Path | None = None,
    quick: bool = False,
) -> None:
    """Run one case inside nvtx ranges, for ``nsys profile``, ``ncu --nvtx``, ``perf record`` or torch's own profiler.

    Args:
        case: A name of ``cases.CASES``.
        impl: The implementation, or ``peer``.
        iterations: How many to record, on rotating inputs.
        threads: Threads of torch.
        trace: Record with torch.profiler too: print its table, and write a Chrome trace here.
        quick: Small sizes, to see whether it works.
    """
    if case not in CASES:
        raise SystemExit(f"no case {case!r}; there are {', '.join(CASES)}")
    torch.set_num_threads(threads)
    chosen, size = CASES[case], QUICK if quick else FULL
    function = chosen.peer(size) if impl == "peer" else chosen.ours(size, impl)
    runs = [chosen.timed(function, chosen.problem(size, seed)) for seed in range(INPUT_SETS)]
    with nvtx.annotate("warm-up"):
        for run in runs:
            run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, acc_events=True) if trace else nullcontext() as recorded:
        for iteration in range(iterations):
            with nvtx.annotate(f"{case} {impl}"):
                runs[iteration % INPUT_SETS]()
    if trace and recorded:
        print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
        recorded.export_chrome_trace(str(trace))


if __name__ == "__main__":
    tyro.cli(main)
