"""Thin modules: parameters, and a call into the operators."""

from talk3d.nn.decoder import Decoder
from talk3d.nn.equalized import EqualizedConv2d, EqualizedLinear, smoothing_filter
from talk3d.nn.modulated import Noise, SynthesisLayer, ToRGB, modulated_conv2d
from talk3d.nn.planes import (
    PlaneBatchNorm,
    PlaneConv,
    PlaneGroupNorm,
    PlaneLayerNorm,
    PlaneLinear,
    RolloutConv,
    TokenAttention,
)

__all__ = [
    "Decoder",
    "EqualizedConv2d",
    "EqualizedLinear",
    "Noise",
    "PlaneBatchNorm",
    "PlaneConv",
    "PlaneGroupNorm",
    "PlaneLayerNorm",
    "PlaneLinear",
    "RolloutConv",
    "SynthesisLayer",
    "ToRGB",
    "TokenAttention",
    "modulated_conv2d",
    "smoothing_filter",
]
