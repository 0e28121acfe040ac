"""Match the tensors of a file with those that a network wants, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from talk3d.weights.recorded import StoredTensor, UnreadableCheckpoint, printable
from talk3d.weights.unet_names import Place

__all__ = ["match"]

_SHOWN = 20  # problems in a message; a file of another network can have hundreds


def match(
    found: Mapping[str, StoredTensor],
    places: Mapping[str, Place | None],
    network: nn.Module,
    *,
    what: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    unused: Collection[str] = (),
) -> dict[str, Tensor]:
    """Load the tensors of a file as the state dict of a network; floating-point ones become float32.

    Buffers called ``resample_filter`` may be there. They must hold the one filter that these networks know, and are
    left out.

    Args:
        found: The file's tensors, by published name.
        places: Where each published tensor belongs.
        network: The network that wants them. Only its names and shapes are looked at: it may be on the meta device.
        what: The network, in words.
        shapes: Shapes of published tensors that are not those of their places, but with as many elements.
        unused: Published names that may be there and are left out.

    Raises:
        UnreadableCheckpoint: If a tensor is missing, is one too many, or has another shape; by name.
    """
    state = network.state_dict()
    filters = {name for name in found if name.rpartition(".")[2] == "resample_filter"}
    wanted = {name: place for name, place in places.items() if place is not None}
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is unknown" for name in found.keys() - wanted.keys() - filters - set(unused)]
    for name in wanted.keys() & found.keys():
        place = wanted[name]
        expected = (shapes or {}).get(name, tuple(state[place.key].shape[len(place.part) :]))
        if found[name].shape != expected:
            problems.append(f"{name} has the shape {list(found[name].shape[:8])}, not {list(expected)}")
    problems += [f"{name} is another filter than [1, 3, 3, 1]" for name in filters if not _is_smoothing(found[name])]
    if problems:
        shown = "; ".join(printable(problem) for problem in sorted(problems)[:_SHOWN])
        rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UnreadableCheckpoint(f"this is not {what}: {shown}{rest}")
    made = {
        name: torch.empty(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }
    for name, place in wanted.items():
        part = made[place.key][place.part]
        part.copy_(found[name].load().view(part.shape))
    return made


def _is_smoothing(tensor: StoredTensor) -> bool:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return tensor.shape == (4, 4) and torch.allclose(tensor.load().float(), taps.outer(taps))
