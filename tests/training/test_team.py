"""Two processes train as one does with twice the parts; a process that dies is named, and the others stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from talk3d.training.loop import Parted, train
from talk3d.training.record import Recorder, Silent
from talk3d.training.team import SOLO, Parts, Team
from tests.training.test_loop import RUN, Line

# what a process of torchrun does; it is told by its environment which it is
_CHILD = """
import importlib.util, sys
from dataclasses import replace
from pathlib import Path
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
here, out, parts, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
conftest, tests = load("conftest", here / "conftest.py"), load("tests", here / "test_fit.py")
from talk3d.models import superresolution
from talk3d.training import fit, loop, team
import torch
torch.set_num_threads(1)
superresolution.VARIANTS["tiny"] = superresolution._Shape(8, (8, 8), (2, 2))
fit.Dataset = lambda folder: conftest.Clip()
step = loop._step
def told(stage, number, *rest):
    print(stage.name, number, flush=True)
    return step(stage, number, *rest)
loop._step = told
config = conftest.tiny_config()
config = replace(config, parts=parts, driver=replace(config.driver, steps=steps))
config = replace(config, run=replace(config.run, save_every=5))
try:
    fit.fit(Path("clip"), out, config, quiet=True, identity_stages=lambda c: [tests.Rest(c)])
except team.TeamBroken as error:
    print(error, flush=True)
    sys.exit(3)
"""


def start(out: Path, parts: int, steps: int, rank: int = 0, size: int = 1, port: int = 0) -> subprocess.Popen:
    team = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in team.items()} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(out), str(parts), str(steps)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def children():
    """Processes of a test, which do not outlive it."""
    running: list[subprocess.Popen] = []
    yield running
    for child in running:
        child.kill()
        child.wait()
        child.stdout.close()


def test_two_processes_end_where_one_does(tmp_path, children):
    port = free_port()
    children += [start(tmp_path / "two", 2, 20, rank, 2, port) for rank in range(2)]
    children.append(start(tmp_path / "one", 2, 20))
    said = [child.communicate(timeout=500)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    compared = 0
    for path in (tmp_path / "one").glob("*.safetensors"):
        one, two = load_file(path), load_file(tmp_path / "two" / path.name)
        for name, value in one.items():
            assert (two[name] - value).abs().max() <= 1e-6 * value.abs().max(), f"{path.name}: {name}"
        compared += len(one)
    assert compared > 50


@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_is_named_and_the_other_stops_within_a_minute(tmp_path, children, dies):
    port = free_port()
    children += [start(tmp_path / "two", 2, 2000, rank, 2, port) for rank in range(2)]
    for line in children[dies].stdout:
        if line == "driver 5\n":  # the checkpoint is behind, where processes wait between two steps
            break
    children[dies].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    said, _ = children[1 - dies].communicate(timeout=100)
    assert time.monotonic() - begin < 60
    assert children[1 - dies].returncode == 3, said
    assert f"process {dies} of 2 is gone in step" in said
    assert "go on with --resume" in said


def test_parts_of_one_process_are_averaged(tmp_path):
    """Two parts of a step are two batches: their mean gradient, whatever the number of parts."""
    seen = []

    class Two(Line):
        def losses(self, step, generator):
            seen.append((step, parts.now, torch.rand((), generator=generator).item()))
            return {"line": (parts.now + 1) * self.line.weight.sum()}

        def optimizer(self):
            return torch.optim.SGD(self.line.parameters(), lr=1.0)

        def rate(self, step):
            return 1.0

    parts = Parts()
    parts.count = 2
    stage = Two()
    stage.steps, before = 1, stage.line.weight.detach().clone()
    with Recorder(tmp_path, quiet=True) as recorder:
        train(stage, tmp_path, replace(RUN, clip=0.0), recorder, parted=Parted(parts))
    torch.testing.assert_close(stage.line.weight, before - 1.5)
    assert [(step, now) for step, now, _ in seen] == [(0, 0), (0, 1)]
    assert seen[0][2] != seen[1][2]
    assert stage.line.bias.grad is None


def test_who_measures_is_waited_for(tmp_path):
    happened = []

    class Listening(Team):
        def wait(self):
            happened.append("wait")

    class Told(Line):
        def measure(self):
            happened.append("measure")
            return super().measure()

    with Recorder(tmp_path, quiet=True) as recorder:
        train(Told(), tmp_path, RUN, recorder, parted=Parted(Parts(), Listening()))
    measured = [k for k, what in enumerate(happened) if what == "measure"]
    assert measured
    assert all(happened[k + 1] == "wait" for k in measured)


def test_a_stage_without_parts_has_one(tmp_path):
    class Whole(Line):
        parted = False

    found = []
    for count in (1, 3):
        parts, stage = Parts(), Whole()
        parts.count = count
        with Recorder(tmp_path / str(count), quiet=True) as recorder:
            train(stage, tmp_path / str(count), RUN, recorder, parted=Parted(parts))
        found.append(stage.line.weight.detach())
    assert torch.equal(*found)


def test_parts_are_shared_out():
    assert list(SOLO.mine(3)) == [0, 1, 2]
    assert [list(Team(rank, 2).mine(4)) for rank in range(2)] == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match=r"2 processes share out .*: --parts must be a multiple of 2, got 3"):
        Team(0, 2).mine(3)
    assert not Team(1, 2).leads


def test_a_silent_recorder_writes_nothing(tmp_path):
    with Silent(tmp_path) as recorder:
        recorder.say("a")
        recorder.begin("b", 0, 1)
        recorder.figures("b", 0, {"c": 1.0})
        recorder.pictures("b", 0, {"c": torch.zeros(2, 2, 3, dtype=torch.uint8)})
        recorder.advance(1)
    assert not list(tmp_path.iterdir())


# a team that meets once, to which the leader comes late, or never
_MEETING = """
import os, sys, time
import torch
from talk3d.training import team
team._PATIENCE, team._LISTEN = 4.0, 2.5
mine = team.join(torch.device("cpu"))
if mine.leads:
    print("joined", flush=True)
    time.sleep(10)
try:
    mine.wait()
    print("met", flush=True)
except team.TeamBroken as error:
    print(error, flush=True)
    sys.exit(3)
mine.leave()
"""


@pytest.mark.parametrize("dies", [False, True])
def test_who_lives_is_waited_for_however_late(children, dies):
    port = free_port()
    for rank in range(2):
        team = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in team.items()} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _MEETING]
        children.append(
            subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
    leader, other = children
    assert leader.stdout.readline() == "joined\n"
    if dies:
        leader.kill()
    said, _ = other.communicate(timeout=120)
    if dies:
        assert "process 0 of 2 is gone between two steps" in said
        assert other.returncode == 3
    else:
        assert (said, other.returncode) == ("met\n", 0)
