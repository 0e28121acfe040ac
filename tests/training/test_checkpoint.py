"""Checkpoints: exact, whole or not at all, and never lost."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from talk3d.training import checkpoint
from talk3d.training.checkpoint import Checkpoints, Progress


def make(seed: int = 0) -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
    """Two modules and Adam, after a step."""
    torch.manual_seed(seed)
    modules = {"one": nn.Linear(3, 2), "two": nn.BatchNorm1d(2)}
    optimizer = torch.optim.Adam([p for module in modules.values() for p in module.parameters()], lr=0.01)
    modules["two"](modules["one"](torch.randn(4, 3))).square().sum().backward()
    optimizer.step()
    return modules, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path):
    modules, optimizer = make()
    Checkpoints(tmp_path, 2).save(Progress(3, 1.5, {"score": 1.5}), modules, optimizer)
    others, theirs = make(1)
    assert Checkpoints(tmp_path, 2).load(others, theirs) == Progress(3, 1.5, {"score": 1.5})
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, others[name].state_dict()[key])
    mine, found = optimizer.state_dict(), theirs.state_dict()
    assert found["param_groups"][0]["lr"] == 0.01
    for parameter, values in mine["state"].items():
        for key, value in values.items():
            assert torch.equal(value, found["state"][parameter][key])


def test_there_may_be_none(tmp_path):
    assert Checkpoints(tmp_path / "none", 2).load(*make()) is None


def test_the_last_few_stay_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in range(1, 7):
        checkpoints.save(Progress(step), *make(), best=step == 2)
    assert names(tmp_path) == ["00000002", "00000005", "00000006", "best.json"]
    assert checkpoints.load_best(make()[0]).step == 2
    assert checkpoints.load(*make()).step == 6


def test_nothing_but_tensors_and_json_is_written(tmp_path):
    Checkpoints(tmp_path, 2).save(Progress(1), *make())
    assert names(tmp_path / "00000001") == [
        "checkpoint.json", "one.safetensors", "optimizer.safetensors", "two.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch, written):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(Progress(1), *make())
    save, left = checkpoint.save_file, [written]

    def full(*arguments):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        OSError, match=r"step 2 cannot be written \(.*No space left.*\); the last complete one is .*00000001"
    ):
        checkpoints.save(Progress(2), *make())
    assert names(tmp_path) == ["00000001"]
    assert checkpoints.load(*make()).step == 1


def test_what_a_killed_run_left_is_swept(tmp_path):
    (tmp_path / ".00000001.77").mkdir()
    Checkpoints(tmp_path, 2).save(Progress(1), *make())
    assert names(tmp_path) == ["00000001"]


def test_one_that_is_there_is_not_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(Progress(1), *make())
    before = (tmp_path / "00000001" / "one.safetensors").stat().st_mtime_ns
    checkpoints.save(Progress(1), *make(), best=True)
    assert (tmp_path / "00000001" / "one.safetensors").stat().st_mtime_ns == before
    assert checkpoints.best() == tmp_path / "00000001"


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        Checkpoints(tmp_path, 2).save(Progress(1), *make())
        return tmp_path / "00000001"

    def test_cut_short(self, folder):
        path = folder / "one.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(ValueError, match="00000001 is damaged"):
            Checkpoints(folder.parent, 2).load(*make())

    def test_missing(self, folder):
        (folder / "optimizer.safetensors").unlink()
        with pytest.raises(ValueError, match="00000001 is damaged"):
            Checkpoints(folder.parent, 2).load(*make())

    def test_no_json(self, folder):
        (folder / "checkpoint.json").write_text("{")
        with pytest.raises(ValueError, match="00000001 is damaged"):
            Checkpoints(folder.parent, 2).load(*make())

    def test_another_version(self, folder):
        about = json.loads((folder / "checkpoint.json").read_text())
        (folder / "checkpoint.json").write_text(json.dumps(about | {"version": 99}))
        with pytest.raises(ValueError, match="is of version 99, and this talk3d reads version 1"):
            Checkpoints(folder.parent, 2).load(*make())

    def test_other_modules(self, folder):
        modules, optimizer = make()
        with pytest.raises(ValueError, match="holds one, two, and this run trains one"):
            Checkpoints(folder.parent, 2).load({"one": modules["one"]}, optimizer)

    def test_another_shape(self, folder):
        modules, optimizer = make()
        modules["one"] = nn.Linear(5, 2)
        with pytest.raises(ValueError, match="is of other networks"):
            Checkpoints(folder.parent, 2).load(modules, optimizer)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it cannot be read as JSON"),
        ("[" * 100_000, "it cannot be read as JSON"),
        ("[1]", "it does not say which step was the best"),
        ("{}", "it does not say which step was the best"),
        ('{"step": "1"}', "it does not say which step was the best"),
        ('{"step": null}', "it does not say which step was the best"),
        ('{"step": 7}', "the best one, 00000007, is not there"),
    ],
)
def test_a_damaged_pointer_to_the_best_is_a_sentence(content, reason, tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(Progress(1), *make(), best=True)
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(ValueError, match=rf"best\.json is damaged: {reason}; remove it to go on without"):
        checkpoints.load_best(make()[0])
    checkpoints.save(Progress(2), *make(), best=True)  # a new best one mends it
    assert checkpoints.load_best(make()[0]).step == 2
