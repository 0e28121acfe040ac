"""Kernels are compiled in processes that do not interpret; side by side, as each takes a core for a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
def compiled_ahead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Give what a script of :data:`SCRIPTS` prints."""
    folder = tmp_path_factory.mktemp("ahead")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    running = {}
    for name, script in SCRIPTS.items():
        with (folder / f"{name}.json").open("w") as out, (folder / f"{name}.log").open("w") as log:
            cache = {"TRITON_CACHE_DIR": str(folder / name)}
            running[name] = subprocess.Popen([sys.executable, *script], env=environment | cache, stdout=out, stderr=log)

    def wait(name: str) -> Any:
        assert running[name].wait() == 0, (folder / f"{name}.log").read_text()
        return json.loads((folder / f"{name}.json").read_text())

    yield wait
    for process in running.values():
        process.kill()
        process.wait()
