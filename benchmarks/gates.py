"""What a run found, and what must hold of it: ``gates.toml``."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paired import Spread

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

METRICS = ("time", "memory", "psnr", "seconds")


class Key(NamedTuple):
    """What was measured: ``time`` or ``memory`` as a ratio to the peer, ``psnr`` against it, or its own ``seconds``."""

    case: str
    peer: str
    metric: str


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        spread: Over the rounds.
        noise: The same ratio between two runs of one side, where there is no difference to be found.
        rate: GFLOP/s that we achieved in the median round.
    """

    spread: Spread
    noise: Spread | None = None
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A row of ``gates.toml``. Without ``at_least`` it is reported and cannot fail."""

    case: str
    peer: str
    metric: str
    why: str
    at_least: float | None = None
    aim: float | None = None

    @property
    def key(self) -> Key:
        return Key(self.case, self.peer, self.metric)

    def verdict(self, result: Result | None) -> str:
        """Say whether the gate holds. It is the lower 95 % bound of the median that must reach it."""
        if result is None:
            return "not measured"
        if self.aim is not None and result.spread.bound >= self.aim:
            return "pass, aim reached"
        if self.at_least is None:
            return "reported"
        return "pass" if result.spread.bound >= self.at_least else "FAIL"


def load(path: Path, cases: Collection[str]) -> list[Gate]:
    """Read gates.

    Args:
        path: A file of ``[[gate]]`` rows.
        cases: The names of all cases.

    Raises:
        ValueError: If a row names an unknown case, metric or field, or lacks one.
    """
    gates = []
    for row in tomllib.loads(path.read_text())["gate"]:
        try:
            gate = Gate(**row)
        except TypeError as error:
            raise ValueError(f"{path.name}: {row}: {error}") from None
        if gate.case not in cases or gate.metric not in METRICS:
            raise ValueError(f"{path.name}: no such case or metric: {gate.case}, {gate.metric}")
        gates.append(gate)
    return gates
