"""Files and folders that appear whole or not at all, though others write to the same place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from talk3d.beside import beside, replacing
from talk3d.evaluation import report
from talk3d.evaluation.report import Report, write_report
from talk3d.geometry import Mesh, write_mesh
from talk3d.training import checkpoint
from talk3d.training.checkpoint import Checkpoints, Progress
from talk3d.weights import Weights, read_weights, store, write_weights


@pytest.fixture(autouse=True)
def _one_number(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers


def test_processes_of_one_number_write_to_different_files(tmp_path):
    names = {beside(tmp_path / "a.npy") for _ in range(2)}
    assert len(names) == 2
    assert all(name.parent == tmp_path and name.suffix == ".npy" and name.name.startswith(".") for name in names)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_fails_leaves_nothing_and_takes_nothing(kind, tmp_path):
    place = tmp_path / "place"
    place.write_text("before")

    def write(unfinished: Path) -> None:
        unfinished.write_text("half") if kind == "file" else (unfinished / "deep").mkdir(parents=True)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), replacing(place) as unfinished:
        write(unfinished)
    assert list(tmp_path.iterdir()) == [place]
    assert place.read_text() == "before"


class Meanwhile:
    """A function that calls something else once, in its midst."""

    def __init__(self, monkeypatch, module, name, inner) -> None:
        self.real, self.inner = getattr(module, name), inner
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args, **options):
        inner, self.inner = self.inner, None
        if inner is not None:
            inner()
        return self.real(*args, **options)


def test_two_write_weights(tmp_path, monkeypatch):
    first, second = (Weights("latent", {"latent": {"w": torch.full((2,), value)}}, {}) for value in (1.0, 2.0))
    Meanwhile(monkeypatch, store, "save_file", lambda: write_weights(second, tmp_path / "w"))
    with pytest.raises(ValueError, match="w exists already"):
        write_weights(first, tmp_path / "w")
    assert read_weights(tmp_path / "w").parts["latent"]["w"].tolist() == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_two_write_a_report(tmp_path, monkeypatch):
    first, second = (Report("a", "data", "test", frames, 8, [], []) for frames in (1, 2))
    picture = {"strip": b"", "curves": b"", "attention": b""}
    Meanwhile(monkeypatch, report, "_page", lambda: write_report(second, picture, tmp_path / "r"))
    write_report(first, picture, tmp_path / "r")
    assert '"frames": 1' in (tmp_path / "r" / "report.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_two_write_a_mesh(tmp_path, monkeypatch):
    import trimesh

    corners, one = torch.eye(3), torch.tensor([[0, 1, 2]])
    first, second = (Mesh(corners * size, one, torch.zeros(3, 3, dtype=torch.uint8)) for size in (1, 2))
    made = []
    real = trimesh.Trimesh.export
    monkeypatch.setattr(trimesh.Trimesh, "export", lambda self, path: (made.append(path), real(self, path)))
    for mesh in (first, second):
        write_mesh(mesh, tmp_path / "a.ply")
    assert len(set(made)) == 2
    assert trimesh.load(tmp_path / "a.ply").vertices.max() == 2


def test_two_write_a_checkpoint(tmp_path, monkeypatch):
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    checkpoints = Checkpoints(tmp_path, 3)
    names = []
    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *args: (names.append(Path(args[1]).parent), real(*args)))
    for _ in range(2):
        checkpoints.save(Progress(1), {"one": network}, optimizer)
        (tmp_path / "00000001").rename(tmp_path / f"0000010{len(names)}")
    assert len(set(names)) == 2
