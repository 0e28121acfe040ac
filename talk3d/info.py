"""What is installed, what is not, and why: ``talk3d info`` or ``python -m talk3d.info``.

It creates no CUDA context, so it may be asked beside a process that needs the whole GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import talk3d
from talk3d import native
from talk3d.ops.registry import Operator, operators

__all__ = ["collect", "show"]

PACKAGES = {
    "triton": "Triton kernels",
    "ninja": "building the native kernels in parallel",
    "mediapipe": "talk3d prepare",
    "transformers": "speech features of wav2vec 2.0 and HuBERT",
    "nvtx": "ranges for a profiler",
    "pytest-benchmark": "make bench",
}
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_IMPLEMENTATIONS = ("cpu", "cuda", "triton", "torch", "reference")  # the order of columns
_VECTORS = {1: "no vectors", 8: "AVX2, 8 floats at a time", 16: "AVX-512, 16 floats at a time"}


def collect() -> dict[str, Any]:
    """Collect everything that ``talk3d info`` prints, ready for JSON.

    A reason is a sentence that says why something is not there; None where it is.
    """
    gpus, no_gpu = _gpus()
    facts = import_module("talk3d._C") if find_spec("talk3d._C") else None
    return {
        "version": talk3d.__version__,
        "location": str(Path(talk3d.__file__).parent),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "gpus": gpus,
        "no_gpu": no_gpu,
        "native": {name: native.available(name) for name in ("cpu", "cuda")},
        "build": facts.build() if facts else None,
        "processor": facts.processor() if facts else None,
        "lanes": facts.lanes() if facts else None,
        "operators": {
            name: {impl: _why_not(operator, impl, no_gpu) for impl in operator.implementations}
            for name, operator in operators().items()
            if not name.endswith("_backward")
        },
        "packages": {name: {"version": _version(name), "for": purpose} for name, purpose in PACKAGES.items()},
    }


def show(*, as_json: bool = False) -> None:
    """Print what :func:`collect` finds."""
    found = collect()
    console = Console(highlight=False)
    if as_json:
        console.print_json(data=found)
        return
    for table in (_machine(found), _operators(found), _packages(found)):
        console.print(table, "")


def _gpus() -> tuple[list[str], str | None]:
    """Name the GPUs; or say why there are none. The driver is asked: torch would make itself at home on one."""
    if not torch.version.cuda:
        return [], f"torch {torch.__version__} was built without CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "there is no NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int()
    if error := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        text = ctypes.c_char_p(b"unknown")
        driver.cuGetErrorString(error, ctypes.byref(text))
        return [], f"the NVIDIA driver says: {(text.value or b'').decode()} (error {error})"
    return [_gpu(driver, index) for index in range(count.value)], None if count.value else "no GPU is visible"


def _gpu(driver: ctypes.CDLL, index: int) -> str:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    capability = [ctypes.c_int(), ctypes.c_int()]
    driver.cuDeviceGetName(name, len(name), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), index)
    for number, attribute in zip(capability, _COMPUTE_CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
    major, minor = (number.value for number in capability)
    found = f"{name.value.decode()}, sm_{major}{minor}, {memory.value / 2**30:.0f} GiB"
    old = "the CUDA render_rays needs sm_80, so that Triton's runs here, or the reference"
    return found if major >= 8 else f"{found}: {old}"


def _why_not(operator: Operator, impl: str, no_gpu: str | None) -> str | None:
    waits = no_gpu if impl in ("cuda", "triton") else None
    return operator.why_not(impl) or (f"it waits for a GPU: {waits}" if waits else None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _grid(*no_wrap: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    for fixed in no_wrap:
        table.add_column(no_wrap=fixed, overflow="fold")
    return table


def _machine(found: dict[str, Any]) -> Table:
    build, missing = found["build"], found["native"]
    table = _grid(True, False)
    table.add_row("talk3d", f"{found['version']}, {found['location']}")
    table.add_row("python", f"{found['python']}, {found['platform']}")
    table.add_row("torch", f"{found['torch']}, {'CUDA ' + found['torch_cuda'] if found['torch_cuda'] else 'no CUDA'}")
    table.add_row("GPU", "\n".join(found["gpus"]) or f"none: {found['no_gpu']}")
    if build:
        features = " ".join(name for name, there in found["processor"].items() if there)
        table.add_row("processor", f"{_VECTORS[found['lanes']]}; it has {features or 'nothing more'}")
    cpu = missing["cpu"] or f"{build['compiler']}, torch {build['torch']}\n{build['cxx_flags']}"
    cuda = missing["cuda"] or f"CUDA {build['cuda']} for {build['cuda_archs']}\n{build['nvcc_flags']}"
    table.add_row("cpu kernels", cpu)
    table.add_row("cuda kernels", cuda)
    return table


def _operators(found: dict[str, Any]) -> Table:
    """A row for each operator, a column for each implementation; why one does not run is said once, by its number."""
    operators: dict[str, dict[str, str | None]] = found["operators"]
    columns = [impl for impl in _IMPLEMENTATIONS if any(impl in row for row in operators.values())]
    reasons = list(dict.fromkeys(why for row in operators.values() for why in row.values() if why))
    marks = {why: f"({number})" for number, why in enumerate(reasons, 1)}
    table = _grid(True, *(True for _ in columns))
    table.add_row("operator", *columns)
    for name, row in operators.items():
        cells = ((marks[why] if (why := row[impl]) else "ready") if impl in row else "" for impl in columns)
        table.add_row(name, *cells)
    whole = _grid(False)
    whole.add_row(table)
    for why, mark in marks.items():
        whole.add_row(f"{mark} {why}")
    return whole


def _packages(found: dict[str, Any]) -> Table:
    table = _grid(True, True, False)
    for name, package in found["packages"].items():
        table.add_row(name, package["version"] or "not installed", package["for"])
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m talk3d.info", description="What is installed, what is not, and why.")
    parser.add_argument("--json", action="store_true", help="for machines")
    show(as_json=parser.parse_args().json)
