"""The operators: contracts and the choice between implementations."""

from talk3d.ops.resample import bias_act, resample2d
from talk3d.ops.triplane import AXES, PackedPlanes, pack_planes, sample_triplane
from talk3d.ops.volume import Rendered, RenderOptions, render_rays

__all__ = [
    "AXES",
    "PackedPlanes",
    "RenderOptions",
    "Rendered",
    "bias_act",
    "pack_planes",
    "render_rays",
    "resample2d",
    "sample_triplane",
]
