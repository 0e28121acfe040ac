"""Implementations are chosen late, never silently, and loaded when they first run."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import talk3d
from talk3d import native, ops
from talk3d.ops import sample_triplane
from talk3d.ops.registry import operators


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda name: f"no compiler made the {name} kernels")
    monkeypatch.setattr(operators()["sample_triplane"], "_loaded", {})


def sample(dtype: torch.dtype = torch.float32, impl: str | None = None) -> Tensor:
    planes, points = torch.ones(1, 3, 2, 4, 4, dtype=dtype), torch.zeros(1, 5, 3, dtype=dtype)
    return sample_triplane(planes, points, box_warp=1.0, axes="zy", impl=impl)


def log_of(caplog: pytest.LogCaptureFixture, **options: object) -> list[str]:
    with caplog.at_level(logging.DEBUG, logger="talk3d"):
        sample(**options)
    return [record.getMessage() for record in caplog.records if record.name.startswith("talk3d")]


def test_explicit_choice_never_falls_back():
    with pytest.raises(ValueError, match=r"sample_triplane, impl='triton': it takes float32, not torch.float64"):
        sample(torch.float64, "triton")
    assert sample(torch.float64, "reference").dtype == torch.float64


def test_wrong_device_is_said(monkeypatch):
    monkeypatch.setattr(native, "available", lambda name: None)
    with pytest.raises(ValueError, match=r"impl='cuda': it runs on cuda tensors, not on cpu"):
        sample(impl="cuda")
    assert operators()["sample_triplane"].why_not("triton") is None  # imported as other tests want it
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"impl='triton': it runs on a GPU, or on cpu tensors in Triton's interpreter"):
        sample(impl="triton")


def test_triton_launches_on_the_device_of_its_tensors(monkeypatch):
    """Tensors that say they are on a second GPU, which this machine need not have."""
    operator, current = operators()["sample_triplane"], []

    class OnGpu(Tensor):
        device = torch.device("cuda:1")

    @contextmanager
    def device(which):
        current.append(which)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setitem(operator._loaded, "triton", lambda *_: list(current))
    planes, points = (torch.zeros(shape).as_subclass(OnGpu) for shape in ((1, 3, 4, 4, 2), (1, 5, 3)))
    arguments = planes, points, [0, 1, 0, 2, 2, 1], 2.0, True
    assert operator._run(*arguments, "triton") == [torch.device("cuda:1")]
    assert not current


@pytest.mark.usefixtures("no_native")
def test_what_is_not_built_says_why():
    with pytest.raises(ValueError, match="impl='cpu': no compiler made the cpu kernels"):
        sample(impl="cpu")
    assert operators()["sample_triplane"].why_not("cuda") == "no compiler made the cuda kernels"


@pytest.mark.usefixtures("no_native")
def test_auto_says_why_not(caplog):
    assert log_of(caplog) == [
        "talk3d::sample_triplane does not run on cpu: no compiler made the cpu kernels",
        "talk3d::sample_triplane does not run on cuda: it runs on cuda tensors, not on cpu",
        "talk3d::sample_triplane does not run on triton: the interpreter is for tests: it must be asked for by name",
    ]


def test_auto_passes_over_what_cannot_take_the_inputs(caplog, monkeypatch):
    monkeypatch.setattr(native, "available", lambda name: None)
    first = log_of(caplog, dtype=torch.float64)[0]
    assert first == "talk3d::sample_triplane does not run on cpu: it takes float32, not torch.float64"


def test_unknown_implementation():
    with pytest.raises(ValueError, match=r"has no implementation 'metal'; it has cpu, cuda, triton, reference"):
        sample(impl="metal")


class TestUse:
    def test_prefers_one_inside_the_block(self, caplog):
        with talk3d.use("reference"):
            assert log_of(caplog) == []  # nothing was passed over
        with talk3d.use("metal"), pytest.raises(ValueError, match="no implementation 'metal'"):
            sample()

    def test_is_undone_by_an_exception(self):
        with pytest.raises(KeyError), talk3d.use("metal"):
            raise KeyError
        sample()

    def test_does_not_outvote_an_explicit_choice(self):
        with talk3d.use("metal"):
            sample(impl="reference")

    @pytest.mark.compile
    def test_is_seen_by_a_compiled_function(self):
        torch.compiler.reset()
        compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
        expected = compiled(impl=None)
        with talk3d.use("reference"):
            torch.testing.assert_close(compiled(impl=None), expected)
        with talk3d.use("metal"), pytest.raises(Exception, match="no implementation 'metal'"):
            compiled(impl=None)


def in_a_new_process(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_implementations_are_loaded_when_first_run():
    code = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
import torch
from talk3d.ops import sample_triplane

def loaded():
    names = "triton", "talk3d.kernels.triplane", "talk3d.reference.triplane"
    return [name for name in names if name in sys.modules]

print(loaded())
for impl in ("reference", "triton"):
    sample_triplane(torch.ones(1, 3, 1, 2, 2), torch.zeros(1, 1, 3), box_warp=1.0, axes="zy", impl=impl)
    print(loaded())
"""
    assert in_a_new_process(code).splitlines() == [
        "[]",
        "['talk3d.reference.triplane']",
        "['triton', 'talk3d.kernels.triplane', 'talk3d.reference.triplane']",
    ]


def test_the_default_comes_from_the_environment():
    code = """
import os
os.environ["TALK3D_IMPL"] = "metal"
import torch
from talk3d.ops import sample_triplane
try:
    sample_triplane(torch.ones(1, 3, 1, 2, 2), torch.zeros(1, 1, 3), box_warp=1.0, axes="zy")
except ValueError as error:
    print(error)
"""
    assert "no implementation 'metal'" in in_a_new_process(code)


def test_every_operator_has_a_reference():
    assert operators()
    for operator in operators().values():
        assert operator.implementations[-1] == "reference"
        assert operator.why_not("reference") is None


def test_every_public_name_of_an_operator_is_the_packages():
    for module in pkgutil.iter_modules(ops.__path__):
        if module.name not in ("checks", "registry"):  # of which no operator is made
            names = importlib.import_module(f"talk3d.ops.{module.name}").__all__
            assert set(names) <= set(ops.__all__), module.name


@pytest.mark.parametrize("one", [torch.float32, torch.float64])
def test_autocast_leaves_float64_alone_and_types_that_differ_are_refused(one):
    other = torch.float64 if one == torch.float32 else torch.float32
    planes, points = torch.ones(1, 3, 1, 2, 2, dtype=one), torch.zeros(1, 1, 3, dtype=other)
    calls = {
        "points": lambda: ops.sample_triplane(planes, points, box_warp=1.0, axes="zy"),
        "bias": lambda: ops.bias_act(planes[0], torch.ones(1, dtype=other)),
        "weight": lambda: ops.rollout_conv(planes, torch.ones(3, 1, 3, 3, 3, dtype=other), axes="zy"),
        "tokens": lambda: ops.token_attention(
            planes.flatten(3).mT, torch.ones(1, 2, 1, dtype=other), attention_weights(one), heads=1
        ),
    }
    for name, call in calls.items():
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=name):
            call()


def attention_weights(dtype: torch.dtype) -> ops.AttentionWeights:
    one = torch.ones(1, 1, dtype=dtype)
    return ops.AttentionWeights(*torch.ones(2, 3, 1, dtype=dtype), one, one, one, one, one[0])
