"""Ranges: who sees them, and that nobody pays for them who does not look."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity

import talk3d
from talk3d.models import Conditions
from talk3d.profiling import annotate, observe

STAGES = {
    "audio", "tokens", "unet.mid", "unet.up1", "unet.up2", "unet.up3", "compose", "render.rays", "render",
    *(f"sr.b1.{part}" for part in ("up", "fir", "conv", "rgb")), "io.uint8",
}  # fmt: skip


def frame(avatar, *, baked: bool) -> set[str]:
    features = torch.randn(1, 8, 16, 7)
    conditions = Conditions(torch.rand(1), torch.randn(1, 3), torch.rand(1, 3, 2))
    cameras = avatar.identity.config.camera()[None]
    made = avatar.bake()
    seen: list[str] = []
    with observe(lambda name, begins: seen.append(name)):
        shown = made.frames(made.tokens(features, conditions), cameras) if baked else None
        made.compose(avatar(features, conditions, cameras) if shown is None else shown)
    return set(seen)


def edges(function) -> list[tuple[str, bool]]:
    seen: list[tuple[str, bool]] = []
    with observe(lambda name, begins: seen.append((name, begins))):
        function()
    return seen


def test_a_name_that_begins_with_a_dot_goes_on_from_the_range_around_it():
    def run():
        with annotate("sr.b0"), annotate(".conv"):
            pass
        with annotate(".conv"):
            pass

    assert [name for name, begins in edges(run) if begins] == ["sr.b0", "sr.b0.conv", "conv"]


def test_a_range_ends_where_an_error_leaves_it():
    def run():
        with pytest.raises(KeyError), annotate("render"), annotate(".coarse"):
            raise KeyError
        with annotate(".coarse"):
            pass

    assert edges(run) == [
        ("render", True), ("render.coarse", True), ("render.coarse", False), ("render", False),
        ("coarse", True), ("coarse", False),
    ]  # fmt: skip


@pytest.mark.parametrize("semantics", ["published", "aligned"])
def test_stages_of_a_frame_have_the_same_names_baked_and_unbaked(make_avatar, semantics):
    avatar = make_avatar(semantics)
    wanted = STAGES | ({"unet.head"} if semantics == "aligned" else set())
    baked, unbaked = frame(avatar, baked=True), frame(avatar, baked=False)
    assert wanted <= baked
    assert unbaked - baked == {"unet.id_cache"}


def test_the_page_names_the_files_that_open_ranges():
    root = Path(__file__).parents[1]
    rows = (root / "docs/profiling.md").read_text().split("## Ranges")[1].split("## ")[0].splitlines()
    named = {file for row in rows if row.startswith("|") for file in re.findall(r"`([\w/]+\.py)`", row.split("|")[3])}
    sources = {path.relative_to(root / "talk3d"): path.read_text() for path in root.glob("talk3d/**/*.py")}
    assert named == {str(path) for path, text in sources.items() if re.search(r"^ +with annotate\(", text, re.M)}


def test_the_reference_renderer_tells_its_passes_apart(make_avatar):
    with talk3d.use("reference"):
        found = frame(make_avatar(), baked=True)
    assert {"render.coarse", "render.pdf", "render.fine", "render.color"} <= found


def test_torch_profiler_shows_them():
    profile = torch.profiler.profile(activities=[ProfilerActivity.CPU], acc_events=True)
    with profile as recorded, annotate("sr.b0"), annotate(".conv"):
        torch.ones(3).sum()
    assert {"sr.b0", "sr.b0.conv"} <= {event.key for event in recorded.key_averages()}


def test_an_nvtx_tool_shows_them(tmp_path: Path):
    pytest.importorskip("nvtx")
    headers = next((path for folder in sys.path for path in Path(folder).glob("nvidia/*/include/nvtx3")), None)
    compiler = shutil.which("cc")
    if not headers or not compiler:
        pytest.skip("needs a C compiler and the headers of NVTX, which come with torch for CUDA")
    tool = tmp_path / "tool.so"
    source = Path(__file__).with_name("nvtx_tool.c")
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{headers.parent}", source, "-o", tool], check=True)
    code = """
from talk3d.profiling import annotate
for _ in range(2):
    with annotate("sr.b0"), annotate(".conv"):
        pass
"""
    environment = os.environ | {"NVTX_INJECTION64_PATH": str(tool)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == 2 * "talk3d@sr.b0\n talk3d@sr.b0.conv\n"


@pytest.mark.compile
def test_a_compiled_graph_has_none():
    def function(x):
        with annotate("render"), annotate(".coarse"):
            return x + 1

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert edges(lambda: compiled(torch.zeros(2))) == []
    assert torch.equal(compiled(torch.zeros(2)), torch.ones(2))


def test_it_costs_nothing_that_a_frame_would_notice():
    def run():
        with annotate("unet.mid"):
            pass

    # 0.3 us here; a frame has some 30, and the fastest that is hoped for takes 1 ms
    assert min(timeit.repeat(run, number=2000, repeat=5)) / 2000 < 3e-6


def test_no_cuda_context(tmp_path: Path):
    code = "import torch, talk3d.profiling as p\nwith p.annotate('x'): pass\nassert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
