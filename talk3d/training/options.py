"""How the command line shows options: what it does not find out by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

__all__ = ["OptionalPath", "named"]


def named(name: str) -> Any:
    """What help calls the value of an option; by itself it writes ``{None}|PATH`` where one may be left out."""
    return tyro.conf.arg(metavar=name)


OptionalPath = Annotated[Path | None, named("PATH")]
