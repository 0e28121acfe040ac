"""A compiled library that is not there has a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from talk3d import native


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where ``native`` looks for the note of the build."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    native.available.cache_clear()
    yield tmp_path / "_build.json"
    native.available.cache_clear()


def test_never_installed(record):
    assert "never installed" in native.available("cpu")


def test_not_built(record):
    record.write_text(json.dumps({"cpu": None, "cuda": "it was built without nvcc"}))
    assert native.available("cuda") == "talk3d has no cuda kernels: it was built without nvcc"
    with pytest.raises(ImportError, match="without nvcc"):
        native.load("cuda")


def test_built_for_another_python(record, monkeypatch):
    record.write_text(json.dumps({"cpu": None}))
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    assert "for this Python" in native.available("cpu")


def test_not_loadable(record, monkeypatch):
    record.write_text(json.dumps({"cpu": None}))
    library = record.with_name("_cpu.so")
    library.write_bytes(b"not a library" * 99)
    monkeypatch.setattr(native, "find_spec", lambda name: ModuleSpec(name, None, origin=str(library)))
    assert "cannot be loaded" in native.available("cpu")
    assert "invalid ELF header" in native.available("cpu")
