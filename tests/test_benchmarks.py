"""The benchmarks' own machinery: statistics, gates, ledger, exit code. Nothing here depends on speed."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gates  # noqa: E402
import ledger  # noqa: E402
import paired  # noqa: E402
import peak_memory  # noqa: E402
import profile_case  # noqa: E402
from case import QUICK  # noqa: E402
from cases import CASES  # noqa: E402
from gates import Gate, Key, Result  # noqa: E402
from paired import Spread  # noqa: E402
from report import Report  # noqa: E402


class Clock:
    """Stands in for pytest-benchmark's fixture: a machine on which time passes as the functions say."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, target: Callable, *, setup: Callable, teardown: Callable, rounds: int) -> None:
        for _ in range(rounds):
            args, _ = setup()
            before = self.now
            target(*args)
            self.stats.stats.data.append(self.now - before)
            teardown(*args)


def gate(**fields: object) -> Gate:
    return Gate(**{"case": "a", "peer": "p", "metric": "time", "why": "", **fields})


def result(*values: float) -> Result:
    return Result(Spread(values))


def test_spread():
    spread = Spread((4.0, 1.0, 5.0, 2.0, 3.0))
    assert (spread.median, spread.quartiles) == (3.0, (2.0, 4.0))
    assert Spread((7.0,) * 9).bound == 7.0


@pytest.mark.parametrize("rounds", [5, 15, 21])
def test_bound_is_the_bootstrap_quantile_of_the_median(rounds):
    def at_most(rank: int) -> float:
        """Probability that the median of a resample is among the ``rank`` smallest."""
        p = rank / rounds
        more = range((rounds + 1) // 2, rounds + 1)
        return sum(math.comb(rounds, k) * p**k * (1 - p) ** (rounds - k) for k in more)

    exact = next(rank for rank in range(1, rounds + 1) if at_most(rank) >= 0.05)
    assert Spread(tuple(float(value) for value in range(1, rounds + 1))).bound == exact


def test_each_round_has_every_side_once_in_changing_order():
    sides = ["ours", "again", "peer"]
    order = paired.interleave(sides, 30)
    rounds = [[side for side, turn in order if turn == k] for k in range(30)]
    assert all(sorted(each) == sorted(sides) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 6
    assert order == paired.interleave(sides, 30)


def test_drift_cancels_within_a_round():
    clock, checked, seen = Clock(), [], []

    def side(seconds: float, name: str) -> list[Callable]:
        def run(inputs: int) -> tuple[torch.Tensor, ...]:
            clock.now += seconds * 2.0 ** len(checked)  # the machine slows down from round to round
            seen.append((name, inputs))
            return (torch.tensor(inputs),)

        return [lambda inputs=inputs: run(inputs) for inputs in range(3)]

    def check(found: dict[str, tuple[torch.Tensor, ...]]) -> None:
        checked.append({name: int(values[0]) for name, values in found.items()})

    seconds = paired.measure(clock, {"ours": side(1.0, "ours"), "peer": side(9.0, "peer")}, 6, check)
    assert paired.ratios(seconds["peer"], seconds["ours"]).values == (9.0,) * 6
    assert [found["ours"] for found in checked] == [0, 1, 2, 0, 1, 2]
    assert all(found["ours"] == found["peer"] for found in checked)
    assert {seen[k][0] for k in range(0, 12, 2)} == {"ours", "peer"}  # each comes first now and then


def test_no_ratio_on_wrong_results():
    def check(found: dict[str, tuple[torch.Tensor, ...]]) -> None:
        assert paired.relative_error(found["ours"][0], found["peer"][0]) <= 1e-3

    right, wrong = torch.ones(4), torch.tensor([1.0, 1.0, 1.0, math.nan])
    with pytest.raises(AssertionError):
        paired.measure(Clock(), {"ours": [lambda: (wrong,)], "peer": [lambda: (right,)]}, 3, check)


def test_errors_by_hand():
    assert paired.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert paired.relative_error(torch.tensor([math.inf]), torch.tensor([1.0])) == math.inf
    assert paired.psnr(torch.tensor([0.02, 0.0]), torch.tensor([0.0, 0.02])) == pytest.approx(40)


@pytest.mark.parametrize(
    ("values", "limits", "verdict"),
    [
        ((9.0, 9.0, 9.0), {"at_least": 9}, "pass"),
        ((8.9, 8.9, 8.9), {"at_least": 9}, "FAIL"),
        ((5.0, 5.0, 9.5, 9.5, 9.5), {"at_least": 9}, "FAIL"),  # the median would do, its lower bound does not
        ((9.0, 9.0, 9.0), {"at_least": 9, "aim": 18}, "pass"),
        ((18.0, 18.0, 18.0), {"at_least": 9, "aim": 18}, "pass, aim reached"),
        ((1.0, 1.0, 1.0), {"aim": 18}, "reported"),
        ((1.0, 1.0, 1.0), {}, "reported"),
    ],
)
def test_verdict(values, limits, verdict):
    assert gate(**limits).verdict(result(*values)) == verdict


def test_what_nobody_measured_fails_a_complete_run():
    rows = [gate(case="a", at_least=1), gate(case="b", at_least=1), gate(case="c", at_least=1)]
    report = Report(impl="cpu", threads=2, quick=False, gates=rows, warning=None)
    report.results = {Key("a", "p", "time"): result(2.0), Key("b", "p", "time"): result(0.5)}
    assert report.failures(complete=False) == [rows[1]]
    assert report.failures(complete=True) == rows[1:]


@pytest.mark.parametrize("change", [{"case": "x"}, {"metric": "speed"}, {"atleast": 3}, {"why": None}])
def test_gates_that_cannot_be_judged_are_refused(tmp_path, change):
    row = {"case": "a", "peer": "p", "metric": "time", "at_least": 2, "why": "w", **change}
    lines = [f"{key} = {json.dumps(value)}" for key, value in row.items() if value is not None]
    path = tmp_path / "gates.toml"
    path.write_text("\n".join(["[[gate]]", *lines]))
    with pytest.raises(ValueError, match=r"gates\.toml"):
        gates.load(path, ["a"])


def test_ledger_replaces_rows_by_key(tmp_path):
    path = tmp_path / "results" / "cpu.csv"
    found = Result(Spread((9.0, 10.0, 12.0)), noise=Spread((1.0, 1.0, 1.0)))
    rows = {name: ledger.row(Key(name, "reference", "time"), found, "cpu", 2) for name in ("b", "a")}
    ledger.upsert(path, rows.values())
    ledger.upsert(path, [{**rows["b"], "median": "11"}, {**rows["b"], "impl": "triton"}])
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0] == list(ledger.COLUMNS)
    assert [(line[0], line[3], line[5]) for line in lines[1:]] == [
        ("a", "cpu", "10"),
        ("b", "cpu", "11"),
        ("b", "triton", "10"),
    ]
    assert lines[1][6:12] == ["9.5", "11", "9", "12", "1", "1"]


def test_ledger_survives_a_failed_write(tmp_path):
    path = tmp_path / "cpu.csv"
    row = ledger.row(Key("a", "reference", "time"), result(1.0), "cpu", 2)
    ledger.upsert(path, [row])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="colour"):
        ledger.upsert(path, [{**row, "case": "b", "colour": "red"}])
    assert path.read_bytes() == before


def test_device_names_a_kind_and_not_a_machine():
    assert re.fullmatch(r"cpu-[a-z0-9-]+-[a-z0-9]+-2threads", ledger.device(2))


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name, case in CASES.items() for layout in case.layouts]
)
def test_both_sides_compute_the_same(name, layout):
    case = CASES[name]
    problem = case.problem(QUICK, 1)
    other = problem.laid_out(layout)
    assert len(case.layouts) == 1 or other.leaves[0].is_contiguous() == (layout == "channels-last")
    ours = case.timed(case.ours(QUICK, "reference"), problem)()
    peer = case.timed(case.peer(QUICK), other)()
    errors = [paired.relative_error(a, b) for a, b in zip(ours, peer, strict=True)]
    assert max(errors) <= case.tolerance
    assert case.flop(QUICK) > 0 < case.traffic(QUICK)
    assert all(a.shape == b.shape for a, b in zip(ours, peer, strict=True))


def test_peak_memory_counts_what_is_freed_and_not_what_is_kept(monkeypatch):
    mebibyte = 2**18  # float32 numbers

    def run() -> tuple[torch.Tensor, ...]:
        scratch = torch.ones(64 * mebibyte)
        return (scratch[: 40 * mebibyte] + 1,)

    case = replace(CASES["sample_triplane_forward"], timed=lambda function, problem: run)
    monkeypatch.setitem(peak_memory.CASES, "synthetic", case)
    extra = peak_memory.extra("synthetic", "peer", QUICK)
    assert extra == pytest.approx(64 * 2**20, abs=2 * peak_memory.RESOLUTION)


@pytest.mark.parametrize(("at_least", "code", "verdict"), [(1e9, 1, "FAIL"), (1e-9, 0, "pass")])
def test_exit_code_tells_whether_gates_hold(tmp_path, at_least, code, verdict):
    name = "sample_triplane_forward"
    row = {"case": name, "peer": "reference", "metric": "time", "at_least": at_least, "why": "a test"}
    path = tmp_path / "gates.toml"
    path.write_text("\n".join(["[[gate]]", *(f"{key} = {json.dumps(value)}" for key, value in row.items())]))
    command = ["pytest", str(BENCHMARKS), "--quick", "--impl=reference", f"--gates={path}", "-k", name]
    command += ["-p", "no:cacheprovider", f"--benchmark-json={tmp_path / 'out.json'}"]
    # pytest-benchmark measures nothing in what pytest-xdist has started
    alone = {key: value for key, value in os.environ.items() if key != "PYTEST_XDIST_WORKER"}
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=tmp_path, env=alone)
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(rf"{name} .*{verdict}", done.stdout)
    (recorded,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert recorded["stats"]["rounds"] == len(recorded["extra_info"]["peer_seconds"]) == 3


def test_profile_writes_a_trace(tmp_path, capsys):
    threads = torch.get_num_threads()
    trace = tmp_path / "trace.json"
    profile_case.main("sample_triplane_forward", impl="reference", iterations=2, trace=trace, quick=True)
    torch.set_num_threads(threads)
    assert "grid_sampler" in capsys.readouterr().out
    assert json.loads(trace.read_text())["traceEvents"]
    with pytest.raises(SystemExit, match="sample_triplane_forward"):
        profile_case.main("nothing")
