"""The generator: its published names for ours, and its sizes read off its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from talk3d.models.generator import GeneratorConfig, TriPlaneGenerator
from talk3d.models.superresolution import VARIANTS, SuperResolution, Variant
from talk3d.ops.triplane import Axes
from talk3d.weights.recorded import StoredTensor, UnreadableCheckpoint, printable
from talk3d.weights.unet_names import Place

__all__ = ["UNUSED", "generator_config", "generator_keys", "superresolution_of"]

UNUSED = ("dataset_label_std",)  # the training loop leaves it there
_PUBLISHED = (
    (r"^mapping\.layers\.(\d+)\.", r"mapping.fc\1."),
    (r"^mapping\.", r"backbone.mapping."),
    (r"^backbone\.blocks\.(\d+)\.", r"backbone.synthesis.b\1."),
    (r"^decoder\.hidden\.", r"decoder.net.0."),
    (r"^decoder\.output\.", r"decoder.net.2."),
    (r"\.to_rgb\.", r".torgb."),
)
# fields of RenderOptions and of GeneratorConfig, and what the renderer's options call them
_RENDERING = {
    "near": "ray_start",
    "far": "ray_end",
    "coarse": "depth_resolution",
    "fine": "depth_resolution_importance",
    "disparity": "disparity_space_sampling",
    "box_warp": "box_warp",
    "white_back": "white_back",
}
_CONFIG = {
    "resolution": "neural_rendering_resolution",
    "decoder_lr_multiplier": "decoder_lr_mul",
    "radius": "avg_camera_radius",
    "pivot": "avg_camera_pivot",
}


def generator_keys(network: nn.Module) -> dict[str, Place | None]:
    """Published names of a generator's tensors (of ``ffhq512-128``: 150), and their places in its state dict.

    EG3D has 27 more there: 26 times the same constant filter, and the spread of its training labels.
    """
    return {_published(name): Place(name) for name in network.state_dict()}


def generator_config(found: Mapping[str, StoredTensor], options: Mapping[str, Any], axes: Axes) -> GeneratorConfig:
    """Read the sizes of a generator off its tensors, and the rest off its renderer's options.

    Args:
        found: Tensors by published name. What is missing is taken to have the size of ``ffhq512-128``.
        options: The published ``rendering_kwargs``. What is missing is as in ``ffhq512-128``.
        axes: The convention of the planes.

    Raises:
        UnreadableCheckpoint: If that makes no generator.
    """

    def size(name: str, dim: int, otherwise: int) -> int:
        shape = found[name].shape if name in found else ()
        return shape[dim] if dim < len(shape) else otherwise

    side = max(_numbers(found, r"backbone\.synthesis\.b(\d{1,5})\.conv1\.bias"), default=256)
    w_dim = size("backbone.mapping.w_avg", 0, 512)
    channels = size(f"backbone.synthesis.b{side}.conv1.bias", 0, 128)
    sizes = {
        "z_dim": max(size("backbone.mapping.fc0.weight", 1, 1024) - w_dim, 1),
        "w_dim": w_dim,
        "mapping_layers": len(_numbers(found, r"backbone\.mapping\.fc(\d{1,2})\.bias")),
        "plane_resolution": side,
        "plane_channels": size("backbone.synthesis.b4.torgb.bias", 0, 96) // 3,
        "channel_base": channels * side,
        "channel_max": size("backbone.synthesis.b4.const", 0, 512),
        "superresolution": _variant(found, "superresolution."),
    }
    with _refusing("its sizes and options make no generator"):
        rendering = {ours: _option(options, theirs) for ours, theirs in _RENDERING.items() if theirs in options}
        rest = {ours: _option(options, theirs) for ours, theirs in _CONFIG.items() if theirs in options}
        if options:  # a mapping network without this option does not see the camera
            rest["conditioning_scale"] = _option(options, "c_scale") if "c_scale" in options else 0.0
        if options.get("c_gen_conditioning_zero"):
            rest["conditioning_scale"] = 0.0
        if "sr_num_fp16_res" in options:  # the clamp comes with float16, and stays where float32 is used after all
            rest["superresolution_clamp"] = 256.0 if options["sr_num_fp16_res"] else None
        config = GeneratorConfig.from_dict({"rendering": rendering | {"axes": axes}} | rest | sizes)
        config.camera()
        with torch.device("meta"):
            TriPlaneGenerator(config)
    return config


def superresolution_of(found: Mapping[str, StoredTensor]) -> tuple[SuperResolution, dict[str, Any]]:
    """A super-resolution network of the sizes of these tensors, on the meta device, and the arguments that make it."""
    weight = found.get("block0.conv0.affine.weight")
    channels, w_dim = weight.shape if weight is not None and len(weight.shape) == 2 else (32, 512)
    with _refusing("its sizes make no super-resolution"), torch.device("meta"):
        arguments: dict[str, Any] = {"variant": _variant(found, ""), "channels": channels, "w_dim": w_dim}
        return SuperResolution(**arguments), arguments


def _option(options: Mapping[str, Any], name: str) -> Any:
    """An option that is a number; the pivot is three, and limits of the rays may be found for each."""
    value = options[name]
    parts = value if name == "avg_camera_pivot" and isinstance(value, list) and len(value) == 3 else [value]
    if not (all(isinstance(part, int | float) for part in parts) or (name.startswith("ray_") and value == "auto")):
        raise ValueError(f"{name} is {value!r}")
    if name == "neural_rendering_resolution" and not (isinstance(value, int) and value > 0):
        raise ValueError(f"{name} is {value!r}")
    return value


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what goes wrong with numbers of a file into a sentence."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UnreadableCheckpoint(f"{what}: {printable(str(error))}") from error


def _published(name: str) -> str:
    for pattern, replacement in _PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def _numbers(found: Iterable[str], pattern: str) -> list[int]:
    """The numbers in the names that a pattern describes."""
    return [int(matched[1]) for name in found if (matched := re.fullmatch(pattern, name))]


def _variant(found: Mapping[str, StoredTensor], prefix: str) -> Variant:
    """Tell the variants apart by the width of the first block and the side of its noise."""
    width, side = (found.get(f"{prefix}block0.{name}") for name in ("conv0.bias", "conv0.noise_const"))
    if width is not None and side is not None:
        for variant, shape in VARIANTS.items():
            if (width.shape[:1], side.shape[:1]) == ((shape.widths[0],), (shape.size * shape.ups[0],)):
                return variant
    return "8xdc"
