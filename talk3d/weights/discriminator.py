"""The discriminator inside a training snapshot of EG3D."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from talk3d.models.discriminator import DualDiscriminator
from talk3d.weights.eg3d import module_tensors
from talk3d.weights.files import read_checkpoint
from talk3d.weights.matching import match
from talk3d.weights.recorded import Recorded, StoredTensor, UnreadableCheckpoint
from talk3d.weights.unet_names import Place

__all__ = ["read_discriminator"]

_BLOCK = re.compile(r"b(\d+)\.conv0\.weight")
_FIRST = "fromrgb.weight"


def read_discriminator(path: Path, *, group: int = 4) -> DualDiscriminator:
    """Read the ``D`` of a training snapshot, or its state dict, and run nothing of the file.

    Args:
        path: The file.
        group: As in :class:`DualDiscriminator`.

    Raises:
        UnreadableCheckpoint: If it has none. A ``ValueError``.
    """
    tree = read_checkpoint(path).tree
    found = _tensors(tree.get("D", tree) if isinstance(tree, Mapping) else tree)
    sides = sorted(int(name[1]) for name in map(_BLOCK.fullmatch, found) if name)
    first = found.get(f"b{sides[-1]}.{_FIRST}") if sides else None
    last = found.get("b4.out.bias")
    if first is None or last is None or len(first.shape) != 4 or len(last.shape) != 1:
        raise UnreadableCheckpoint(f"{path} has no discriminator of EG3D")
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in found)
    base, widest = first.shape[0] * sides[-1], last.shape[0]
    network = DualDiscriminator(sides[-1], channel_base=base, channel_max=widest, mapping_layers=layers, group=group)
    places = {_published(key, sides[-1]): Place(key) for key in network.state_dict()}
    try:
        state = match(found, places, network, what="a discriminator of EG3D")
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from None
    network.load_state_dict(state)
    return network


def _tensors(found: object) -> dict[str, StoredTensor]:
    if isinstance(found, Recorded):
        return dict(module_tensors(found))
    if not isinstance(found, Mapping):
        return {}
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, StoredTensor)}


def _published(key: str, side: int) -> str:
    key = re.sub(r"^blocks\.", "b", key)
    key = re.sub(r"^epilogue\.", "b4.", key)
    key = re.sub(r"^from_rgb", f"b{side}.fromrgb", key)
    return re.sub(r"\blayers\.(\d+)", r"fc\1", key)
