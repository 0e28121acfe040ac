"""Weights: published checkpoints in, without running what they carry; safetensors and JSON at rest."""

from talk3d.weights.convert import convert, listing
from talk3d.weights.load import load_driver, load_generator, load_latent
from talk3d.weights.recorded import UnreadableCheckpoint
from talk3d.weights.store import Weights, read_weights, write_weights

__all__ = [
    "UnreadableCheckpoint",
    "Weights",
    "convert",
    "listing",
    "load_driver",
    "load_generator",
    "load_latent",
    "read_weights",
    "write_weights",
]
