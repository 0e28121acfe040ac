"""What docstrings refer to is there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import talk3d

ROOT = Path(talk3d.__file__).parent
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc):`~?([\w.]+)(?:\(\))?`")


def places(module: Any) -> Iterator[Any]:
    """Where a name may be looked up that is not absolute."""
    yield module
    yield from (found for found in vars(module).values() if getattr(found, "__module__", "") == module.__name__)


def is_there(name: str, module: Any) -> bool:
    if name.startswith("."):  # of the same package
        name = module.__spec__.parent + name
    parts = name.split(".")
    for count in range(len(parts), 0, -1) if "." in name else ():
        try:
            return reaches(importlib.import_module(".".join(parts[:count])), parts[count:])
        except ImportError:
            continue
    return any(reaches(place, parts) for place in places(module))


def reaches(found: Any, parts: list[str]) -> bool:
    for part in parts:
        fields = getattr(found, "__annotations__", {})  # of instances
        if not hasattr(found, part) and part not in fields:
            return False
        found = getattr(found, part, None)
    return True


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_roles_name_what_is_there(path):
    names = set(ROLE.findall(path.read_text()))
    if names:
        parts = ("talk3d", *path.relative_to(ROOT).with_suffix("").parts)
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        assert not [name for name in sorted(names) if not is_there(name, module)]
