"""What contracts have in common, and their examples."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest
import torch

from talk3d import ops
from talk3d.ops.checks import arrive_alike, no_triton_type, require_alike

FILES = [path for path in sorted(Path(ops.__file__).parent.glob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("file", [path.stem for path in FILES])
def test_examples_run(file):
    found = doctest.testmod(import_module(f"talk3d.ops.{file}"), extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0


def test_types_arrive_alike_under_autocast():
    one, other, exact = (torch.zeros(1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64))
    assert not arrive_alike(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert arrive_alike(one, other)
        assert not arrive_alike(one, exact)


def test_what_does_not_go_together_is_named():
    with pytest.raises(ValueError, match=r"bias \(torch.float64, cpu\) must have the type and device of planes"):
        require_alike("bias", torch.zeros(1, dtype=torch.float64), torch.zeros(1), "planes")
    require_alike("bias", torch.zeros(1), torch.zeros(2))


def test_what_triton_takes():
    assert no_triton_type(torch.zeros(1, dtype=torch.float16)) is None
    assert no_triton_type(torch.zeros(1, dtype=torch.float64)) == (
        "it takes float32, bfloat16 and float16, not torch.float64"
    )
