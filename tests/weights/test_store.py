"""Folders of weights: what is written is read, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from talk3d.weights import Weights, load_driver, load_generator, read_weights, store, write_weights

WEIGHTS = Weights(
    "generator",
    {"generator": {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(2)}, "other": {}},
    {"axes": "zy", "notes": ["one"]},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "weights"
    write_weights(WEIGHTS, folder)
    return folder


def change(folder: Path, **values: object) -> None:
    path = folder / store.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip(folder: Path):
    found = read_weights(folder, "generator")
    assert (found.kind, dict(found.facts), list(found.parts)) == ("generator", WEIGHTS.facts, ["generator", "other"])
    for name, tensor in WEIGHTS.parts["generator"].items():
        assert torch.equal(found.parts["generator"][name], tensor)
        assert found.parts["generator"][name].dtype == tensor.dtype


def test_an_empty_folder_may_be_there(tmp_path: Path):
    write_weights(WEIGHTS, tmp_path)
    assert read_weights(tmp_path).kind == "generator"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path):
    target = tmp_path / "taken"
    target.write_text("mine") if kind == "file" else (target / "mine").mkdir(parents=True)
    with pytest.raises(ValueError, match="taken exists already"):
        write_weights(WEIGHTS, target)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_weights(WEIGHTS, tmp_path / "weights")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"version": 2}, "is of version 2, and this talk3d reads version 1"),
        ({"format": "other"}, "does not describe weights of talk3d"),
        ({"kind": "driver"}, "holds the weights of a driver, not of a generator"),
        ({"parts": ["../secret"]}, "its parts are not names"),
        ({"parts": None}, "its parts are not names"),
        ({"parts": ["absent"]}, r"absent\.safetensors is missing"),
    ],
)
def test_what_does_not_fit(values, sentence: str, folder: Path):
    change(folder, **values)
    with pytest.raises(ValueError, match=sentence):
        read_weights(folder, "generator")


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_damaged_description(text: str, folder: Path):
    (folder / store.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"is damaged: it is not JSON|does not describe"):
        read_weights(folder)


def test_no_description(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no weights: it has no weights\.json"):
        read_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_damaged_tensors(size: int, folder: Path):
    path = folder / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        read_weights(folder)


def test_networks_need_their_description(folder: Path):
    with pytest.raises(ValueError, match="is damaged: it does not describe its config"):
        load_generator(folder)
    change(folder, config={"rendering": {"axes": "zy"}, "w_dim": 32, "plane_resolution": 8})
    with pytest.raises(ValueError, match=r"generator\.safetensors is another network's"):
        load_generator(folder)
    change(folder, kind="driver", networks={"unet": {}})
    with pytest.raises(ValueError, match="its networks cannot be made"):
        load_driver(folder)


@pytest.mark.parametrize(
    ("path", "reason"), [("none", "does not exist"), ("file", "is a file"), ("file/none", "does not exist")]
)
def test_what_is_no_folder_of_weights_is_named(path, reason, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"{path} {reason}; it should be a folder of weights, with weights\.json"):
        read_weights(tmp_path / path)


def test_below_a_file_nothing_can_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/deep/w cannot be made: part of its path is a file"):
        write_weights(WEIGHTS, tmp_path / "file" / "deep" / "w")
