"""Thin modules: parameters, and a call into the operators."""

from talk3d.nn.decoder import Decoder
from talk3d.nn.equalized import EqualizedConv2d, EqualizedLinear, smoothing_filter
from talk3d.nn.modulated import Noise, SynthesisLayer, ToRGB, modulated_conv2d

__all__ = [
    "Decoder",
    "EqualizedConv2d",
    "EqualizedLinear",
    "Noise",
    "SynthesisLayer",
    "ToRGB",
    "modulated_conv2d",
    "smoothing_filter",
]
