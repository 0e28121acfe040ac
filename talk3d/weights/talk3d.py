"""What Talk3D writes: checkpoints of a driver, tuned super-resolutions in them, and planes of an identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from talk3d.models.delta import DeltaUNet
from talk3d.models.encoders import ConditionEncoder
from talk3d.ops.triplane import Axes
from talk3d.weights.generator_names import generator_keys, superresolution_of
from talk3d.weights.matching import match
from talk3d.weights.recorded import StoredTensor, UnreadableCheckpoint
from talk3d.weights.unet_names import published_encoder_keys, published_keys

__all__ = ["DRIVER_AXES", "UNET", "driver", "identity", "is_gfpgan", "latent", "state_dict", "superresolution"]

UNET = "deltaplane_predictor"
DRIVER_AXES: Axes = "zy"  # Talk3D builds its own renderer, whose planes are these
_ENCODERS = ("audio_net", "audio_att_net", "blink_encoder", "camera_encoder")
_NULL = "null_vector"
_POSITION = "transformer.0.pos_emb"


def state_dict(found: object) -> dict[str, StoredTensor]:
    """The tensors of a state dict, without the prefix that ``DistributedDataParallel`` puts before their names."""
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name).removeprefix("module."): value for name, value in found.items() if isinstance(value, StoredTensor)
    }


def driver(tree: Mapping[object, object]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Convert the U-Net and the encoders of a checkpoint.

    Returns:
        The state dicts ``unet`` and ``conditions``, and the arguments of the networks that they belong to.

    Raises:
        UnreadableCheckpoint: If tensors are missing, too many, or of another shape.
    """
    unet = state_dict(tree.get(UNET))
    bias, position = unet.get("Downnet.Downnet1_xy.conv0.bias"), unet.get(_POSITION)
    key = unet.get("transformer.0.transformer_blocks.0.attn2.to_k.weight")
    texels = position.shape[1] if position is not None and len(position.shape) == 3 else 1024
    unet_options: dict[str, Any] = {
        "axes": DRIVER_AXES,
        "semantics": "published",
        "channels": bias.shape[0] // 2 if bias is not None and bias.shape else 32,
        "resolution": 8 * math.isqrt(texels),
        "condition": key.shape[1] if key is not None and len(key.shape) == 2 else 64,
    }
    encoders = {f"{part}.{name}": tensor for part in _ENCODERS for name, tensor in state_dict(tree.get(part)).items()}
    encoders |= {_NULL: null} if isinstance(null := tree.get(_NULL), StoredTensor) else {}
    speech = encoders.get("audio_net.encoder_conv.0.weight")
    encoder_options: dict[str, Any] = {
        "features": speech.shape[1] if speech is not None and len(speech.shape) == 3 else 44,
        "semantics": "published",
        "width": unet_options["condition"],
    }
    try:
        with torch.device("meta"):
            network, condition = DeltaUNet(**unet_options), ConditionEncoder(**encoder_options)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise UnreadableCheckpoint(f"its sizes make no driver: {error}") from error
    table = network.transformer.position.shape
    parts = {
        "unet": match(
            unet,
            published_keys(),
            network,
            what="the U-Net of a Talk3D driver",
            shapes={_POSITION: (1, table[0], table[1] * table[2])},
        ),
        "conditions": match(
            encoders,
            published_encoder_keys(),
            condition,
            what="the encoders of a Talk3D driver",
            shapes={_NULL: (1, 1, encoder_options["width"])},
        ),
    }
    return parts, {"unet": unet_options, "conditions": encoder_options}


def is_gfpgan(found: Mapping[str, StoredTensor]) -> bool:
    """Whether a state dict is GFPGAN's."""
    return any(name.startswith(("stylegan_decoder.", "conv_body_first.")) for name in found)


def superresolution(found: Mapping[str, StoredTensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert the state dict of an EG3D super-resolution.

    Returns:
        Its tensors, and the arguments of :class:`talk3d.models.SuperResolution`.

    Raises:
        UnreadableCheckpoint: If tensors are missing, too many, or of another shape.
    """
    network, arguments = superresolution_of(found)
    return match(found, generator_keys(network), network, what="a super-resolution of EG3D"), arguments


def identity(planes: StoredTensor) -> Tensor:
    """One set of planes ``[3, C, R, R]`` from ``ID_triplane.pt`` ``[N, 3 * C, R, R]``, which repeats it N times.

    Raises:
        UnreadableCheckpoint: If the shape is another, or the repeats differ.
    """
    shape = planes.shape
    if len(shape) != 4 or not planes.numel or shape[1] % 3 or shape[2] != shape[3]:
        raise UnreadableCheckpoint(f"a tensor of shape {list(shape[:8])} is not planes [N, 3 * C, R, R]")
    repeats = planes.load().float()
    if not (repeats == repeats[:1]).all():
        raise UnreadableCheckpoint(f"its {shape[0]} sets of planes differ, so they are not one identity")
    return repeats[0].unflatten(0, (3, -1)).clone()


def latent(found: StoredTensor) -> Tensor:
    """A person's latent ``[D]`` from ``inversion_w_person.pt`` ``[1, D]``.

    Raises:
        UnreadableCheckpoint: If it holds several, or numbers that are not finite.
    """
    w = found.load().float().flatten()
    if len(found.shape) == 2 and found.shape[0] != 1:
        raise UnreadableCheckpoint(f"a tensor of shape {list(found.shape)} holds {found.shape[0]} latents, not one")
    if not w.isfinite().all():
        raise UnreadableCheckpoint("its latent has numbers that are not finite")
    return w
