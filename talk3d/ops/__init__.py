"""The operators: contracts and the choice between implementations."""

from talk3d.ops.attention import Attended, AttentionWeights, token_attention
from talk3d.ops.convolution import conv3x3_bias_act
from talk3d.ops.grouped import plane_conv_act, rollout_conv_act
from talk3d.ops.linear import plane_linear, plane_linear_act
from talk3d.ops.norm import group_norm_act
from talk3d.ops.pencil import FlatDecoder, pencil_rays, render_pencils
from talk3d.ops.planes import add_planes, border_planes
from talk3d.ops.resample import Activation, Resampling, bias_act, resample2d, resample2d_bias_act
from talk3d.ops.rgb import ToPicture, act_rgb
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
    "FlatDecoder",
    "PackedPlanes",
    "RenderOptions",
    "Rendered",
    "Resampling",
    "ToPicture",
    "act_rgb",
    "add_planes",
    "bias_act",
    "border_planes",
    "conv3x3_bias_act",
    "group_norm_act",
    "pack_planes",
    "pencil_rays",
    "plane_conv_act",
    "plane_linear",
    "plane_linear_act",
    "render_pencils",
    "render_rays",
    "resample2d",
    "resample2d_bias_act",
    "rollout_conv",
    "rollout_conv_act",
    "sample_triplane",
    "token_attention",
]
