"""Every Triton kernel compiles ahead of time, without a GPU, keeps its numbers in registers, and stays short.

Triton decides when it is imported whether it interprets, so this file runs itself in a process where it does not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from compiled import ledger

ARCHS = (80, 90)
THREE, MERGED = (0, 1, 0, 2, 2, 1), (0, 1, 0, 2)
FORWARD, BACKWARD = "_sample_triplane_fwd_kernel", "_sample_triplane_bwd_kernel"
ALL = (True, True, True)


def sampling(pairs: tuple[int, ...], mean: bool, channels: int, *needs: bool) -> dict[str, Any]:
    """Arguments that are constants of the kernel, or sizes that it can rely on."""
    gradients = {"NEEDS_PLANES": needs[0], "NEEDS_POINTS": needs[1]} if needs else {}
    return {"PAIRS": pairs, "MEAN": mean, "SHARED": True, "C": channels, **gradients}


CASES = {
    "forward": (FORWARD, sampling(THREE, True, 32)),
    "forward, two planes": (FORWARD, sampling(MERGED, True, 32)),
    "forward, no mean, odd channels": (FORWARD, sampling(THREE, False, 33)),
    "backward": (BACKWARD, sampling(THREE, True, 32, True, True)),
    "backward to planes": (BACKWARD, sampling(THREE, True, 32, True, False)),
    "backward to points": (BACKWARD, sampling(THREE, True, 32, False, True)),
    "backward, no mean, odd channels": (BACKWARD, sampling(THREE, False, 33, True, True)),
}


def compile_all() -> dict[str, Any]:
    """What ``cuobjdump`` counts in the kernels of both operators, and the PTX of those that sample."""
    from triton.backends.compiler import GPUTarget

    from talk3d.kernels import ahead, ahead_frame, tiles, triplane

    found = {}
    for case, (name, arguments) in CASES.items():
        for arch in ARCHS:
            arguments = {**arguments, **tiles.sample_triplane(arguments["C"])}
            compiled = ahead.inspect(getattr(triplane, name), arguments, arch, scale="fp32")
            found[f"{case}, sm_{arch}"] = {"counts": compiled.counts, "ptx": compiled.ptx, "kernel": name}
    for needs in (None, ALL):
        for step in ahead.passes(needs=needs):
            compiled = step.inspect(90)
            found[step.name] = {
                "counts": compiled.counts,
                "cost": step.per_sample(compiled),
                "special": step.per_sample(compiled, "MUFU"),
                "matrices": len(re.findall(r"wgmma\.mma_async|mma\.sync", compiled.ptx)),
                "kernel": step.kernel.__name__,
                "row": ahead_frame.of_pass(step, compiled),
            }
    for step in [*ahead.passes(needs=None, ptx=False), *ahead.passes(needs=ALL, ptx=False)]:
        amd = ahead.compile_ahead(step.kernel, step.arguments, GPUTarget("hip", "gfx942", 64), **step.types)
        found[f"{step.name}, gfx942"] = {"bytes": len(amd.asm["hsaco"]), "kernel": step.kernel.__name__}
    # test_compile_frame.py counts these
    return found | {launch.name: {"kernel": launch.kernel.__name__} for launch in ahead_frame.launches()}


@pytest.fixture(scope="module")
def compiled(compiled_ahead: Callable[[str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = compiled_ahead("renderer")
    return found


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", CASES)
def test_keeps_its_numbers_in_registers(compiled, case, arch):
    counts = compiled[f"{case}, sm_{arch}"]["counts"]
    assert 16 <= counts["REG"] <= 128  # with more, fewer than four blocks fit a multiprocessor
    assert counts["STACK"] == counts["LOCAL"] == 0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", [case for case, (_, arguments) in CASES.items() if arguments["C"] == 32])
def test_loads_four_channels_at_once(compiled, case, arch):
    assert "ld.global.v4.b32" in compiled[f"{case}, sm_{arch}"]["ptx"]


@pytest.mark.parametrize("step", ["coarse", "draw", "fine", "march", "color"])
def test_rendering_keeps_its_numbers_in_registers(compiled, step):
    counts = compiled[step]["counts"]
    assert 16 <= counts["REG"] <= 128
    assert counts["LOCAL"] == 0
    assert counts["STACK"] <= 8


@pytest.mark.parametrize(("step", "products"), [("coarse", 2), ("fine", 2), ("color", 3)])
def test_rendering_multiplies_on_tensor_cores(compiled, step, products):
    assert compiled[step]["matrices"] >= products


def test_a_sample_takes_few_instructions(compiled):
    """Half-precision planes, 48 + 48 samples, every colour decoded: 87 when this was written, 10 of them special."""
    steps = ("coarse", "draw", "fine", "march", "color")
    assert 40 < sum(compiled[step]["cost"] for step in steps) <= 92
    assert 5 < sum(compiled[step]["special"] for step in steps) <= 12


def test_rendering_spills_and_grows_no_more(compiled):
    """Forward, and backward to everything, in half precision on sm_90: what the ledger says."""
    kept = {row["kernel"]: row for row in ledger() if row["arch"] == "sm_90"}
    found = {case: value["row"] for case, value in compiled.items() if "row" in value}
    assert len(found) == 8
    for case, row in found.items():
        name = f"triton render_rays, {case}{' to all' if case == 'field backward' else ''}, float16"
        assert int(row["spilled_bytes"]) <= int(kept[name]["spilled_bytes"]), name
        assert int(row["shared_bytes"]) <= max(1.1 * int(kept[name]["shared_bytes"]), 1024), name
        assert float(row["instructions_per_sample"]) <= 1.1 * float(kept[name]["instructions_per_sample"]), name


def test_every_kernel_of_rendering_compiles_for_amd(compiled):
    found = [value["bytes"] for case, value in compiled.items() if case.endswith("gfx942")]
    assert len(found) == 8
    assert min(found) > 1000


def test_no_kernel_is_forgotten(compiled):
    folder = Path(find_spec("talk3d.kernels").origin).parent
    written = {
        name
        for file in folder.glob("*.py")
        for name in re.findall(r"^def (_\w+_kernel\w*)", file.read_text(), re.MULTILINE)
    }
    assert written == {value["kernel"] for value in compiled.values()}


if __name__ == "__main__":
    print(json.dumps(compile_all()))
