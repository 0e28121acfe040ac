"""Networks from folders of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from talk3d.models.driver import Driver
from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.weights.store import FILE, Weights, read_weights

__all__ = ["described", "fact", "filled", "filled_driver", "load_driver", "load_generator", "load_latent"]

_SHOWN = 300  # characters of a list of names that may be long

Network = TypeVar("Network", bound=nn.Module)


def load_generator(folder: Path) -> TriPlaneGenerator:
    """Load a generator on the CPU, for inference.

    Raises:
        ValueError: If the folder holds no generator, or is damaged.
    """
    weights = read_weights(folder, "generator")
    config = fact(folder, weights, "config")
    with described(folder):
        network = TriPlaneGenerator(GeneratorConfig.from_dict(config))
    return filled(network, weights, "generator", folder)


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
    options = fact(folder, weights, "networks")
    with described(folder):
        driver = Driver.from_options(options)
    for part, network in driver.named_children():
        filled(network, weights, part, folder)
    return driver.eval().requires_grad_(False)


@contextmanager
def described(folder: Path) -> Iterator[None]:
    """What goes wrong while networks of described sizes are made is the fault of the description."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # torch adds a trace of its C++
        raise ValueError(f"{folder / FILE} is damaged: {reason}") from error


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
        reason = "; ".join(line.strip().rstrip(".") for line in str(error).splitlines()[1:3])
        shown = reason if len(reason) < _SHOWN else f"{reason[:_SHOWN]} ..."
        raise ValueError(f"{folder / part}.safetensors is another network's: {shown}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{folder / part}.safetensors is damaged: {name} has numbers that are not finite")
    return network.eval().requires_grad_(False)
