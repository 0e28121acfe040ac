"""A training step asks a GPU for nothing that it would have to wait for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from talk3d.training.config import DriverLosses, Term
from talk3d.training.driver import DriverStage
from talk3d.training.loop import Parted, _Losses, _step
from talk3d.training.perceptual import Perceptual
from talk3d.training.targets import Targets
from talk3d.training.team import Parts

# what a host can only do with numbers that it has
_WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "_unique2"}


class Refuse(TorchDispatchMode):
    """Refuse to look at what depends on some tensors, which stand for those on a GPU."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.there = WeakTensorKeyDictionary()
        for tensor in tensors:
            self.there[tensor] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = any(isinstance(leaf, Tensor) and leaf in self.there for leaf in tree_leaves((args, kwargs or {})))
        assert not (read and func.overloadpacket.__name__ in _WAITS), f"{func} would wait for a GPU"
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((found, args if read and func._schema.is_mutable else ())):
            if read and isinstance(leaf, Tensor):
                self.there[leaf] = True
        return found


def on_the_device(stage: DriverStage) -> list[Tensor]:
    """Everything that lies where the networks do."""
    modules = [*stage.modules().values(), stage.context.identity]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


class Quiet:
    def figures(self, *_: object) -> None: ...


def test_what_waits_is_refused():
    x = torch.ones(3)
    with Refuse([x]):
        (2 * x).sum()
        torch.ones(1).item()  # the host's own
        for look in (lambda: (2 * x).sum().item(), lambda: bool((x > 0).all()), lambda: x.nonzero()):
            with pytest.raises(AssertionError, match="would wait for a GPU"):
                look()


def test_a_step_of_the_driver_waits_for_nothing(make_context, make_config, monkeypatch):
    on = Term(weight=0.5)
    names = ("l1", "perceptual", "mouth", "eyes", "matte", "temporal", "delta", "exchange", "articulation")
    settings = make_config()
    settings = replace(settings, driver=replace(settings.driver, losses=DriverLosses(**dict.fromkeys(names, on))))
    stage = DriverStage(make_context(settings), Perceptual())
    stage.begin()
    optimizer = stage.optimizer()
    how = (settings.run, 0, Parted(Parts()), False)
    _step(stage, 0, optimizer, how)  # what is made once may look
    losses = _Losses("driver", Quiet(), every=100)
    losses._check = lambda *_: []  # which a CPU does at once, and a GPU when a log is due
    refuse, seen = Refuse(on_the_device(stage)), []

    def targets(*arguments: Any) -> Any:
        target = found(*arguments)
        seen.append(target)
        for tensor in target:
            refuse.there[tensor] = True
        return target

    found = Targets.__call__
    monkeypatch.setattr(Targets, "__call__", targets)
    monkeypatch.setattr("talk3d.arguments._may_look", lambda value: False)  # as it says of what is on a GPU
    with refuse:
        for step in (1, 2):
            losses.add(step, _step(stage, step, optimizer, how)[0], stage.batch())
    assert seen
