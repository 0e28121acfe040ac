"""The C library's memory, for processes that are talk3d's own."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
_NEVER = -1  # of trimming; any other number is at most 2 GiB, and a training step frees more than that


def keep_freed_memory() -> bool:
    """Make glibc keep what is freed for the next allocation, instead of giving it back to the system.

    Activations of a super-resolution are larger than glibc ever keeps, so that each pass maps and clears them anew: a
    fifth of a frame's time on a CPU. The whole process is changed, and stays at its peak of memory; a library must not
    do that unasked, a command may.

    Returns:
        Whether it could be done: elsewhere than on Linux with glibc there is nothing to do.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # other threads' arenas give back whole pieces of 64 MiB whatever they are told: all threads shall share the first
    return all(libc.mallopt(*setting) for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1)))
