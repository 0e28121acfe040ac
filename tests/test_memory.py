"""What a process that keeps its memory no longer pays for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys, threading
import torch
from talk3d.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    for turn in range(40):
        if turn == 20:  # at first small blocks that stay split what was kept
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
counted = []
thread = threading.Thread(target=faults)
if sys.argv[2] == "thread":
    thread.start()
    thread.join()
else:
    faults()
print(*counted)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_large_tensors_come_without_page_faults(where):
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", CODE, how, where], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert 4 * faults("keep") < faults("give back")
