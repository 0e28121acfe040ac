"""Paired, interleaved rounds, and what may be concluded from them.

A machine's speed drifts, and other programs come and go. Both sides of a comparison therefore run in turns in one
process, in an order drawn anew for each round, and ratios are taken within a round, where the drift is shared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from case import Run, Tensors


@dataclass(frozen=True)
class Spread:
    """How a quantity, better when larger, came out over the rounds."""

    values: tuple[float, ...]

    @cached_property
    def median(self) -> float:
        return float(np.median(self.values))

    @cached_property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.values, [0.25, 0.75])
        return float(low), float(high)

    @cached_property
    def bound(self) -> float:
        """Lower 95 % bound of the median: 5 % of its bootstrap resamples lie below."""
        resamples = np.random.default_rng(0).choice(self.values, size=(10_000, len(self.values)))
        return float(np.quantile(np.median(resamples, axis=1), 0.05))


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times less the second took, round by round."""
    return Spread(tuple(s / f for s, f in zip(slow, fast, strict=True)))


def interleave(sides: Sequence[str], rounds: int) -> list[tuple[str, int]]:
    """Draw the order of measurement: ``(side, round)``, every side once a round. The same order for the same call."""
    draw = random.Random(0)
    return [(side, turn) for turn in range(rounds) for side in draw.sample(sides, len(sides))]


def measure(
    benchmark: Any, sides: Mapping[str, Sequence[Run]], rounds: int, check: Callable[[dict[str, Tensors]], None]
) -> dict[str, list[float]]:
    """Time all sides, interleaved, with pytest-benchmark's own clock.

    Args:
        benchmark: The fixture. To it, each turn of each side is a round.
        sides: For each side, what to run on each set of inputs; round k takes set k, around and around.
        rounds: How often each side has its turn.
        check: Called after each round, outside the clock, with what each side returned; raises if it is wrong.

    Returns:
        Seconds of each side in each round.
    """
    order = interleave(list(sides), rounds)
    turns = iter(order)
    found: dict[str, Tensors] = {}

    def target(side: str, turn: int) -> None:
        found[side] = sides[side][turn % len(sides[side])]()

    def teardown(side: str, turn: int) -> None:
        if len(found) == len(sides):
            check(found)
            found.clear()

    benchmark.pedantic(target, setup=lambda: (next(turns), {}), teardown=teardown, rounds=len(order))
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for (side, _), taken in zip(order, benchmark.stats.stats.data, strict=True):
        seconds[side].append(taken)
    return seconds


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; infinite if anything is not a number."""
    error = float(vector_norm(found - expected, dtype=torch.float64) / vector_norm(expected, dtype=torch.float64))
    return error if math.isfinite(error) else math.inf


def psnr(found: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for features in their published range from -1 to 1."""
    error = float((found.double() - expected.double()).square().mean())
    return 10 * math.log10(2**2 / max(error, 1e-20))  # identical ones get 206 dB
