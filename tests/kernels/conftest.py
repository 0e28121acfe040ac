"""Kernels are compiled in processes of their own, which do not interpret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import compiled_triton  # noqa: E402

SCRIPTS = {
    "renderer": [str(REPOSITORY / "tests" / "kernels" / "test_compile.py")],
    "frame": [str(REPOSITORY / "benchmarks" / "compiled_triton.py"), "--json", *compiled_triton.TESTED],
}


@pytest.fixture(scope="session")
def compiled_ahead(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Give what a script of :data:`SCRIPTS` prints, which takes minutes."""

    def run(name: str) -> Any:
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
        command = [sys.executable, *SCRIPTS[name]]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return run
