"""Options of ``pytest benchmarks``, and the verdict at its end."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

HERE = Path(__file__).parent
# this folder, and not the repository's root, where the sources of talk3d would hide the installed package
sys.path.insert(0, str(HERE))

import gates  # noqa: E402
import ledger  # noqa: E402
import peers  # noqa: E402
from cases import CASES  # noqa: E402
from report import Report, busy  # noqa: E402
from talk3d.memory import keep_freed_memory  # noqa: E402

_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("talk3d")
    group.addoption("--device", default="cpu", choices=["cpu", "cuda"], help="where (default: %(default)s)")
    group.addoption("--impl", help="implementation to measure (default: the device's name)")
    group.addoption("--peer", default="reference", help="against whom: reference, compile, or a file of --peers")
    group.addoption("--peers", type=Path, metavar="DIR", help="folder of public packages, see benchmarks/peers.py")
    group.addoption("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    group.addoption("--quick", action="store_true", help="small sizes and few rounds, to try the machinery; no gates")
    group.addoption(
        "--gates",
        type=Path,
        metavar="FILE",
        help="gates to judge by (default: benchmarks/gates.toml or, on a GPU, gates-cuda.toml)",
    )
    group.addoption("--ledger", action="store_true", help="write the results to benchmarks/results/<device>.csv")


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    if option.quick and option.ledger:
        raise pytest.UsageError("--quick sizes do not belong in the ledger")
    if option.device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda needs an NVIDIA GPU, and torch finds none")
    option.impl = option.impl or option.device
    try:
        given = option.gates or HERE / ("gates.toml" if option.device == "cpu" else "gates-cuda.toml")
        rows = [gate for gate in gates.load(given, CASES) if gate.peer == option.peer]
        others = peers.load(option.peer, option.peers, CASES)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    if option.quick and not option.gates:
        rows = [replace(gate, at_least=None, aim=None) for gate in rows]
    torch.set_num_threads(option.threads)
    keep_freed_memory()  # for both sides, as talk3d's commands do
    config.stash[_REPORT] = Report(
        impl=option.impl,
        threads=option.threads,
        quick=option.quick,
        gates=rows,
        warning=busy(option.threads),
        device=option.device,
        peer=option.peer,
        peers=others,
    )


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[_REPORT]


def pytest_report_header(config: pytest.Config) -> list[str]:
    report = config.stash[_REPORT]
    device = ledger.device(report.threads, report.device)
    about = f"talk3d: impl {report.impl} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    return [about, f"WARNING: {report.warning}"] if report.warning else [about]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    option, report = session.config.option, session.config.stash[_REPORT]
    chosen = option.keyword or option.markexpr or any("::" in argument for argument in session.config.args)
    if report.failures(complete=not chosen and not option.collectonly) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if option.ledger:
        judged = {gate.key for gate in report.gates} & report.results.keys()
        rows = [ledger.row(key, report.results[key], report.impl, report.threads, report.device) for key in judged]
        ledger.upsert(HERE / "results" / f"{ledger.device(report.threads, report.device)}.csv", rows)


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own table
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[_REPORT]
    terminalreporter.section("gates")
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=terminalreporter.hasmarkup)
    console.print(report.table())
    terminalreporter.write(text.getvalue())
    terminalreporter.write_line(
        "time, memory: how many times less than the peer, paired within a round; noise: quartiles of the same ratio "
        "between two runs of ours;\nGFLOP/s: what the published algorithm computes over our time, here and now"
    )
    if report.quick:
        terminalreporter.write_line("quick: the sizes are too small to say anything about speed")
    if report.warning:
        terminalreporter.write_line(f"WARNING: {report.warning}", yellow=True)
