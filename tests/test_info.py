"""``talk3d info`` tells the truth, and leaves the GPU alone."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest
import torch

from talk3d import info, native
from talk3d.ops.registry import operators


class Driver:
    """An NVIDIA driver with two GPUs, as far as ctypes can tell."""

    def __init__(self, error: int = 0, count: int = 2, capability: int = 90):
        self.error, self.count, self.capability = error, count, capability

    def cuInit(self, flags):
        return self.error

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuGetErrorString(self, error, text):
        text._obj.value = {100: b"no CUDA-capable device is detected"}[error]

    def cuDeviceGetName(self, name, size, device):
        name.value = [b"NVIDIA H200", b"NVIDIA L4"][device]

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = [141, 24][device] * 2**30

    def cuDeviceGetAttribute(self, number, attribute, device):
        number._obj.value = {75: [self.capability // 10, 8], 76: [self.capability % 10, 9]}[attribute][device]


@pytest.fixture
def driver(monkeypatch):
    def install(driver):
        for name in ("cpu", "cuda"):  # loaded once, and by the same function that is replaced here
            native.available(name)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)

    return install


def test_names_gpus(driver):
    driver(Driver())
    found = info.collect()
    assert found["gpus"] == ["NVIDIA H200, sm_90, 141 GiB", "NVIDIA L4, sm_89, 24 GiB"]
    assert found["no_gpu"] is None


def test_says_what_runs_on_an_old_gpu(driver):
    driver(Driver(count=1, capability=75))
    (found,) = info.collect()["gpus"]
    assert found.startswith("NVIDIA H200, sm_75, 141 GiB: the CUDA render_rays needs sm_80")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(Driver(error=100), "no CUDA-capable device is detected"), (Driver(count=0), "no GPU is visible")],
)
def test_says_why_there_is_no_gpu(driver, broken, reason):
    driver(broken)
    found = info.collect()
    assert found["gpus"] == []
    assert reason in found["no_gpu"]
    assert reason in found["operators"]["sample_triplane"]["triton"]


def test_agrees_with_the_registry():
    found = info.collect()
    assert found["native"] == {name: native.available(name) for name in ("cpu", "cuda")}
    assert set(found["operators"]) == {name for name in operators() if not name.endswith("_backward")}
    for name, implementations in found["operators"].items():
        assert implementations["reference"] is None
        assert implementations.get("cpu") == (native.available("cpu") if "cpu" in implementations else None)
        assert tuple(implementations) == operators()[name].implementations
        assert set(implementations) <= set(info._IMPLEMENTATIONS)


def test_knows_the_build():
    found = info.collect()
    assert native.available("cpu") is None, "these tests want the CPU kernels"
    assert found["build"]["cxx_standard"] == 202002
    assert found["lanes"] in (1, 8, 16)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert found["processor"]["avx2"]
        assert found["processor"]["fma"]


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment or None).stdout


def test_text_fits_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run("-m", "talk3d.info")
    assert max(map(len, text.splitlines())) <= 80
    for word in ("torch", "cpu kernels", "sample_triplane", "triton"):
        assert word in text


def test_why_an_implementation_does_not_run_is_said_once(driver, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    driver(Driver(error=100))
    info.show()
    lines = capsys.readouterr().out.splitlines()
    (reason,) = (line for line in lines if "waits for a GPU" in line)
    row = next(line for line in lines if line.startswith("resample2d_bias_act"))
    assert row.split() == ["resample2d_bias_act", "ready", reason.split()[0], "ready", "ready"]


def test_json_is_json_and_creates_no_context():
    code = "from talk3d import info; info.show(as_json=True); import torch; assert not torch.cuda.is_initialized()"
    assert json.loads(run("-c", code)) == json.loads(run("-m", "talk3d.info", "--json"))
