"""Networks, as the papers draw them."""

from talk3d.models.baked import Baked
from talk3d.models.delta import DeltaUNet
from talk3d.models.discriminator import DualDiscriminator
from talk3d.models.driver import Driver
from talk3d.models.encoders import ConditionEncoder, Conditions
from talk3d.models.generator import CONFIGS, GeneratorConfig, TriPlaneGenerator
from talk3d.models.identity import Identity
from talk3d.models.scene import Generated, Scene, SceneConfig, View
from talk3d.models.superresolution import FoldedSuperResolution, SuperResolution

__all__ = [
    "CONFIGS",
    "Baked",
    "ConditionEncoder",
    "Conditions",
    "DeltaUNet",
    "Driver",
    "DualDiscriminator",
    "FoldedSuperResolution",
    "Generated",
    "GeneratorConfig",
    "Identity",
    "Scene",
    "SceneConfig",
    "SuperResolution",
    "TriPlaneGenerator",
    "View",
]
