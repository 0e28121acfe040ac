"""Read pickles without running anything that they ask for.

A pickle is a program for a stack machine, and two of its instructions import and call whatever it names. This machine
has no such instructions: a name becomes a :class:`Global`, a call becomes a :class:`Recorded` node, and the few calls
that checkpoints are made of (tensors, ordered dictionaries, numpy scalars, the modules of EG3D that carry their own
source) become what they mean. That source is never looked at.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import re
import struct
import warnings
from collections.abc import Callable

import numpy as np
import torch

from talk3d.weights.recorded import Global, Recorded, Storage, StoredTensor, UnreadableCheckpoint, printable

__all__ = ["LEGACY_MAGIC", "Machine", "read_legacy"]

Stream = io.BytesIO | mmap.mmap

# What a hostile pickle names and a model does not. It would not run here either, but its owner had better know.
_HOSTILE = re.compile(
    r"(os|posix|nt|io|_io|sys|subprocess|_posixsubprocess|socket|shutil|pty|runpy|importlib|ctypes|code|marshal|operator"
    r"|pickle|_pickle|webbrowser|pdb|timeit|pip)\..*|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|input|breakpoint|__import__)",
    re.DOTALL,
)
# opcodes with an argument that pop nothing and push something push their argument, but for names and look-ups
_LITERALS = frozenset(
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and not opcode.stack_before and opcode.stack_after not in ([], [pickletools.anyobject])
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, RecursionError, struct.error)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Machine:
    """A pickle machine that records instead of calling.

    Sets become lists, so that nothing of the file is ever hashed but strings, numbers and records; attributes of
    dictionaries and tensors are dropped.

    Args:
        persistent: Turns the key, type and count of a storage that lies outside the pickle into a :class:`Storage`.
    """

    def __init__(self, persistent: Callable[[str, torch.dtype, int], Storage] | None = None):
        self.names: set[str] = set()
        self._persistent = persistent
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self, stream: Stream) -> object:
        """Read one pickle from where the stream stands, and leave the stream behind it.

        Raises:
            UnreadableCheckpoint: If it is cut short, damaged, or names what no checkpoint needs.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # for a stray backslash in a damaged name
                for opcode, arg, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # it only reads
                    self._step(opcode.name, arg)
            return self._stack.pop()
        except UnreadableCheckpoint:
            raise
        except _DAMAGE as error:
            raise UnreadableCheckpoint("the pickle is cut short or damaged") from error

    def _step(self, name: str, arg: object) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name not in ("PROTO", "FRAME", "STOP"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise UnreadableCheckpoint(f"the pickle uses {name}, which no checkpoint needs")
            action() if arg is None else action(arg)

    # the stack

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list[object]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    # containers

    def _empty_list(self) -> None:
        self._stack.append([])

    _empty_set = _empty_list

    def _list(self) -> None:
        self._stack.append(self._pop_mark())

    _frozenset = _list

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    _additems = _appends

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list | Recorded):
            raise TypeError
        (target if isinstance(target, list) else target.content).extend(items)

    def _tuple(self) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _tuple1(self) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _dict(self) -> None:
        items = self._pop_mark()
        self._empty_dict()
        self._fill(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _setitems(self) -> None:
        self._fill(self._pop_mark())

    def _fill(self, items: list[object]) -> None:
        target = self._stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, dict):
            target.update((_key(key), value) for key, value in pairs)
        elif isinstance(target, Recorded):
            target.content.extend(pairs)
        else:
            raise TypeError

    # names and calls

    def _global(self, name: str) -> None:
        name = name.replace(" ", ".", 1)
        if _HOSTILE.fullmatch(name):
            raise UnreadableCheckpoint(f"it wants {printable(name)}, which no model needs; nothing was run")
        self.names.add(name)
        self._stack.append(Global(name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self._global(f"{module} {name}")

    def _inst(self, name: str) -> None:
        args = self._pop_mark()
        self._global(name)
        self._stack.append(self._call(self._stack.pop(), tuple(args)))

    def _obj(self) -> None:
        function, *args = self._pop_mark()
        self._stack.append(self._call(function, tuple(args)))

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, args))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self._stack.pop()  # keywords
        self._reduce()

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Recorded):
            target.state = state
        elif not isinstance(target, dict | StoredTensor):
            raise TypeError

    def _binpersid(self) -> None:
        identifier = self._stack.pop()
        if self._persistent is None:
            raise UnreadableCheckpoint("the pickle refers to data outside itself")
        if not isinstance(identifier, tuple) or len(identifier) < 2:
            raise TypeError
        if identifier[0] == "module":  # a class, with its source
            self._stack.append(identifier[1])
            return
        kind, storage_type, key, _, numel, *view = identifier
        if kind != "storage" or not isinstance(storage_type, Global) or not isinstance(key, str) or any(view):
            raise TypeError
        if type(numel) is not int or not 0 <= numel < 2**63:
            raise ValueError
        dtype = _DTYPES[storage_type.name.rpartition(".")[2]]
        self._stack.append(self._persistent(key, dtype, numel))

    def _call(self, function: object, args: object) -> object:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise TypeError
        if function.name == "torch.storage._load_from_bytes":
            return self._load_from_bytes(*args)
        if function.name == "torch._tensor._rebuild_from_type_v2":
            inner, _, inner_args, _ = args
            return self._call(inner, inner_args)
        if function.name.endswith("persistence._reconstruct_persistent_obj"):
            return _persistent_object(*args)
        meaning = _MEANINGS.get(function.name)
        return meaning(*args) if meaning else Recorded(function.name, args)

    def _load_from_bytes(self, data: object) -> object:
        if not isinstance(data, bytes):
            raise UnreadableCheckpoint("the pickle is of protocol 2, in which PyTorch's tensors are not bytes")
        if self._persistent is not None:
            raise UnreadableCheckpoint("the pickle has a checkpoint inside a checkpoint inside a checkpoint")
        found, names = read_legacy(io.BytesIO(data), memoryview(data))
        self.names |= names
        return found


def read_legacy(stream: Stream, data: memoryview) -> tuple[object, set[str]]:
    """Read what ``torch.save`` wrote before its archives: four pickles, the storages' keys, and their numbers.

    Args:
        stream: Standing at the first pickle.
        data: All bytes of the same stream.

    Returns:
        The tree, and the names that it refers to.
    """
    sizes: dict[str, int] = {}
    places: dict[str, slice] = {}

    def persistent(key: str, dtype: torch.dtype, numel: int) -> Storage:
        if sizes.setdefault(key, numel * dtype.itemsize) != numel * dtype.itemsize:
            raise ValueError
        return Storage(dtype, numel, lambda: data[places[key]])

    machine = Machine(persistent)
    magic, _, _ = (machine.run(stream) for _ in range(3))  # a magic number, a version, the writer's endianness
    if magic != LEGACY_MAGIC:
        raise UnreadableCheckpoint("it is a series of pickles that PyTorch never wrote")
    tree = machine.run(stream)
    keys = machine.run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(sizes):
        raise UnreadableCheckpoint("the list of its storages is damaged")
    begin = stream.tell()
    for key in keys:
        begin += 8  # the number of elements, which the pickle has too
        places[key] = slice(begin, begin := begin + sizes[key])
    if begin > len(data):
        raise UnreadableCheckpoint("it is cut short: numbers are missing at its end")
    return tree, machine.names


def _key(key: object) -> object:
    # hashing deeply nested tuples would overflow the stack of C, and printing large integers raises
    if isinstance(key, int) and abs(key) >= 2**63:
        raise ValueError
    if key is None or isinstance(key, str | int | float | bytes | Global | Recorded | StoredTensor):
        return key
    raise TypeError


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object) -> StoredTensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise TypeError
    return StoredTensor(storage, offset, shape, stride)


def _persistent_object(meta: dict[str, object]) -> Recorded:
    name = meta["class_name"]
    if not isinstance(name, str):
        raise TypeError
    return Recorded(name, state=meta["state"])


def _numpy_scalar(dtype: Recorded, data: object) -> object:
    if isinstance(data, Recorded) and data.name == "_codecs.encode":  # bytes, before protocol 3
        data = str(data.args[0])[:16].encode("latin1")
    code, state = dtype.args[0], dtype.state
    if not isinstance(code, str) or not re.fullmatch("[fiu][1248]|b1", code) or not isinstance(data, bytes):
        raise TypeError
    order = state[1] if isinstance(state, tuple) and state[1] == ">" else "<"
    return np.frombuffer(data, order + code, count=1)[0].item()


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    return {_key(key): value for key, value in pairs}  # type: ignore[attr-defined]  # damage is a TypeError


_MEANINGS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "copyreg._reconstructor": lambda cls, *_: Recorded(cls.name),
    "dnnlib.util.EasyDict": _ordered_dict,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": lambda sizes: tuple(sizes),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
