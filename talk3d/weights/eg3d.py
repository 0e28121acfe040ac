"""The generator inside a checkpoint of EG3D: its tensors, and what a state dict does not say.

A training snapshot is a dictionary whose ``G_ema`` is the generator; VIVE3D and Talk3D write the bare generator
(``G_tune.pkl``). Both are pickled modules, so they carry the options of the renderer and the axes of the planes, which
are plain attributes and absent from a state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from talk3d.ops.triplane import AXES, Axes
from talk3d.weights.recorded import Global, Recorded, StoredTensor, UnreadableCheckpoint

__all__ = ["EG3D", "find_generator", "module_tensors", "plain", "stored_axes"]

_MODULES = 10_000  # a generator has some 120; a hostile file can make more than could ever be walked
Plain = bool | int | float | str | None


@dataclass(frozen=True)
class EG3D:
    """A generator that was found.

    Attributes:
        where: In words.
        tensors: Its state dict, under the published names.
        axes: The convention that its renderer stores, if it does.
        options: The renderer's options and two of the generator's, under the published names; a state dict has none.
    """

    where: str
    tensors: dict[str, StoredTensor]
    axes: Axes | None = None
    options: Mapping[str, Plain | list[Plain]] = field(default_factory=dict)


def find_generator(tree: object) -> EG3D | None:
    """Find the generator in a snapshot, a bare module or a state dict; None where there is no generator."""
    where = "the G_ema of a training snapshot" if isinstance(tree, dict) and "G_ema" in tree else "a bare generator"
    root = tree["G_ema"] if isinstance(tree, dict) and "G_ema" in tree else tree
    if isinstance(root, Recorded) and {"backbone", "decoder"} <= _children(root).keys():
        return _module(root, where)
    if isinstance(root, dict) and any(isinstance(key, str) and key.startswith("backbone.") for key in root):
        return EG3D("the state dict of a generator", _tensors(root))
    return None


def stored_axes(axes: StoredTensor) -> Axes:
    """Name the convention of a renderer's ``plane_axes`` ``[3, 3, 3]``.

    The reference multiplies points by the inverse of each matrix and keeps two columns. All published matrices are
    permutations, whose inverse is the transpose, so that row ``j`` holds a one at the coordinate that becomes the
    ``j``-th.

    Raises:
        UnreadableCheckpoint: If the axes are none of the three conventions.
    """
    if axes.shape == (3, 3, 3):
        matrices = axes.load()
        pairs = tuple(matrices[:, :2].argmax(dim=2).flatten().tolist())
        is_permutation = ((matrices == 0) | (matrices == 1)).all() and (matrices.sum(1) == 1).all()
        for name in AXES:
            if pairs == AXES[name] and is_permutation and (matrices.sum(2) == 1).all():
                return cast("Axes", name)
    raise UnreadableCheckpoint(f"its plane_axes are none of the known conventions: {', '.join(AXES)}")


def _module(generator: Recorded, where: str) -> EG3D:
    attributes = _attributes(generator)
    renderer = _children(generator).get("renderer", attributes.get("renderer"))
    axes = _attributes(renderer).get("plane_axes") if isinstance(renderer, Recorded) else None
    options = attributes.get("rendering_kwargs")
    found: dict[str, Plain | list[Plain]] = {}
    for key, value in options.items() if isinstance(options, dict) else ():
        found[str(key)] = [plain(item) for item in value] if isinstance(value, list | tuple) else plain(value)
    arguments = attributes.get("_init_kwargs")
    for key, group in (("neural_rendering_resolution", attributes), ("sr_num_fp16_res", arguments)):
        if isinstance(group, dict) and key in group:
            found[key] = plain(group[key])
    known = stored_axes(axes) if isinstance(axes, StoredTensor) else None
    return EG3D(where, dict(module_tensors(generator)), known, found)


def module_tensors(root: Recorded) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a pickled module and of those inside it, by the names of a state dict.

    Raises:
        UnreadableCheckpoint: If there are far too many modules.
    """
    waiting: list[tuple[str, Recorded]] = [("", root)]
    visited = 0
    while waiting:
        prefix, module = waiting.pop()
        visited += 1
        if visited > _MODULES:
            raise UnreadableCheckpoint(f"the network has more than {_MODULES} modules")
        attributes = _attributes(module)
        for group in ("_parameters", "_buffers"):
            for name, tensor in _tensors(attributes.get(group, {})).items():
                yield prefix + name, tensor
        waiting.extend((f"{prefix}{name}.", child) for name, child in _children(module).items())


def _children(module: Recorded) -> dict[str, Recorded]:
    children = _attributes(module).get("_modules", {})
    if not isinstance(children, dict):
        raise UnreadableCheckpoint("a module of the generator is damaged")
    return {str(name): child for name, child in children.items() if isinstance(child, Recorded)}


def _attributes(module: Recorded) -> dict[object, object]:
    return module.state if isinstance(module.state, dict) else {}


def _tensors(found: object) -> dict[str, StoredTensor]:
    if not isinstance(found, dict):
        raise UnreadableCheckpoint("a module of the generator is damaged")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, StoredTensor)}


def plain(value: object) -> Plain:
    """What JSON can hold of a value; a class becomes its name, and anything else nothing."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    return value.name if isinstance(value, Global | Recorded) else None
