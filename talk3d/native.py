"""The compiled kernels of ``csrc/``: one library for each device, or the reason why it is not there."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

__all__ = ["available", "load"]


@cache
def available(name: str) -> str | None:
    """Load the library ``"cpu"`` or ``"cuda"``, once; return None, or the sentence that says why that is impossible."""
    record = Path(__file__).with_name("_build.json")
    if not record.is_file():
        return "talk3d was never installed: run pip install --no-build-isolation -e . in its repository"
    if reason := json.loads(record.read_text())[name]:
        return f"talk3d has no {name} kernels: {reason}"
    library = find_spec(f"talk3d._{name}")
    if library is None or library.origin is None:
        return f"talk3d has no {name} kernels for this Python: install it again"
    try:
        torch.ops.load_library(library.origin)
    except OSError as error:
        cause = error.__cause__ or error  # torch's own message names the file alone
        return f"the {name} kernels of talk3d cannot be loaded: {cause}"
    return None


def load(name: str) -> None:
    """Load the library ``"cpu"`` or ``"cuda"``, so that its kernels stand behind the schemas of the registry.

    Raises:
        ImportError: If that is impossible; with the reason.
    """
    if reason := available(name):
        raise ImportError(reason)
