"""Settings of training as a file of TOML, and the difference between two."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from talk3d.beside import replacing
from talk3d.training.config import FitConfig

__all__ = ["CONFIG", "changes", "from_dict", "leaves", "read_config", "run_folder", "to_dict", "write_config"]

CONFIG = "config.toml"  # in a run's folder

Settings = TypeVar("Settings")


def run_folder(out: Path) -> Path:
    """Where checkpoints, previews and figures of an avatar's training are: beside it, ``ada.fit`` for ``ada``."""
    out = out.absolute()
    return out.with_name(f"{out.name}.fit")


def to_dict(config: FitConfig) -> dict[str, Any]:
    """As plain values, ready for TOML and JSON: without what is None, and paths as text."""
    return _plain(asdict(config))


def from_dict(values: Mapping[str, Any], base: FitConfig | None = None) -> FitConfig:
    """Read what :func:`to_dict` wrote; what is missing is as in ``base``.

    Raises:
        ValueError: If a name is unknown, or a value is of another type.
    """
    return _updated(base or FitConfig(), values, "")


def read_config(path: Path, base: FitConfig | None = None) -> FitConfig:
    """Read a file of TOML; what it does not say is as in ``base``.

    Raises:
        ValueError: If it cannot be read, or says what does not fit.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return from_dict(tomllib.loads(path.read_text()), base)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_config(config: FitConfig, path: Path) -> None:
    """Write a file of TOML, that :func:`read_config` reads; it appears whole."""
    import tomli_w

    with replacing(path) as unfinished:
        unfinished.write_text(tomli_w.dumps(to_dict(config)))


def changes(before: FitConfig, after: FitConfig) -> list[str]:
    """Names of the settings that differ, such as ``"driver.batch"``."""
    old, new = leaves(asdict(before)), leaves(asdict(after))
    return [name for name in old if old[name] != new[name]]


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary, with names such as ``"driver.batch"``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, dict) else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }


def _updated(settings: Settings, values: Mapping[str, Any], prefix: str) -> Settings:
    hints, changed = get_type_hints(type(settings)), {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"there is no setting {prefix}{name}")
        old, kind = getattr(settings, name), hints[name]
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ValueError(f"{prefix}{name} must be a table, got {value!r}")
            changed[name] = _updated(old, value, f"{prefix}{name}.")
        else:
            changed[name] = _typed(kind, value, prefix + name)
    return replace(settings, **changed)  # type: ignore[type-var]


def _typed(kind: Any, value: Any, name: str) -> Any:
    """A value of TOML as what a setting wants; a whole number will do for a real one."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for candidate in kinds:
        if get_origin(candidate) is Literal and value in get_args(candidate):
            return value
        if candidate is Path and isinstance(value, str):
            return Path(value)
        if candidate is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if candidate in (int, bool, str) and type(value) is candidate:
            return value
    raise ValueError(f"{name} must be {_said(kind)}, got {value!r}")


def _said(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return str(getattr(kind, "__name__", kind))
