"""Compiled CUDA kernels execute no more than ``benchmarks/results/kernels.csv`` says, and spill no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled
import sass

# Triton's rows: test_compile_frame.py
LEDGER = {(row["kernel"], row["arch"]): row for row in compiled.ledger() if not row["kernel"].startswith("triton ")}


@pytest.fixture(scope="module")
def counted() -> dict[tuple[str, str], dict[str, str]]:
    library = compiled.installed()
    if library is None:
        pytest.skip("talk3d was built without CUDA kernels")
    return {(row["kernel"], row["arch"]): row for row in compiled.count(library)}


def test_every_kernel_is_in_the_ledger(counted):
    assert {name for name, _ in counted} == {kernel.name for kernel in compiled.KERNELS} == {name for name, _ in LEDGER}


def test_every_kernel_is_counted_once(counted):
    found = {each.symbol: [kernel.name for kernel in compiled.KERNELS if kernel.pattern in each.symbol]
             for each in sass.read(compiled.installed())}  # fmt: skip
    assert all(len(names) == 1 for names in found.values()), found


def test_all_architectures_are_in_the_ledger():
    """What executes once for each block or each call is not said of a sample."""
    archs = {f"sm_{arch}" for arch in compiled.ARCHS}
    for name in {name for name, _ in LEDGER}:
        assert {arch for kernel, arch in LEDGER if kernel == name} == archs, name
    untold = {name for (name, _), row in LEDGER.items() if not row["instructions_per_sample"]}
    assert untold == {"add_blocks", "amplification"}


def test_spills_and_grows_no_more(counted):
    for key, row in counted.items():
        kept = LEDGER[key]
        assert int(row["registers"]) <= 200, key
        assert int(row["spilled_bytes"]) <= max(int(kept["spilled_bytes"]), 256), key
        if kept["instructions_per_sample"]:
            assert row.get("instructions_per_sample"), f"{key} has other loops: see its trips in benchmarks/compiled.py"
            assert float(row["instructions_per_sample"]) <= 1.1 * float(kept["instructions_per_sample"]), key
        for mine, theirs in zip(row["main_loops"].split(), kept["main_loops"].split(), strict=True):
            assert int(mine) <= 1.1 * int(theirs), key


@pytest.mark.parametrize(
    ("kernel", "most"),
    [
        ("render_rays, 3 planes of 16 bits", 40),
        ("render_rays, 3 planes of float32", 100),
        ("render_rays_backward, 3 planes of 16 bits", 121),
        ("render_rays_backward, 3 planes of float32", 196),
        ("render_rays_backward of all, 3 planes of 16 bits", 202),
        ("render_rays_backward of all, 3 planes of float32", 285),
    ],
)
def test_the_renderer_keeps_its_promise(kernel, most):
    """Executed instructions for a sample; on every architecture at most 200 registers and 256 bytes of spills."""
    rows = [row for (name, _), row in LEDGER.items() if name == kernel]
    assert {row["arch"] for row in rows} == {f"sm_{arch}" for arch in (80, 86, 89, 90, 100, 120)}
    assert all(int(row["registers"]) <= 200 and int(row["spilled_bytes"]) <= 256 for row in rows)
    (sm_90,) = (row for row in rows if row["arch"] == "sm_90")
    assert float(sm_90["instructions_per_sample"]) <= most


def test_a_loop_is_left_by_a_call():
    """Compilers call what stands behind the branch back to a loop's header, and do not mean to return."""
    code = ("MOV R0, RZ", "FADD R3, R3, 1", "@P1 CALL.REL.NOINC 0x40", "BRA 0x10", "FADD R3, R3, 2", "EXIT")
    (loop,) = sass.Compiled("f", "sm_80", 8, 0, 0, tuple((16 * k, text) for k, text in enumerate(code))).loops
    assert loop.instructions == code[1:4]
    assert sass.Compiled("f", "sm_80", 8, 0, 0, tuple((16 * k, text) for k, text in enumerate(code))).outside() == 3


def test_loops_are_found():
    """A loop in a loop, and a block that was moved out of line and jumps back: no loop."""
    code = (
        "MOV R0, RZ",  # 0x00
        "IADD3 R1, R1, 1, RZ",  # 0x10: outer
        "MUFU.EX2 R2, R2",  # 0x20: inner
        "@P0 BRA 0x20",
        "@P1 BRA 0x70",
        "@P2 BRA 0x10",  # 0x50
        "EXIT",
        "FADD R3, R3, 1",  # 0x70: out of line
        "BRA 0x50",
    )
    compiled = sass.Compiled("f", "sm_90", 8, 0, 0, tuple((16 * k, text) for k, text in enumerate(code)))
    outer, inner = compiled.loops
    assert (outer.start, inner.start) == (0x10, 0x20)
    assert inner.instructions == ("MUFU.EX2 R2, R2", "@P0 BRA 0x20")
    assert len(outer.instructions) == 5  # its own: with the block that was moved
    assert (outer.count("MUFU"), inner.count("MUFU")) == (0, 1)
