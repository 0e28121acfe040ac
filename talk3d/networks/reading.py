"""Read a published state dict into its network, and run nothing of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from talk3d.networks.expert import LipSyncExpert
from talk3d.networks.faces import ArcFace, CurricularFace
from talk3d.networks.syncnet import SyncNet
from talk3d.weights.eg3d import find_generator
from talk3d.weights.files import read_checkpoint
from talk3d.weights.recorded import StoredTensor, UnreadableCheckpoint, printable

__all__ = ["load_network"]

_COUNTER = "num_batches_tracked"  # old files lack it, and nothing here needs it
_SHOWN = 5  # problems in a message
_KNOWN: tuple[type[nn.Module], ...] = (ArcFace, CurricularFace, LipSyncExpert, SyncNet)


Network = TypeVar("Network", bound=nn.Module)


def load_network(kind: type[Network], path: Path) -> Network:
    """Load a network of a published file on the CPU, frozen, for inference.

    Args:
        kind: One of this package.
        path: Its state dict, bare or as ``state_dict`` of a dictionary; names may begin with ``module.``.

    Raises:
        UnreadableCheckpoint: If it cannot be read, or holds the weights of another network. A ``ValueError``.
    """
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path}, which should hold the weights of {_title(kind)}, does not exist")
    tree = read_checkpoint(path).tree
    found = _tensors(tree)
    with torch.device("meta"):
        network = kind()
    wanted = network.state_dict()
    if problems := _problems(found, {name: tuple(tensor.shape) for name, tensor in wanted.items()}):
        raise UnreadableCheckpoint(f"{path} {_instead(kind, tree, found, problems)}")
    state = {
        name: found[name].load().to(tensor.dtype) if name in found else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in wanted.items()
    }
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _title(kind: type[nn.Module]) -> str:
    return str(getattr(kind, "title", kind.__name__))


def _tensors(tree: object) -> dict[str, StoredTensor]:
    """The state dict in a file; empty if there is none."""
    if isinstance(tree, Mapping) and isinstance(tree.get("state_dict"), Mapping):
        tree = tree["state_dict"]
    if not isinstance(tree, Mapping):
        return {}
    return {
        str(name).replace("module.", ""): tensor for name, tensor in tree.items() if isinstance(tensor, StoredTensor)
    }


def _problems(found: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = [f"{name} is missing" for name in wanted if name not in found and not name.endswith(_COUNTER)]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    problems += [
        f"{name} has the shape {list(tensor.shape)}, not {list(wanted[name])}"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    return [printable(problem) for problem in problems]


def _instead(kind: type[nn.Module], tree: object, found: Mapping[str, StoredTensor], problems: list[str]) -> str:
    """What a file holds that is not of this kind, in words."""
    for other in _KNOWN:
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in other().state_dict().items()}
        if other is not kind and not _problems(found, shapes):
            return f"holds the weights of {_title(other)}, not of {_title(kind)}"
    if find_generator(tree) is not None:
        return f"holds a generator of EG3D, not the weights of {_title(kind)}"
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"does not hold the weights of {_title(kind)}: {'; '.join(problems[:_SHOWN])}{rest}"
