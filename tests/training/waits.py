"""Which calls of a training step would make the host wait for a GPU; found on a CPU, where none is."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# what a host can only do with numbers that it has
_READS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "equal",
    "masked_select",
    "unique",
    "_unique2",
    "_linalg_check_errors",
    "bincount",
    "repeat_interleave",
}
# Python's way around the dispatcher
_COPIES_BACK = {"cpu", "numpy", "tolist", "item", "__array__"}
# numbers of the host are written into memory of the host, from where they are copied while the host waits
_MAKERS = {"tensor", "as_tensor", "asarray", "from_numpy"}


class Refuse:
    """Refuse to wait for some tensors, and for what is computed of them: they stand for those on a GPU.

    Refused are looks at their numbers, masks as an index, whose size nobody knows, and copies in either direction that
    are not asynchronous: ``torch.tensor(..., device=...)``, ``new_tensor``, ``to``, a list as an index.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._there: dict[int, Any] = {}  # storages, which so stay alive: no address is used twice
        self._modes: ExitStack
        self.add(*tensors)

    def add(self, *tensors: Any) -> None:
        """These are there, too."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._there[storage._cdata] = storage

    def has(self, value: Any) -> bool:
        """Whether something is one of them."""
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._there

    def __enter__(self) -> Refuse:
        self._modes = ExitStack()
        self._modes.enter_context(_Calls(self))
        self._modes.enter_context(_Operators(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()


class _Operators(TorchDispatchMode):
    def __init__(self, refuse: Refuse) -> None:
        super().__init__()
        self.refuse = refuse

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, refuse = func.overloadpacket.__name__, self.refuse
        read = any(map(refuse.has, tree_leaves((args, kwargs or {}))))
        assert not (read and name in _READS), f"{func} would wait for a GPU"
        if read and name in ("index", "index_put", "index_put_", "_unsafe_index"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not any(map(refuse.has, masks)), f"{func} with a mask would wait for a GPU"
        found = func(*args, **(kwargs or {}))
        if read:
            refuse.add(found, args if func._schema.is_mutable else ())
        return found


class _Calls(TorchFunctionMode):
    def __init__(self, refuse: Refuse) -> None:
        super().__init__()
        self.refuse = refuse

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, refuse = kwargs or {}, self.refuse
        name = getattr(func, "__name__", "")
        waits = f"{resolve_name(func) or name} would wait for a GPU"
        mine = bool(args) and refuse.has(args[0])
        assert not (mine and name in _COPIES_BACK), waits
        assert not (mine and name == "new_tensor"), waits
        placed = kwargs.get("device") is not None
        assert not (placed and name in _MAKERS), waits
        if name in ("to", "cuda") and not kwargs.get("non_blocking") and args:
            place = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, (str, torch.device)) or refuse.has(a)]
            assert not (place and not mine), waits
            assert not (mine and any(str(a) == "cpu" for a in place if isinstance(a, str))), waits
        if name in ("__getitem__", "__setitem__") and mine:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, (list, range)) for part in index), f"{waits}: a list is copied to it"
        found = func(*args, **kwargs)
        if placed:
            refuse.add(found)
        return found
