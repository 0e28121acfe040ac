"""A run of the benchmarks: how it was asked for, what it found, and how that is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from case import Function, Size
from gates import Gate, Key, Result

_STRANGER = 0.5  # of a process, over the last minute: less is what the shell and the last command leave behind


@dataclass(kw_only=True)
class Report:
    """What tests and hooks share.

    Attributes:
        impl: The implementation that is measured.
        threads: Threads of torch.
        quick: Small sizes and few rounds: the machinery is tried, speed is not.
        gates: What must hold.
        warning: What speaks against trusting this run.
        device: Where everything runs: ``cpu`` or ``cuda``.
        peer: Who is measured against us.
        peers: What it runs, by case.
        results: Filled by the tests.
    """

    impl: str
    threads: int
    quick: bool
    gates: list[Gate]
    warning: str | None
    device: str = "cpu"
    peer: str = "reference"
    peers: dict[str, Callable[[Size], Function]] = field(default_factory=dict)
    results: dict[Key, Result] = field(default_factory=dict)

    def failures(self, *, complete: bool) -> list[Gate]:
        """Gates that do not hold; after a complete run, also those that nobody measured."""
        bad = ("FAIL", "not measured") if complete else ("FAIL",)
        return [gate for gate in self.gates if gate.verdict(self.results.get(gate.key)) in bad]

    def table(self) -> Table:
        """Draw a row for each gate."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in ("case", "peer", "metric"):
            table.add_column(header, no_wrap=True)
        for header in ("median \\[quartiles]", "95 % bound", "gate", "aim", "noise", "GFLOP/s"):
            table.add_column(header, no_wrap=True, justify="right")
        table.add_column("verdict", no_wrap=True)
        for gate in self.gates:
            result = self.results.get(gate.key)
            verdict = gate.verdict(result)
            style = {"pass": "green", "FAIL": "red"}.get(verdict.split(",")[0], "default")
            table.add_row(*gate.key, *_numbers(gate, result), f"[{style}]{verdict}[/]")
        return table


def busy(threads: int) -> str | None:
    """Say so if other programs want the cores that ours needs."""
    load, spare = os.getloadavg()[0], (os.cpu_count() or 1) - threads
    if load <= spare + _STRANGER:
        return None
    return f"the machine is busy (load average {load:.2f}, {max(spare, 0)} spare cores): ratios will be noisy"


def _numbers(gate: Gate, result: Result | None) -> tuple[str, ...]:
    if result is None:
        return "", "", _number(gate.at_least), _number(gate.aim), "", ""
    return (
        f"{_number(result.spread.median)} {_interval(result.spread.quartiles)}",
        "" if gate.metric == "seconds" else _number(result.spread.bound),
        _number(gate.at_least),
        _number(gate.aim),
        _interval(result.noise.quartiles) if result.noise else "",
        _number(result.rate),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _interval(ends: tuple[float, float]) -> str:
    return f"\\[{_number(ends[0])}, {_number(ends[1])}]"
