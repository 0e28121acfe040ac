"""What a GPU session does without a GPU: arguments, messages, gates, peers, and the roofline of made-up times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import frames  # noqa: E402
import gates  # noqa: E402
import peers  # noqa: E402
import roofline  # noqa: E402
import small_cases  # noqa: E402
import stages  # noqa: E402
from case import QUICK  # noqa: E402
from cases import CASES  # noqa: E402

WANTED = ("test_volume_cuda.py", "test_baked.py", "test_compiled.py", "test_devices.py", "test_meter.py")
SCRIPT = BENCHMARKS / "gpu_session.sh"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def session(*arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("arguments", [(), ("fly",), ("bench", "a", "b")], ids=str)
def test_wrong_use(tmp_path, arguments):
    done = session(*arguments, tmp_path=tmp_path)
    assert done.returncode == 2
    assert "usage: benchmarks/gpu_session.sh build|test|sanitize|bench|frames|all" in done.stderr


@without_gpu
@pytest.mark.parametrize("command", ["build", "test", "sanitize", "bench", "frames", "all"])
def test_says_that_there_is_no_gpu(tmp_path, command):
    done = session(command, tmp_path=tmp_path)
    assert done.returncode == 1
    assert "needs an NVIDIA GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_says_that_there_are_no_peers(tmp_path):
    done = session("bench", str(tmp_path / "nowhere"), tmp_path=tmp_path)
    assert done.returncode == 1
    assert "there is no folder" in done.stderr


@without_gpu
def test_benchmarks_on_a_gpu_say_that_there_is_none(tmp_path):
    command = [sys.executable, "-m", "pytest", str(BENCHMARKS), "--device", "cuda", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4
    assert "--device cuda needs an NVIDIA GPU" in done.stdout + done.stderr


MISSING = ("av", "librosa", "lpips", "mediapipe", "nvtx", "soundfile", "tomli_w", "torch_fidelity", "trimesh", "tyro")


def test_what_a_session_runs_needs_no_other_library(tmp_path):
    """The machine has torch, pytest and what comes with them; neither the libraries of clips nor a network."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {MISSING}:\n"
        "            raise ModuleNotFoundError(name + ' is not there', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    modules = "small_cases, frames, roofline, stages, peak_memory, cases, test_cases"
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    # the script's own words, so that none is forgotten
    tests = [str(Path(__file__).parent / name) for name in re.findall(r"\$HERE/tests/([\w/.]+)", SCRIPT.read_text())]
    assert len(tests) == 4
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout
    assert all(name in done.stdout for name in WANTED)


def test_on_a_gpu_what_triton_runs_counts_as_its_tests(tmp_path):
    """A plugin says that there is a GPU, where Triton's interpreter is."""
    (tmp_path / "pretended.py").write_text(
        "def pytest_collection(session):\n"
        "    (found,) = [p for p in session.config.pluginmanager.get_plugins() if hasattr(p, 'move_for_triton')]\n"
        "    move, found.HAS_GPU = found.move_for_triton, True\n"
        "    found.move_for_triton = lambda monkeypatch, device: move(monkeypatch, 'cpu')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1"}
    file = str(Path(__file__).parent / "ops" / "test_pencil.py")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "pretended", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout
    assert "16 passed" in done.stdout


def test_small_cases_run(capsys):
    assert small_cases.main("cpu") == 0
    assert "all kernels ran" in capsys.readouterr().out


def test_frames_and_training_steps_run(tmp_path, capsys):
    file = tmp_path / "frames.json"
    small = ["--device", "cpu", "--quick", "--batches", "1", "2", "--rounds", "1", "--json", str(file)]
    assert frames.main(small) == 0
    found = json.loads(file.read_text())
    rows = {(row["what"], row["batch"], row["side"]): row for row in found["rows"]}
    rendered = {("frames", batch, side) for batch in (1, 2) for side in ("launched", "reference")}
    assert rows.keys() == rendered | {("training", batch, side) for batch in (1, 4) for side in ("ours", "reference")}
    assert all(row["ratio"] == 1 for (_, _, side), row in rows.items() if side == "reference")
    assert {"unet", "render", "sr", "frame"} <= found["milliseconds"].keys()
    assert stages.main([str(file), "--quick"]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()[-len(stages.STAGES) :]]
    assert [row[0] for row in rows] == list(stages.STAGES)
    for row in rows:  # each has a time, and each roof a floor
        assert float(row[1]) > 0
        assert all(float(floor) >= 0 for floor in row[4:9])
        assert row[9] in roofline.ROOFS
    assert "a second" not in said  # a rate belongs to a GPU with a name


@without_gpu
def test_frames_on_a_gpu_say_that_there_is_none(capsys):
    assert frames.main([]) == 1
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_gates_of_a_gpu_are_those_of_the_plan():
    rows = {gate.key: gate for gate in gates.load(BENCHMARKS / "gates-cuda.toml", CASES)}
    forward = rows["render_rays_forward_float16", "reference", "time"]
    assert (forward.at_least, forward.aim) == (12, 17)
    assert rows["render_rays_backward_planes_float16", "reference", "time"].at_least == 5
    assert rows["render_rays_forward_backward_planes", "reference", "memory"].at_least == 50
    assert {gate.peer for gate in rows.values()} == {"reference", "compile", "lightplane"}


def test_a_public_peer_is_a_file(tmp_path):
    name = "sample_triplane_forward"
    (tmp_path / "mine.py").write_text(f"PEERS = {{{name!r}: lambda size: lambda texels, points: (points,)}}\n")
    found = peers.load("mine", tmp_path, CASES)
    assert found.keys() == {name}
    points = torch.zeros(1, 2, 3)
    assert found[name](QUICK)(torch.zeros(1), points)[0] is points
    with pytest.raises(ValueError, match=r"has no lightplane\.py"):
        peers.load("lightplane", tmp_path, CASES)
    (tmp_path / "bad.py").write_text("PEERS = {'fly': None}\n")
    with pytest.raises(ValueError, match=r"bad\.py: there is no case fly"):
        peers.load("bad", tmp_path, CASES)


def test_roofs_by_hand():
    given = roofline.Rates(dram=10.0, l2=20.0, l1=40.0, tensor=100.0, issue=8.0, mufu=1.0)
    work = roofline.Work(dram=10.0, l2=10.0, l1=10.0, tensor=100.0, issue=16.0, mufu=3.0)
    floors = {"dram": 1.0, "l2": 0.5, "l1": 0.25, "tensor": 1.0, "issue": 3.0}  # the special function unit is slower
    assert work.floors(given) == floors


def test_roofline_of_times_that_are_made_up(tmp_path, capsys):
    entries = [{"name": f"test_time[{name}]", "param": name, "stats": {"median": 1e-3}} for name in roofline.WORK]
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"benchmarks": [*entries, {"name": "other", "param": None, "stats": {"median": 1}}]}))
    assert roofline.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(roofline.WORK)
    given = roofline.rates(BENCHMARKS / "results" / "rates.json", "nvidia-h200")
    rows = {row["case"]: row for row in roofline.table(roofline.read(path), given, "sm_90")}
    half = rows["render_rays_forward_float16"]
    assert half["us"] == "1000.0"
    assert half["binding"] == "issue"
    # some 40 instructions for each of 1.57 million samples
    assert float(half["issue"]) == pytest.approx(1e6 * 40 * 128**2 * 96 / given.issue, rel=0.05)
    assert float(half["percent"]) == pytest.approx(float(half["issue"]) / 10, abs=1)
    assert rows["render_rays_backward_planes"]["binding"] == "l2"  # a sum for each tap


def test_roofline_says_what_it_does_not_know(tmp_path, capsys):
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"benchmarks": []}))
    assert roofline.main([str(path)]) == 1
    assert "has no times of" in capsys.readouterr().err
    assert roofline.main([str(path), "--gpu", "abacus"]) == 1
    assert "knows nvidia-h200, not abacus" in capsys.readouterr().err
