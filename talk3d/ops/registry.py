"""Where operators are declared, and where the choice between implementations is made.

An operator is a contract: a schema, the shape of its results, and its derivative. An implementation is one way to
keep that contract. Contracts are registered when ``talk3d.ops`` is imported, so that they exist before anything is
traced; implementations are named as strings and loaded the first time they run.

A name is either ``"package.module:function"`` (Python: the reference, torch compositions, Triton) or ``"cpu"`` /
``"cuda"``: a kernel of ``csrc/``, found in the private namespace ``talk3d_cpu`` / ``talk3d_cuda`` under the operator's
own name. Native kernels get their schema from here too, so that the contract is written once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from talk3d import native

__all__ = ["Operator", "operators", "use"]

_log = logging.getLogger(__name__)
_LIBRARY = torch.library.Library("talk3d", "DEF")
_NATIVE = {name: torch.library.Library(f"talk3d_{name}", "DEF") for name in ("cpu", "cuda")}
_OPERATORS: dict[str, Operator] = {}

# the first that accepts the inputs is what "auto" means: fastest first
_ORDER = ("cpu", "cuda", "triton", "torch", "reference")
_default = os.environ.get("TALK3D_IMPL", "auto")

Supports = Callable[..., str | None]


def _first(args: tuple[Any, ...]) -> Tensor:
    first: Tensor = args[0][0] if isinstance(args[0], list) else args[0]
    return first


def _device(args: tuple[Any, ...]) -> str:
    return _first(args).device.type


def _current_device(impl: str, args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """Triton launches on the device that is current; everybody else sees to it themselves."""
    if impl != "triton" or _device(args) != "cuda":
        return nullcontext()
    return torch.cuda.device(_first(args).device)


def _devices(args: Iterable[Any]) -> Iterator[torch.device]:
    for each in args:
        if isinstance(each, Tensor):
            yield each.device
        elif isinstance(each, (list, tuple)):
            yield from _devices(each)


def _wrong_device(impl: str, args: tuple[Any, ...]) -> str | None:
    found = _device(args)
    if impl in _NATIVE and found != impl:
        return f"it runs on {impl} tensors, not on {found}"
    if impl == "triton" and found not in ("cpu", "cuda"):
        return f"it runs on a GPU, not on {found} tensors"
    if impl == "triton" and found == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it runs on a GPU, or on cpu tensors in Triton's interpreter (TRITON_INTERPRET=1)"
    return None


class Operator:
    """A ``torch.ops.talk3d`` operator with several interchangeable implementations.

    Args:
        schema: The contract in PyTorch's schema language, without the trailing ``str impl`` that every operator has.
        fake: Makes empty results from the schema's arguments. It reads sizes and types, never data.
        autocast: The type that floating inputs are cast to under autocast.
    """

    def __init__(self, schema: str, *, fake: Callable[..., Any], autocast: torch.dtype = torch.float32) -> None:
        self.name, _, rest = schema.partition("(")
        self._arguments, _, self._returns = rest.rpartition(") -> ")
        _LIBRARY.define(
            f"{self.name}({self._arguments}, str impl) -> {self._returns}", tags=torch.Tag.pt2_compliant_tag
        )
        _LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")

        def shaped(*args: Any) -> Any:
            self._same_device(args)
            return fake(*args[:-1])

        torch.library.register_fake(f"talk3d::{self.name}", shaped, lib=_LIBRARY)
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"talk3d::{self.name}", device, autocast, lib=_LIBRARY)
        self._op = getattr(torch.ops.talk3d, self.name).default
        self._sources: dict[str, str] = {}
        self._supports: dict[str, Supports] = {}
        self._loaded: dict[str, Callable[..., Any]] = {}
        _OPERATORS[self.name] = self

    def implement(self, impl: str, source: str | None = None, *, supports: Supports | None = None) -> None:
        """Name an implementation.

        Args:
            impl: What it is called: one of ``reference``, ``torch``, ``cpu``, ``cuda``, ``triton``.
            source: ``"module:function"``; None for the native kernel of this operator's name.
            supports: Called with the schema's arguments; says why the implementation cannot take them, or None.
        """
        if source is None:
            _NATIVE[impl].define(f"{self.name}({self._arguments}) -> {self._returns}")
        self._sources[impl] = source or impl
        if supports:
            self._supports[impl] = supports

    def differentiate(self, setup_context: Callable[..., None], backward: Callable[..., tuple[Any, ...]]) -> None:
        """Attach the derivative. ``ctx.impl`` is the implementation that was asked for in the forward."""

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.impl = inputs[-1]
            setup_context(ctx, inputs[:-1], output)

        def run(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            return *backward(ctx, *grads), None

        torch.library.register_autograd(f"talk3d::{self.name}", run, setup_context=setup, lib=_LIBRARY)

    def refuse_derivative(self, reason: str) -> None:
        """Make differentiating this operator an error rather than a silent zero."""

        def run(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            raise NotImplementedError(f"talk3d::{self.name}: {reason}")

        torch.library.register_autograd(f"talk3d::{self.name}", run, lib=_LIBRARY)

    def __call__(self, *args: Any, impl: str | None = None) -> Any:
        """Run on an implementation: the one that is named, or the one that :func:`use` prefers."""
        return self._op(*args, impl or _default)

    @property
    def implementations(self) -> tuple[str, ...]:
        """The names of all implementations, in the order in which ``auto`` tries them."""
        return tuple(impl for impl in _ORDER if impl in self._sources)

    def why_not(self, impl: str, *args: Any) -> str | None:
        """Say why an implementation cannot run on these arguments (without any: why it cannot run at all), or None."""
        if impl not in self._sources:
            return f"talk3d::{self.name} has no implementation {impl!r}; it has {', '.join(self.implementations)}"
        reason = (_wrong_device(impl, args) if args else None) or self._unavailable(impl)
        if args and not reason and impl in self._supports:
            reason = self._supports[impl](*args)
        return reason

    def function(self, impl: str) -> Callable[..., Any]:
        """The function that an implementation is, loaded now; it takes the schema's arguments."""
        return self._load(impl)

    def _unavailable(self, impl: str) -> str | None:
        if impl in self._loaded or impl in ("reference", "torch"):
            return None
        if impl in _NATIVE:
            return native.available(impl)
        try:
            self._load(impl)
        except ImportError as error:
            return f"it cannot be imported: {error}"
        return None

    def _run(self, *args: Any) -> Any:
        *args, impl = args  # type: ignore[assignment]  # the schema's arguments, then the name
        self._same_device(args)
        if impl == "auto":
            impl = self._choose(*args)
        elif reason := self.why_not(impl, *args):
            raise ValueError(f"talk3d::{self.name}, impl={impl!r}: {reason}")
        with _current_device(impl, args):
            return self._load(impl)(*args)

    def _same_device(self, args: Iterable[Any]) -> None:
        found = dict.fromkeys(_devices(args))
        if len(found) > 1:
            raise ValueError(f"talk3d::{self.name}: tensors must be on one device, got {', '.join(map(str, found))}")

    def _choose(self, *args: Any) -> str:
        for impl in self.implementations:
            reason = self.why_not(impl, *args)
            if impl == "triton" and _device(args) == "cpu":
                reason = "the interpreter is for tests: it must be asked for by name"
            if reason is None:
                return impl
            _log.debug("talk3d::%s does not run on %s: %s", self.name, impl, reason)
        raise ValueError(f"talk3d::{self.name}: no implementation accepts these inputs")

    def _load(self, impl: str) -> Callable[..., Any]:
        if impl not in self._loaded:
            source = self._sources[impl]
            if source in _NATIVE:
                native.load(source)
                self._loaded[impl] = getattr(getattr(torch.ops, f"talk3d_{source}"), self.name).default
            else:
                module, _, function = source.partition(":")
                self._loaded[impl] = getattr(import_module(module), function)
        return self._loaded[impl]


def operators() -> dict[str, Operator]:
    """All declared operators by name."""
    return dict(_OPERATORS)


@contextmanager
def use(impl: str) -> Iterator[None]:
    """Ask for one implementation inside a ``with`` block, wherever no ``impl=`` is given.

    As with ``impl=`` nothing falls back: an operator that lacks it, or whose inputs it does not accept, raises.
    It holds for all threads.
    """
    global _default
    previous, _default = _default, impl
    try:
        yield
    finally:
        _default = previous
