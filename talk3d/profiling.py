"""Named ranges around the stages of a frame: in NVTX, in torch.profiler, and in what ``talk3d bench`` prints.

A range costs less than half a microsecond while nothing records, and is no part of a compiled graph. The page
``docs/profiling.md`` lists them all, with the tools that show them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch._C._autograd import _profiler_enabled  # torch has no public name for it

try:
    import nvtx
except ImportError:  # it comes with talk3d on Linux only; torch.profiler is everywhere
    nvtx = None

__all__ = ["Observer", "annotate", "observe"]

Observer = Callable[[str, bool], object]
"""Called at each edge of a range, with its name and whether it begins."""

_NOTHING: AbstractContextManager[None] = nullcontext()
# of a tool that launched this process; without one nvtx gives a dummy, and no tool can come later
_domain: Any = nvtx.get_domain("talk3d") if nvtx else None
_traced = nvtx is not None and isinstance(_domain, nvtx.Domain)
_observer: Observer | None = None
_open = threading.local()  # names of the ranges that are open, outermost first


def annotate(name: str) -> AbstractContextManager[None]:
    """Open a range for a ``with`` block.

    Args:
        name: Such as ``"unet.mid"``. What begins with a dot goes on from the name of the range around it, so that a
            layer need not know where it is used: ``".conv"`` in ``"sr.b0"`` is ``"sr.b0.conv"``.

    Example:
        >>> with annotate("unet.mid"):
        ...     pass
    """
    if torch.compiler.is_compiling() or not (_traced or _observer or _profiler_enabled()):
        return _NOTHING
    return _Range(name)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Call a function at the edges of all ranges, of any thread, inside a ``with`` block."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous


class _Range:
    """A range that somebody records. Whoever saw it begin sees it end."""

    def __init__(self, name: str) -> None:
        around = _names()[-1:]
        self._name = (around[0] + name if around else name[1:]) if name.startswith(".") else name
        self._observer = _observer
        self._profiled = torch.profiler.record_function(self._name) if _profiler_enabled() else None

    def __enter__(self) -> None:
        _names().append(self._name)
        if _traced:
            _domain.push_range(_domain.get_event_attributes(message=self._name))
        if self._profiled:
            self._profiled.__enter__()
        if self._observer:
            self._observer(self._name, True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._observer:
            self._observer(self._name, False)
        if self._profiled:
            self._profiled.__exit__(kind, error, where)
        if _traced:
            _domain.pop_range()
        _names().pop()


def _names() -> list[str]:
    if not hasattr(_open, "names"):
        _open.names = []
    names: list[str] = _open.names
    return names
