"""Published checkpoints in, safetensors and JSON out: what ``talk3d convert`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from talk3d.models.generator import TriPlaneGenerator
from talk3d.ops.triplane import AXES, Axes
from talk3d.weights.eg3d import EG3D, find_generator, plain
from talk3d.weights.files import Checkpoint, read_checkpoint
from talk3d.weights.generator_names import UNUSED, generator_config, generator_keys
from talk3d.weights.matching import match
from talk3d.weights.recorded import Recorded, StoredTensor, UnreadableCheckpoint, printable
from talk3d.weights.store import Weights, write_weights
from talk3d.weights.talk3d import DRIVER_AXES, UNET, driver, identity, is_gfpgan, latent, state_dict, superresolution

__all__ = ["convert", "listing"]


def convert(source: Path, out: Path, *, axes: Axes | None = None) -> Weights:
    """Convert a published checkpoint to a folder, and run nothing of it.

    Args:
        source: A training snapshot of EG3D, a bare generator, a generator's state dict, a checkpoint of Talk3D, or its
            ``ID_triplane.pt`` or ``inversion_w_person.pt``.
        out: The folder. It must not exist, or be empty.
        axes: The convention of the planes, a key of :data:`talk3d.ops.AXES`. Needed where the file does not say it.

    Returns:
        What was written. ``facts["notes"]`` are sentences on what was left out or assumed.

    Raises:
        UnreadableCheckpoint: If the file holds nothing that can be converted, is damaged or hostile, or the convention
            is missing or another than the file's. A ``ValueError``.
        ValueError: If the folder is not empty.
    """
    if axes is not None and axes not in AXES:
        raise ValueError(f"axes must be one of {', '.join(AXES)}, got {axes!r}")
    checkpoint = read_checkpoint(source)
    try:
        weights = _converted(checkpoint, axes)
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{source}: {error}") from error.__cause__
    write_weights(weights, out)
    return weights


def listing(source: Path) -> dict[str, Any]:
    """Say what a file holds, without loading its tensors. Ready for JSON.

    Returns:
        ``file``; what it ``holds``; ``axes``, the convention of its planes if it says so; ``options`` of its renderer;
        ``tensors``: name, shape and type of each; ``names`` of the classes and functions that it refers to.

    Raises:
        UnreadableCheckpoint: If it cannot be read.
    """
    checkpoint = read_checkpoint(source)
    tree = checkpoint.tree
    try:
        generator = find_generator(tree)
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{source}: {error}") from error.__cause__
    tensors = generator.tensors.items() if generator else _tensors(tree)
    is_driver = isinstance(tree, Mapping) and UNET in tree
    return {
        "file": str(source),
        "holds": generator.where if generator else _described(tree),
        "axes": generator.axes if generator else DRIVER_AXES if is_driver else None,
        "options": dict(generator.options) if generator else {},
        "tensors": [
            {"name": printable(name), "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in tensors
        ],
        "names": sorted(map(printable, checkpoint.names)),
    }


def _converted(checkpoint: Checkpoint, axes: Axes | None) -> Weights:
    tree = checkpoint.tree
    about = {"source": checkpoint.path.name}
    if generator := find_generator(tree):
        return _generator(generator, axes, about)
    if isinstance(tree, StoredTensor) and len(tree.shape) in (1, 2) and tree.numel:
        return Weights("latent", {"latent": {"w": latent(tree)}}, about | {"axes": None, "notes": []})
    if isinstance(tree, StoredTensor):
        if axes is None:
            raise _axes_unknown("planes")
        return Weights("identity", {"identity": {"planes": identity(tree)}}, about | {"axes": axes, "notes": []})
    if isinstance(tree, Mapping) and UNET in tree:
        return _driver(tree, axes, about)
    raise UnreadableCheckpoint(f"it holds {_described(tree)}, which is not converted")


def _generator(found: EG3D, given: Axes | None, about: Mapping[str, Any]) -> Weights:
    axes, notes = _agreed(found, given)
    if not found.options:
        notes.append("A state dict has no options: the renderer's and the camera's are those of ffhq512-128.")
    config = generator_config(found.tensors, found.options, axes)
    with torch.device("meta"):
        network = TriPlaneGenerator(config)
    tensors = match(found.tensors, generator_keys(network), network, what="a generator of EG3D", unused=UNUSED)
    facts = {"axes": axes, "config": config.to_dict(), "published": dict(found.options)}
    return Weights("generator", {"generator": tensors}, {**about, **facts, "notes": notes})


def _agreed(found: EG3D, given: Axes | None) -> tuple[Axes, list[str]]:
    """The convention on which file and caller agree, and what is to be noted about it."""
    axes = given or found.axes
    if axes is None:
        raise _axes_unknown(found.where)
    if found.axes in (None, axes):
        return axes, []
    # EG3D's branch fixed_triplanes samples as "yz", and stores the axes of the main branch, which it ignores
    if (found.axes, axes) == ("original", "yz"):
        return axes, ["Axes 'yz' were given; the file stores 'original', as EG3D's branch fixed_triplanes does."]
    raise UnreadableCheckpoint(f"its planes have the axes {found.axes!r}, not {axes!r}")


def _driver(tree: Mapping[object, object], axes: Axes | None, about: Mapping[str, Any]) -> Weights:
    if axes not in (None, DRIVER_AXES):
        raise UnreadableCheckpoint(f"a driver of Talk3D has the axes {DRIVER_AXES!r}, not {axes!r}")
    parts, networks = driver(tree)
    notes = []
    tuned = state_dict(tree.get("superresolution"))
    if is_gfpgan(tuned):
        notes.append(f"Its super-resolution is GFPGAN ({len(tuned)} tensors), which is left out.")
    elif tuned:
        parts["superresolution"], networks["superresolution"] = superresolution(tuned)
    trained = {key: plain(tree[key]) for key in ("epoch", "iter") if key in tree}
    facts = {"axes": DRIVER_AXES, "networks": networks, "trained": trained, "notes": notes}
    return Weights("driver", parts, {**about, **facts})


def _axes_unknown(what: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"{what} does not say how its planes lie: pass --axes {', '.join(AXES)}")


def _described(tree: object) -> str:
    """Say in words what a tree is."""
    if isinstance(tree, Recorded):
        return f"an object of {printable(tree.name)}"
    if isinstance(tree, StoredTensor):
        return f"a tensor of shape {list(tree.shape[:8])}"
    if isinstance(tree, Mapping):
        if UNET in tree:
            tuned = state_dict(tree.get("superresolution"))
            kind = " with GFPGAN" if is_gfpgan(tuned) else " with a tuned super-resolution" if tuned else ""
            return f"a driver of Talk3D{kind}"
        if "D" in tree and "G_ema" not in tree:
            return "a discriminator without a generator"
        if is_gfpgan(state_dict(tree.get("params_ema", tree))):
            return "GFPGAN"
        keys = ", ".join(printable(str(key)) for key in list(tree)[:8])
        return f"a dictionary of {keys}{', ...' if len(tree) > 8 else ''}"
    return f"a {type(tree).__name__}"


def _tensors(tree: object) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors in a tensor, a state dict, or a dictionary of state dicts."""
    if isinstance(tree, StoredTensor):
        yield "", tree
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(value, StoredTensor):
            yield str(name), value
        yield from ((f"{name}.{inner}", tensor) for inner, tensor in state_dict(value).items())
