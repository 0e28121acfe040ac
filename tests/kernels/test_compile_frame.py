"""Triton kernels around the renderer compile without a GPU, and execute no more than the ledger says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled
import compiled_triton

ARCHS = compiled_triton.TESTED
RENDERING = tuple(compiled_triton.PREFIX + name for name in ("render_rays", "sample_triplane"))
LEDGER = {
    (row["kernel"], row["arch"]): row
    for row in compiled.ledger()
    if row["kernel"].startswith(compiled_triton.PREFIX)
    and row["arch"] in ARCHS
    and not row["kernel"].startswith(RENDERING)
}


@pytest.fixture(scope="module")
def counted(compiled_ahead: Callable[[str], Any]) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["kernel"], row["arch"]): row for row in compiled_ahead("frame")}


def test_every_kernel_is_in_the_ledger(counted):
    assert counted.keys() == LEDGER.keys()
    assert {arch for _, arch in counted} == set(ARCHS)


def test_spills_and_grows_no_more(counted):
    for key, row in counted.items():
        kept = LEDGER[key]
        assert int(row["spilled_bytes"]) <= int(kept["spilled_bytes"]), key
        assert int(row["shared_bytes"]) <= max(1.1 * int(kept["shared_bytes"]), 1024), key
        if key[1] != "gfx942":
            assert float(row["instructions_per_sample"]) <= 1.1 * float(kept["instructions_per_sample"]), key


def test_four_blocks_of_what_memory_bounds_fit_a_multiprocessor():
    rows = [row for row in LEDGER.values() if "bias_act" in row["kernel"] or "resample2d" in row["kernel"]]
    assert len(rows) == 5 * 2 * 3
    assert all(row["spilled_bytes"] == "0" for row in rows)
    assert all(int(row["registers"]) <= 128 for row in rows if row["arch"] != "gfx942")  # which has twice as many
