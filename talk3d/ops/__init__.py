"""The operators: contracts and the choice between implementations."""

from talk3d.ops.attention import Attended, AttentionWeights, token_attention
from talk3d.ops.resample import bias_act, resample2d
from talk3d.ops.rollout import EXCHANGES, rollout_conv
from talk3d.ops.triplane import AXES, PackedPlanes, pack_planes, sample_triplane
from talk3d.ops.volume import Rendered, RenderOptions, render_rays

__all__ = [
    "AXES",
    "EXCHANGES",
    "Attended",
    "AttentionWeights",
    "PackedPlanes",
    "RenderOptions",
    "Rendered",
    "bias_act",
    "pack_planes",
    "render_rays",
    "resample2d",
    "rollout_conv",
    "sample_triplane",
    "token_attention",
]
