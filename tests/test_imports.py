"""What a fresh process pays for ``import talk3d``, and what it can do at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CALL = """
import torch
from talk3d import ops
from talk3d.testing import head_planes
planes, decoder = head_planes(size=8)
points = torch.zeros(1, 5, 3)
origins = torch.tensor([0, 0, 2.7]).expand(1, 5, 3)
directions = torch.tensor([0, 0, -1.0]).expand(1, 5, 3)
options = ops.RenderOptions(near=2.2, far=3.3, coarse=4, fine=4, axes="zy")
def sample(impl=None):
    return ops.sample_triplane(planes, points, box_warp=1.0, axes="zy", impl=impl)
def render(impl=None):
    return ops.render_rays(planes, decoder, origins, directions, options, impl=impl)
"""


def fresh(code: str, folder: Path) -> None:
    """Run code in a process of its own, away from the repository."""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_import_is_light(tmp_path: Path):
    fresh(
        """
import sys
import talk3d
import torch
assert not torch.cuda.is_initialized()
assert not torch.ops.loaded_libraries
heavy = {"triton", "matplotlib", "mediapipe", "transformers", "talk3d.reference", "talk3d.kernels"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""",
        tmp_path,
    )


def test_synthetic_clip_is_light_until_it_is_made(tmp_path: Path):
    fresh(
        """
import sys
from talk3d.data import synthetic
from talk3d.data.synthetic import motion, speech
heavy = {"av", "mediapipe", "numba", "soundfile"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""",
        tmp_path,
    )


def test_without_triton(tmp_path: Path):
    fresh(
        """
import sys
sys.modules["triton"] = None
"""
        + CALL
        + """
from talk3d.ops.registry import operators
assert "triton" in operators()["sample_triplane"].why_not("triton")
for run in (sample, render):
    run()
    run(impl="reference")
""",
        tmp_path,
    )


@pytest.mark.compile
@pytest.mark.parametrize("operator", ["sample", "render"])
def test_first_call_may_be_compiled(operator: str, tmp_path: Path):
    fresh(
        CALL
        + f"""
first = torch.compile({operator}, fullgraph=True, backend="aot_eager")()
torch.testing.assert_close(first, {operator}())
""",
        tmp_path,
    )
