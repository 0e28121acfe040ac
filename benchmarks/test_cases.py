"""Every case against its peer: ``pytest benchmarks``."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest

import peak_memory
from case import FULL, INPUT_SETS, QUICK, Function, Problem, Run, Tensors, finished
from cases import CASES
from gates import Key, Result
from paired import Spread, interleave, measure, psnr, ratios, relative_error
from report import Report


@pytest.mark.parametrize("name", CASES)
def test_time(name: str, benchmark: Any, report: Report) -> None:
    if benchmark.disabled:
        pytest.skip("pytest-benchmark is disabled")
    case, size = CASES[name], QUICK if report.quick else FULL
    if case.gpu and report.device == "cpu":
        pytest.skip("is for GPUs")
    if name not in report.peers:
        pytest.skip(f"{report.peer} does not run it")
    problems = [case.problem(size, seed).to(report.device) for seed in range(INPUT_SETS)]

    def runs(function: Function, problems: list[Problem]) -> list[Run]:
        return [finished(case.timed(function, problem), report.device) for problem in problems]

    layout, peer = _faster(
        {
            layout: runs(report.peers[name](size), [problem.laid_out(layout) for problem in problems])
            for layout in case.layouts
        }
    )
    # twice, to see how far two runs of the same differ
    ours, again = (runs(case.ours(size, report.impl), problems) for _ in range(2))
    exact = [case.exact(size, problem) if case.exact else None for problem in problems]
    turns = count()
    worst: list[float] = []
    psnrs: list[float] = []

    def check(found: dict[str, Tensors]) -> None:
        right = exact[next(turns) % INPUT_SETS] or found["peer"]
        budgets = [2 * relative_error(a, b) + case.tolerance for a, b in zip(found["peer"], right, strict=True)]
        for side in ("ours", "again"):
            errors = [relative_error(a, b) for a, b in zip(found[side], right, strict=True)]
            within = all(error <= budget for error, budget in zip(errors, budgets, strict=True))
            assert within, f"{name}: relative errors {errors}, at most {budgets} are allowed"
            worst.append(max(errors))
        psnrs.append(psnr(found["ours"][0], found["peer"][0]))

    for run in (*ours, *again):
        run()
    rounds = INPUT_SETS if report.quick else case.rounds
    seconds = measure(benchmark, {"ours": ours, "again": again, "peer": peer}, rounds, check)

    ours_seconds = Spread(tuple(seconds["ours"]))
    rate = case.flop(size) / ours_seconds.median / 1e9
    time_ratio, noise = ratios(seconds["peer"], seconds["ours"]), ratios(seconds["again"], seconds["ours"])
    report.results[Key(name, report.peer, "time")] = Result(time_ratio, noise, rate)
    report.results[Key(name, report.peer, "seconds")] = Result(Spread(tuple(seconds["peer"])))
    if case.lossy:
        report.results[Key(name, report.peer, "psnr")] = Result(Spread(tuple(psnrs)))
    benchmark.stats.stats.data[:] = seconds["ours"]  # what pytest-benchmark reports is ours
    benchmark.extra_info.update(
        impl=report.impl,
        threads=report.threads,
        peer_layout=layout,
        ratio=time_ratio.median,
        ratio_bound=time_ratio.bound,
        gflops=rate,
        gbytes_per_second=case.traffic(size) / ours_seconds.median / 1e9,
        worst_relative_error=max(worst),
        peer_seconds=seconds["peer"],
        again_seconds=seconds["again"],
    )


@pytest.mark.parametrize("name", ["render_rays_forward_backward", "render_rays_forward_backward_planes"])
def test_memory(name: str, report: Report) -> None:
    if CASES[name].gpu and report.device == "cpu":
        pytest.skip("is for GPUs")
    if report.peer != "reference":
        pytest.skip("memory is measured against the reference")

    def extra(side: str) -> int:
        return peak_memory.measure(name, side, quick=report.quick, threads=report.threads, device=report.device)

    pairs = [(extra("peer"), extra(report.impl)) for _ in range(1 if report.quick else 3)]
    report.results[Key(name, report.peer, "memory")] = Result(ratios(*zip(*pairs, strict=True)))


def _faster(layouts: dict[str, list[Run]]) -> tuple[str, list[Run]]:
    """The layout with the shortest of three runs, taken in turns: a slow moment must not cost the peer its best."""
    for runs in layouts.values():  # what is compiled or chosen at first
        runs[0]()
    taken: dict[str, list[float]] = {layout: [] for layout in layouts}
    for layout, turn in interleave(list(layouts), 3):
        start = time.perf_counter()
        layouts[layout][turn % INPUT_SETS]()
        taken[layout].append(time.perf_counter() - start)
    return min(layouts.items(), key=lambda item: min(taken[item[0]]))
