"""Networks from folders of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from talk3d.models.delta import DeltaUNet
from talk3d.models.encoders import ConditionEncoder
from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.models.superresolution import SuperResolution
from talk3d.weights.store import Weights, read_weights

__all__ = ["Driver", "load_driver", "load_generator"]

Network = TypeVar("Network", bound=nn.Module)


class Driver(NamedTuple):
    """What moves an identity: condition tokens, and the delta planes that they ask for.

    Attributes:
        unet: Tokens and identity planes to delta planes.
        conditions: Speech and head to tokens.
        superresolution: Tuned with them, to stand for the generator's; None if that stays.
    """

    unet: DeltaUNet
    conditions: ConditionEncoder
    superresolution: SuperResolution | None


def load_generator(folder: Path) -> TriPlaneGenerator:
    """Load a generator on the CPU, for inference.

    Raises:
        ValueError: If the folder holds no generator, or is damaged.
    """
    weights = read_weights(folder, "generator")
    config = GeneratorConfig.from_dict(_fact(folder, weights, "config"))
    return _filled(TriPlaneGenerator(config), weights, "generator", folder)


def load_driver(folder: Path) -> Driver:
    """Load a driver on the CPU, for inference.

    Raises:
        ValueError: If the folder holds no driver, or is damaged.
    """
    weights = read_weights(folder, "driver")
    networks = _fact(folder, weights, "networks")
    try:
        unet, conditions = DeltaUNet(**networks["unet"]), ConditionEncoder(**networks["conditions"])
        tuned = SuperResolution(**networks["superresolution"]) if "superresolution" in networks else None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} is damaged: its networks cannot be made ({error})") from error
    return Driver(
        _filled(unet, weights, "unet", folder),
        _filled(conditions, weights, "conditions", folder),
        None if tuned is None else _filled(tuned, weights, "superresolution", folder),
    )


def _fact(folder: Path, weights: Weights, name: str) -> Mapping[str, Any]:
    fact = weights.facts.get(name)
    if not isinstance(fact, dict):
        raise ValueError(f"{folder} is damaged: it does not describe its {name}")
    return fact


def _filled(network: Network, weights: Weights, part: str, folder: Path) -> Network:
    tensors: Mapping[str, Tensor] = weights.parts.get(part, {})
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / part}.safetensors is another network's: {error}") from None
    return network.eval().requires_grad_(False)
