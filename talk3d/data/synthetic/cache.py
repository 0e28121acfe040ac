"""Where things are kept that can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``$TALK3D_CACHE``, or ``talk3d`` in ``$XDG_CACHE_HOME`` or where the system keeps caches; it need not exist."""
    if os.environ.get("TALK3D_CACHE"):
        return Path(os.environ["TALK3D_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "talk3d"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "talk3d" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talk3d"
