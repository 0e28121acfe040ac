"""The operators: contracts and the choice between implementations."""

from talk3d.ops.triplane import AXES, PackedPlanes, pack_planes, sample_triplane
from talk3d.ops.volume import Rendered, RenderOptions, render_rays

__all__ = ["AXES", "PackedPlanes", "RenderOptions", "Rendered", "pack_planes", "render_rays", "sample_triplane"]
