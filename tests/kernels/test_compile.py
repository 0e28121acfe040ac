"""Every Triton kernel compiles ahead of time, without a GPU, and keeps its numbers in registers.

Triton decides when it is imported whether it interprets, so this file runs itself in a process where it does not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ARCHS = (80, 90)
THREE, MERGED = (0, 1, 0, 2, 2, 1), (0, 1, 0, 2)
FORWARD, BACKWARD = "triplane:_sample_triplane_fwd_kernel", "triplane:_sample_triplane_bwd_kernel"


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


def compile_case(case: str, arch: int, scratch: Path) -> dict[str, Any]:
    """Compile as a launch would; return what ``cuobjdump`` counts, and the PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from talk3d.kernels import tiles

    (module, _, name), arguments = CASES[case][0].partition(":"), CASES[case][1]
    kernel = getattr(import_module(f"talk3d.kernels.{module}"), name)
    arguments = {**arguments, **tiles.sample_triplane(arguments["C"])}
    constants = {key: value for key, value in arguments.items() if key.isupper() and len(key) > 1}
    types = {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {
        argument: "*fp32" if argument.endswith("_ptr") else types.get(argument, "i32") for argument in kernel.arg_names
    }
    sixteen = [
        argument
        for argument in kernel.arg_names
        if argument.endswith("_ptr") or (signature[argument] == "i32" and arguments.get(argument, 1) % 16 == 0)
    ]
    attributes = {(kernel.arg_names.index(argument),): [["tt.divisibility", 16]] for argument in sixteen}
    compiled = triton.compile(ASTSource(kernel, signature, constants, attributes), target=GPUTarget("cuda", arch, 32))
    cubin = scratch / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    counts = {key: int(count) for key, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {"counts": counts, "ptx": compiled.asm["ptx"]}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scratch = tmp_path_factory.mktemp("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, __file__, str(scratch)],
        env=environment | {"TRITON_CACHE_DIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


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


def test_no_kernel_is_forgotten():
    folder = Path(find_spec("talk3d.kernels").origin).parent
    written = {
        f"{file.stem}:{name}"
        for file in folder.glob("*.py")
        for name in re.findall(r"^def (_\w+_kernel\w*)", file.read_text(), re.MULTILINE)
    }
    assert written == {kernel for kernel, _ in CASES.values()}


if __name__ == "__main__":
    results = {f"{case}, sm_{arch}": compile_case(case, arch, Path(sys.argv[1])) for case in CASES for arch in ARCHS}
    print(json.dumps(results))
