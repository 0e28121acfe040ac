"""Read a published state dict into its network, and run nothing of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from talk3d.networks.expert import LipSyncExpert
from talk3d.networks.faces import ArcFace, CurricularFace
from talk3d.networks.syncnet import SyncNet
from talk3d.weights.eg3d import find_generator
from talk3d.weights.files import read_checkpoint
from talk3d.weights.recorded import StoredTensor, UnreadableCheckpoint, printable

__all__ = ["load_network", "read_state"]

_COUNTER = "num_batches_tracked"  # old files lack it, and nothing here needs it
_SHOWN = 5  # problems in a message
_KNOWN: tuple[type[nn.Module], ...] = (ArcFace, CurricularFace, LipSyncExpert, SyncNet)


Network = TypeVar("Network", bound=nn.Module)


def load_network(kind: type[Network], path: Path) -> Network:
    """Load a network of a published file on the CPU, frozen, for inference.

    Args:
        kind: A network that is made without arguments, and whose ``title`` says in words what it is.
        path: Its state dict, bare or as ``state_dict`` of a dictionary; names may begin with ``module.``.

    Raises:
        UnreadableCheckpoint: If it cannot be read, or holds the weights of another network. A ``ValueError``.
    """
    with torch.device("meta"):
        network = kind()
    network.load_state_dict(read_state(path, _title(kind), network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def read_state(path: Path, title: str, wanted: Mapping[str, Tensor], *, spare: str | None = None) -> dict[str, Tensor]:
    """Read the state dict of a published file, see :func:`load_network`.

    Args:
        path: The file.
        title: Of the network, in words.
        wanted: Tensors of the shapes and types that are returned.
        spare: How names begin that the file may have and nobody wants.

    Returns:
        A tensor for each that is wanted, with memory of its own.

    Raises:
        UnreadableCheckpoint: If the file cannot be read, or holds something else. A ``ValueError``.
    """
    if not path.exists():
        raise UnreadableCheckpoint(f"{path}, which should hold the weights of {title}, does not exist")
    try:
        tree = read_checkpoint(path).tree
    except UnreadableCheckpoint as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UnreadableCheckpoint(f"{path} does not hold the weights of {title}: {reason}") from error.__cause__
    found = _tensors(tree)
    if spare is not None:
        found = {name: tensor for name, tensor in found.items() if not name.startswith(spare)}
    if problems := _problems(found, {name: tuple(tensor.shape) for name, tensor in wanted.items()}):
        raise UnreadableCheckpoint(f"{path} {_instead(title, tree, found, problems)}")
    state = {
        name: found[name].load().to(tensor.dtype) if name in found else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in wanted.items()
    }
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise UnreadableCheckpoint(f"{path} is damaged: {name} has numbers that are not finite")
    return state


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


def _instead(title: str, tree: object, found: Mapping[str, StoredTensor], problems: list[str]) -> str:
    """What a file holds that is not of this kind, in words."""
    for other in _KNOWN:
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in other().state_dict().items()}
        if _title(other) != title and not _problems(found, shapes):
            return f"holds the weights of {_title(other)}, not of {title}"
    if find_generator(tree) is not None:
        return f"holds a generator of EG3D, not the weights of {title}"
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"does not hold the weights of {title}: {'; '.join(problems[:_SHOWN])}{rest}"
