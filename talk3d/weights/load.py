"""Networks from folders of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from talk3d.models.driver import Driver
from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.weights.store import Weights, read_weights

__all__ = ["fact", "filled", "filled_driver", "load_driver", "load_generator", "load_latent"]

Network = TypeVar("Network", bound=nn.Module)


def load_generator(folder: Path) -> TriPlaneGenerator:
    """Load a generator on the CPU, for inference.

    Raises:
        ValueError: If the folder holds no generator, or is damaged.
    """
    weights = read_weights(folder, "generator")
    config = GeneratorConfig.from_dict(fact(folder, weights, "config"))
    return filled(TriPlaneGenerator(config), weights, "generator", folder)


def load_driver(folder: Path) -> Driver:
    """Load a driver on the CPU, for inference.

    Raises:
        ValueError: If the folder holds no driver, or is damaged.
    """
    weights = read_weights(folder, "driver")
    return filled_driver(weights, folder)


def load_latent(folder: Path) -> Tensor:
    """Load a latent ``[w_dim]``.

    Raises:
        ValueError: If the folder holds none, or is damaged.
    """
    weights = read_weights(folder, "latent")
    try:
        return weights.parts["latent"]["w"]
    except KeyError:
        raise ValueError(f"{folder} is damaged: it holds no w") from None


def filled_driver(weights: Weights, folder: Path) -> Driver:
    """Make the driver whose parts are among these weights."""
    try:
        driver = Driver.from_options(fact(folder, weights, "networks"))
    except ValueError as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    for part, network in driver.named_children():
        filled(network, weights, part, folder)
    return driver.eval().requires_grad_(False)


def fact(folder: Path, weights: Weights, name: str) -> Mapping[str, Any]:
    """A fact that is a dictionary."""
    fact = weights.facts.get(name)
    if not isinstance(fact, dict):
        raise ValueError(f"{folder} is damaged: it does not describe its {name}")
    return fact


def filled(network: Network, weights: Weights, part: str, folder: Path) -> Network:
    """Fill a network with a part of the weights, for inference."""
    tensors: Mapping[str, Tensor] = weights.parts.get(part, {})
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / part}.safetensors is another network's: {error}") from None
    return network.eval().requires_grad_(False)
