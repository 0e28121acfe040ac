"""Weights at rest: a folder of safetensors beside one JSON file that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from talk3d.beside import make_parent, replacing

__all__ = ["FILE", "VERSION", "Weights", "read_facts", "read_weights", "write_weights"]

FILE = "weights.json"
VERSION = 1


@dataclass(frozen=True)
class Weights:
    """What a folder holds.

    Attributes:
        kind: ``"generator"``, ``"driver"``, ``"latent"``, ``"identity"`` (planes alone) or ``"avatar"``.
        parts: For each file, without its ending, its tensors by name.
        facts: What the tensors do not say: conventions, options, where they came from. Ready for JSON.
    """

    kind: str
    parts: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def write_weights(weights: Weights, folder: Path) -> None:
    """Write a folder, which appears whole or not at all.

    Raises:
        ValueError: If the folder exists and is not empty, or cannot be made.
    """
    folder = folder.absolute()
    _require_free(folder)
    make_parent(folder)
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        for name, tensors in weights.parts.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, unfinished / f"{name}.safetensors")
        about = {"format": "talk3d", "version": VERSION, "kind": weights.kind, "parts": list(weights.parts)}
        (unfinished / FILE).write_text(json.dumps(about | dict(weights.facts), indent=2) + "\n")
        _require_free(folder)  # for another may have been quicker


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; name another, or remove it")


def read_weights(folder: Path, kind: str | None = None) -> Weights:
    """Read what :func:`write_weights` wrote.

    Args:
        folder: The folder.
        kind: What it must hold, if that matters.

    Raises:
        ValueError: If it is no such folder, of a version or kind that does not fit, or damaged.
    """
    found, parts, facts = _described(folder)
    if kind not in (None, found):
        raise ValueError(f"{folder} holds the weights of {_a(found)}, not of {_a(kind)}")
    return Weights(found, {part: _load(folder / f"{part}.safetensors") for part in parts}, facts)


def read_facts(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Read :attr:`Weights.kind` and :attr:`Weights.facts` of a folder, and none of its tensors.

    Raises:
        ValueError: If it is no such folder, of a version that does not fit, or its description is damaged.
    """
    kind, _, facts = _described(folder)
    return kind, facts


def _described(folder: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Kind, names of the parts, and facts."""
    try:
        about = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        if not folder.exists():
            raise ValueError(f"{folder} does not exist; it should be a folder of weights, with {FILE}") from None
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file; it should be a folder of weights, with {FILE}") from None
        raise ValueError(f"{folder} holds no weights: it has no {FILE}") from None
    except OSError as error:
        raise ValueError(f"{folder / FILE} cannot be read: {error.strerror}") from None
    except (RecursionError, ValueError):
        raise ValueError(f"{folder / FILE} is damaged: it is not JSON") from None
    if not isinstance(about, dict) or about.pop("format", None) != "talk3d":
        raise ValueError(f"{folder / FILE} does not describe weights of talk3d")
    version, found, parts = (about.pop(key, None) for key in ("version", "kind", "parts"))
    if version != VERSION:
        raise ValueError(f"{folder} is of version {version}, and this talk3d reads version {VERSION}")
    if not isinstance(parts, list) or not all(isinstance(part, str) and part.isidentifier() for part in parts):
        raise ValueError(f"{folder / FILE} is damaged: its parts are not names")
    return found, parts, about


def _a(kind: object) -> str:
    return f"{'an' if str(kind)[:1] in 'aeiou' else 'a'} {kind}"


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from None
