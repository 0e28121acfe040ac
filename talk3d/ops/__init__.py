"""The operators: contracts and the choice between implementations."""

from talk3d.ops.attention import Attended, AttentionWeights, token_attention
from talk3d.ops.convolution import conv3x3_bias_act
from talk3d.ops.linear import plane_linear
from talk3d.ops.norm import group_norm_act
from talk3d.ops.planes import add_planes, border_planes
from talk3d.ops.resample import Activation, Resampling, bias_act, resample2d, resample2d_bias_act
from talk3d.ops.rollout import EXCHANGES, rollout_conv
from talk3d.ops.triplane import AXES, PackedPlanes, pack_planes, sample_triplane
from talk3d.ops.volume import Decoder, Rendered, RenderOptions, render_rays

__all__ = [
    "AXES",
    "EXCHANGES",
    "Activation",
    "Attended",
    "AttentionWeights",
    "Decoder",
    "PackedPlanes",
    "RenderOptions",
    "Rendered",
    "Resampling",
    "add_planes",
    "bias_act",
    "border_planes",
    "conv3x3_bias_act",
    "group_norm_act",
    "pack_planes",
    "plane_linear",
    "render_rays",
    "resample2d",
    "resample2d_bias_act",
    "rollout_conv",
    "sample_triplane",
    "token_attention",
]
