"""Checkpoints are read as they were written, and whatever a file asks for, nothing of it is run."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talk3d.weights.files import read_checkpoint
from talk3d.weights.recorded import Recorded, StoredTensor, UnreadableCheckpoint

LEGACY = {"_use_new_zipfile_serialization": False}
WRITERS = {
    "archive": torch.save,
    "legacy": lambda thing, path: torch.save(thing, path, **LEGACY),
    **{f"pickle{p}": lambda thing, path, p=p: path.write_bytes(pickle.dumps(thing, protocol=p)) for p in (3, 4, 5)},
}


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def small() -> dict[str, object]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return {"weights": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()), "epoch": 3}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_tensors_of_every_type(dtype: str, write, path: Path):
    whole = torch.randn(6, 5).mul(10).to(getattr(torch, dtype))
    tensors = [whole, whole[1:4, 2:], whole.T, whole[2], whole[3, 1], whole[:0], whole.clone()]
    write(tensors, path)
    for expected, stored in zip(tensors, read_checkpoint(path).tree, strict=True):
        found = stored.load()
        assert found.dtype == expected.dtype == stored.dtype
        assert found.shape == expected.shape == stored.shape
        assert torch.equal(found, expected)
        assert found.is_contiguous()


def test_loaded_tensors_are_copies(path: Path):
    torch.save(torch.ones(3), path)
    stored = read_checkpoint(path).tree
    stored.load().zero_()
    assert torch.equal(stored.load(), torch.ones(3))


def test_containers_numbers_and_parameters(write, path: Path):
    half = nn.Parameter(torch.tensor([0.5]))
    half.note = "kept with its state"
    tree = {
        "a": [1, -(2**70), 2.5, None, True, "ü", (), (1, 2, 3, 4)],
        "set": {"x"},
        "ordered": OrderedDict(b=1, a=2),
        "numpy": [np.float64(0.1), np.float32(0.5), np.int64(-7), np.bool_(True)],
        "size": torch.Size([2, 3]),
        "parameter": half,
        7: "number",
    }
    tree["again"] = tree["a"]
    write(tree, path)
    found = read_checkpoint(path).tree
    assert found["a"] == tree["a"]
    assert found["again"] is found["a"]
    assert list(found["ordered"].items()) == [("b", 1), ("a", 2)]
    assert found["numpy"] == [0.1, 0.5, -7, True]
    assert found["size"] == (2, 3)
    assert found[7] == "number"
    assert torch.equal(found["parameter"].load(), half.detach())


def test_objects_are_records(write, path: Path):
    write(small() | {"module": nn.Linear(2, 3, bias=False)}, path)
    checkpoint = read_checkpoint(path)
    module, optimizer = checkpoint.tree["module"], checkpoint.tree["optimizer"]
    assert isinstance(module, Recorded)
    assert module.name == "torch.nn.modules.linear.Linear"
    assert module.state["_parameters"]["weight"].shape == (3, 2)
    assert optimizer.name == "torch.optim.adam.Adam"
    assert optimizer.state["param_groups"][0]["lr"] == 0.001
    assert {"torch.nn.modules.linear.Linear", "torch.optim.adam.Adam"} <= checkpoint.names


# what a file may ask for


HOSTILE = {
    "a shell": lambda mark: Call(os.system, f"touch {mark}"),
    "a file": lambda mark: Call(open, str(mark), "w"),
    "a method": lambda mark: Call(Path.write_text, mark, "written"),
    "eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "an import": lambda mark: Call(importlib.import_module, "antigravity"),
    "a pickle": lambda mark: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {mark}"))),
    "numpy": lambda mark: Call(np.save, str(mark), 1),
    "torch": lambda mark: Call(torch.save, 1, str(mark)),
    "torch.load": lambda mark: Call(torch.load, str(mark)),
    "torch's own": lambda mark: Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {mark}"))),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("where", ["alone", "beside weights", "as a key", "in a state"])
def test_nothing_is_run(what: str, where: str, write, path: Path, tmp_path: Path):
    mark = tmp_path / "mark"
    evil = HOSTILE[what](mark)
    stateful = nn.Identity()
    stateful.evil = evil
    thing = {"alone": evil, "beside weights": small() | {"x": evil}, "as a key": {evil: 1}, "in a state": stateful}[
        where
    ]
    write(thing, path)
    with contextlib.suppress(UnreadableCheckpoint):
        read_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("what", "named"),
    [("a shell", r"posix\.system"), ("a file", r"io\.open"), ("eval", r"\w+\.eval"), ("exec", r"\w+\.exec")],
)
def test_what_is_hostile_is_named(what: str, named: str, write, path: Path):
    write(small() | {"x": HOSTILE[what](path)}, path)
    with pytest.raises(UnreadableCheckpoint, match=f"it wants {named}, which no model needs; nothing was run"):
        read_checkpoint(path)


def test_code_in_a_nested_checkpoint_is_not_run(path: Path, tmp_path: Path):
    inner = io.BytesIO()
    torch.save([torch.ones(1), Call(os.system, f"touch {tmp_path / 'mark'}")], inner, **LEGACY)
    path.write_bytes(pickle.dumps(Call(torch.storage._load_from_bytes, inner.getvalue())))
    with pytest.raises(UnreadableCheckpoint, match=r"posix\.system"):
        read_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_nested_checkpoint_may_not_nest(path: Path):
    data = b""
    for _ in range(3):
        file = io.BytesIO()
        torch.save(Call(torch.storage._load_from_bytes, data), file, pickle_protocol=4, **LEGACY)
        data = file.getvalue()
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match="a checkpoint inside a checkpoint"):
        read_checkpoint(path)


def test_modules_that_a_file_names_are_not_imported(write, path: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "talk3d_canary.py").write_text("class Canary: pass")
    monkeypatch.syspath_prepend(tmp_path)
    write({"x": importlib.import_module("talk3d_canary").Canary()}, path)
    monkeypatch.delitem(sys.modules, "talk3d_canary")
    assert read_checkpoint(path).tree["x"].name == "talk3d_canary.Canary"
    assert "talk3d_canary" not in sys.modules


# what a file may claim


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 2), (5, 1)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (1 << 40,), (0,)),  # one number, a terabyte of copies of it
        (0, (1 << 62, 1 << 62), (0, 0)),
        (0, (10**5000,), (0,)),
        (0, (2,), (10**5000,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, 2, (1,)),
        ("0", (2,), (1,)),
    ],
)
def test_tensors_stay_inside_their_numbers(offset, shape, stride, write, path: Path):
    storage = torch.arange(6.0)._typed_storage()
    write(Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, OrderedDict()), path)
    with pytest.raises(UnreadableCheckpoint):
        read_checkpoint(path)


def repacked(path: Path, entries: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive of torch.save again, with some entries other or absent."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in found.items():
            data = entries.get(name.split("/", 1)[1], data)
            if data is not None:
                archive.writestr(name, data)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"data/0": b"1234"}, "storage 0 has 4 bytes, not 6 elements of torch.float32"),
        ({"data/0": None}, "lacks its entry data/0"),
        ({"data.pkl": None}, "it has no data.pkl"),
        ({"data.pkl": b""}, "cut short or damaged"),
        ({"byteorder": b"big"}, "big-endian"),
    ],
)
def test_archives_with_other_entries(entries, sentence: str, path: Path):
    torch.save(torch.ones(6), path)
    repacked(path, entries)
    with pytest.raises(UnreadableCheckpoint, match=sentence):
        read_checkpoint(path)


def test_zip_bomb(path: Path):
    torch.save(torch.zeros(1), path)
    repacked(path, {"data/0": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(UnreadableCheckpoint, match="compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize("entry", [b"data.pkl", b"data/0"])
def test_zip_header_that_promises_more_than_the_file(entry: bytes, path: Path):
    torch.save(torch.zeros(1), path)
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02", 0, data.rindex(entry))
    data[central + 20 : central + 28] = (0xFFFFFFF0).to_bytes(4, "little") * 2  # both its sizes
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match="larger than it"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04r\xff\xff\xff\x7f.",  # LONG_BINPUT far beyond the memo
        b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b".",  # BINBYTES8 of 4 exabytes
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # LONG4 of two gigabytes
        b"\x80\x04" + b")" + b"\x85" * 100_000 + b"}\x8c\x01a" + b"s.",  # deep tuples, and a stack out of order
        b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",  # a key too deep to hash
        b"\x80\x04\x82\x01.",  # an extension code
        b"\x80\x02P1\n.",  # a persistent name
        b"\x80\x04\x8c\x01aQ.",  # a persistent object, in no archive
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"\x80\x04NR.",  # a call of nothing
        b"\x80\x04(((00000.",  # marks without a stack
        b"\x80\x04]K\x01b.",  # the state of a list
        b"\x80\x04.",
        b"\x80",
    ],
)
def test_hand_made_pickles(data: bytes, path: Path):
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint):
        read_checkpoint(path)


def test_a_tuple_may_be_deep(path: Path):
    path.write_bytes(b"\x80\x04)" + b"\x85" * 100_000 + b".")
    assert isinstance(read_checkpoint(path).tree, tuple)


# what may have happened to a file


def test_cut_short_anywhere(write, path: Path):
    write({"a": torch.arange(5.0), "b": torch.ones(3, dtype=torch.float16), "model": nn.Identity()}, path)
    data = path.read_bytes()
    for size in {*range(0, len(data) - 1, 7), *range(64), *range(len(data) - 64, len(data))}:
        path.write_bytes(data[:size])
        with pytest.raises(UnreadableCheckpoint, match="checkpoint: "):
            read_checkpoint(path)


def test_damaged_anywhere(write, path: Path):
    write(small(), path)
    data, dice = path.read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 1, 1, 8])):
            damaged[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            tree = read_checkpoint(path).tree
        except UnreadableCheckpoint:
            continue
        for tensor in (
            tree.get("weights", {}).values() if isinstance(tree, dict) and isinstance(tree.get("weights"), dict) else ()
        ):
            assert not isinstance(tensor, StoredTensor) or isinstance(tensor.load(), Tensor)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "neither a pickle nor a file of PyTorch but text"),
        (b"<!DOCTYPE html>\n<html>", "but text, perhaps a web page"),
        (b"cos\nsystem\n(S'true'\ntR.", "but text"),
        (b"\x93NUMPY\x01\x00v\x00", "neither a pickle nor a file of PyTorch$"),
        (b"PK\x03\x04", "cut short or damaged"),
    ],
)
def test_files_of_another_kind(data: bytes, sentence: str, tmp_path: Path):
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match=sentence):
        read_checkpoint(path)


def test_programs_are_refused(path: Path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/constants.pkl", pickle.dumps(()))
    with pytest.raises(UnreadableCheckpoint, match="TorchScript"):
        read_checkpoint(path)


def test_messages_cannot_write_to_the_terminal(path: Path):
    path.write_bytes(b"\x80\x04\x8c\x02os\x8c\x0a\x1b[2Jsystem\x93.")
    with pytest.raises(UnreadableCheckpoint) as caught:
        read_checkpoint(path)
    assert "\x1b" not in str(caught.value)
