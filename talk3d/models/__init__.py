"""Networks, as the papers draw them."""

from talk3d.models.discriminator import DualDiscriminator
from talk3d.models.generator import CONFIGS, Generated, GeneratorConfig, TriPlaneGenerator
from talk3d.models.superresolution import FoldedSuperResolution, SuperResolution

__all__ = [
    "CONFIGS",
    "DualDiscriminator",
    "FoldedSuperResolution",
    "Generated",
    "GeneratorConfig",
    "SuperResolution",
    "TriPlaneGenerator",
]
