"""Layers over three planes at once, with parameters of each plane's own.

Planes are ``[B, 3, C, R, R]``, texels ``[B, 3, N, D]``. Both lie plane by plane and channels-last in memory,
``[3, B, R, R, C]``, so that either is a view of the other, and each plane alone is what a convolution wants. ``split``
gives the planes one by one, ``[B, C, R, R]`` each, to layers that act on pictures.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from talk3d.ops.attention import Attended, AttentionWeights, token_attention
from talk3d.ops.convolution import conv3x3_bias_act
from talk3d.ops.linear import plane_linear
from talk3d.ops.resample import Activation
from talk3d.ops.rollout import RolloutAxes, rollout_conv

__all__ = [
    "PlaneBatchNorm",
    "PlaneConv",
    "PlaneGroupNorm",
    "PlaneLayerNorm",
    "PlaneLinear",
    "RolloutConv",
    "TokenAttention",
    "join",
    "split",
    "to_planes",
    "to_texels",
]

Parts = tuple[Tensor, ...]

_SUM = Activation("linear")


def split(planes: Float[Tensor, "batch 3 channel size size"]) -> Parts:
    """Take planes apart: three channels-last pictures ``[B, C, R, R]``."""
    # unbinding the layout that is in memory: the gradients are then joined in that layout
    return tuple(part.permute(0, 3, 1, 2) for part in planes.permute(1, 0, 3, 4, 2).contiguous().unbind())


def join(parts: Parts) -> Float[Tensor, "batch 3 channel size size"]:
    """Put three pictures ``[B, C, R, R]`` together, the inverse of :func:`split`."""
    return torch.stack([part.permute(0, 2, 3, 1) for part in parts]).permute(1, 0, 4, 2, 3)


def to_texels(planes: Float[Tensor, "batch 3 channel size size"]) -> Float[Tensor, "batch 3 texel channel"]:
    """List the texels of each plane, row by row: a view."""
    return planes.permute(0, 1, 3, 4, 2).flatten(2, 3)


def to_planes(texels: Float[Tensor, "batch 3 texel channel"]) -> Float[Tensor, "batch 3 channel size size"]:
    """Arrange texels on square planes, the inverse of :func:`to_texels`."""
    size = math.isqrt(texels.shape[2])
    return texels.unflatten(2, (size, size)).permute(0, 1, 4, 2, 3)


class RolloutConv(nn.Module):
    """3 x 3 convolution of each plane and the profiles of the others; see :func:`talk3d.ops.rollout.rollout_conv`."""

    def __init__(self, channels: int, out: int, *, axes: RolloutAxes) -> None:
        super().__init__()
        self.weight, self.bias = _parameters(out, 3 * channels, 3, 3)
        self.axes: RolloutAxes = axes

    def forward(self, planes: Tensor) -> Tensor:
        """Take planes ``[B, 3, C, R, R]`` to ``[B, 3, O, R, R]``."""
        return rollout_conv(planes, self.weight, self.bias, axes=self.axes)


class PlaneConv(nn.Module):
    """3 x 3 convolution of each plane by itself."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = _parameters(out, channels, 3, 3)

    def forward(self, parts: Parts) -> Parts:
        """Take three pictures ``[B, C, R, R]`` to ``[B, O, R, R]``."""
        layers = zip(parts, self.weight, self.bias, strict=True)
        return tuple(conv3x3_bias_act(*layer, _SUM) for layer in layers)


class PlaneLinear(nn.Module):
    """Linear layer over the texels of each plane."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = _parameters(out, width)

    def forward(self, texels: Tensor) -> Tensor:
        """Take texels ``[B, 3, N, D]`` to ``[B, 3, N, O]``."""
        flat = texels.transpose(0, 1).flatten(1, 2)  # [3, B * N, D]
        projected = plane_linear(flat, self.weight, self.bias)
        return projected.unflatten(1, (texels.shape[0], -1)).transpose(0, 1)


class PlaneLayerNorm(nn.Module):
    """Layer norm of each texel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, width))
        self.bias = nn.Parameter(torch.zeros(3, width))

    def forward(self, texels: Tensor) -> Tensor:
        """Normalise texels ``[B, 3, N, D]``."""
        normalised = functional.layer_norm(texels.transpose(0, 1), texels.shape[3:])
        return torch.addcmul(self.bias[:, None, None], normalised, self.weight[:, None, None]).transpose(0, 1)


class PlaneGroupNorm(nn.Module):
    """Group norm of each plane.

    Args:
        channels: Channels of a plane.
        groups: Into how many groups they are divided.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(3, channels))
        self.bias = nn.Parameter(torch.zeros(3, channels))

    def forward(self, parts: Parts, copies: int = 1) -> Parts:
        """Normalise three pictures ``[B, C, R, R]``; ``copies`` is for :class:`PlaneBatchNorm`."""
        layers = zip(parts, self.weight, self.bias, strict=True)
        return tuple(functional.group_norm(part, self.groups, *affine) for part, *affine in layers)


class PlaneBatchNorm(nn.Module):
    """Batch norm of each plane, as in the published model."""

    eps = 1e-5
    momentum = 0.1
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, channels))
        self.bias = nn.Parameter(torch.zeros(3, channels))
        self.register_buffer("running_mean", torch.zeros(3, channels))
        self.register_buffer("running_var", torch.ones(3, channels))
        self.register_buffer("num_batches_tracked", torch.zeros(3, dtype=torch.int64))

    def forward(self, parts: Parts, copies: int = 1) -> Parts:
        """Normalise three pictures ``[B, C, R, R]``.

        A batch of ``copies`` equal pictures has the statistics of one, but for the unbiased variance that is tracked:
        its ``n / (n - 1)`` counts them all.
        """
        layers = list(zip(parts, self.weight, self.bias, strict=True))
        if not self.training:
            statistics = zip(layers, self.running_mean, self.running_var, strict=True)
            return tuple(
                functional.batch_norm(part, mean, var, gain, bias, eps=self.eps)
                for (part, gain, bias), mean, var in statistics
            )
        # without its buffers, for torch would not know of the copies
        found = [torch.native_batch_norm(*layer, None, None, True, self.momentum, self.eps) for layer in layers]
        normalised, means, inverse_stds = zip(*found, strict=True)
        with torch.no_grad():
            count = parts[0].numel() // parts[0].shape[1] * copies
            var = (torch.stack(inverse_stds).pow(-2) - self.eps) * (count / max(count - 1, 1))
            self.running_mean.lerp_(torch.stack(means), self.momentum)
            self.running_var.lerp_(var, self.momentum)
            self.num_batches_tracked += 1
        return normalised

    def affine(self) -> tuple[Tensor, Tensor]:
        """Gain and offset ``[3, C]`` that the tracked statistics amount to."""
        gain = self.weight * torch.rsqrt(self.running_var + self.eps)
        return gain, self.bias - self.running_mean * gain


class TokenAttention(nn.Module):
    """Attention of texels to condition tokens; see :func:`talk3d.ops.attention.token_attention`.

    Args:
        width: Of a texel; the heads share it.
        condition: Width of a token.
        heads: Number of heads.
    """

    def __init__(self, width: int, condition: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.Parameter(torch.ones(3, width))
        self.norm_bias = nn.Parameter(torch.zeros(3, width))
        self.query = nn.Linear(width, width, bias=False).weight
        self.key = nn.Linear(condition, width, bias=False).weight
        self.value = nn.Linear(condition, width, bias=False).weight
        out = nn.Linear(width, width)
        self.out, self.out_bias = out.weight, out.bias

    def forward(self, texels: Tensor, tokens: Tensor, *, with_map: bool = False) -> Attended:
        """Attend with texels ``[B, 3, N, D]`` to tokens ``[B, T, E]``."""
        weights = AttentionWeights(*(getattr(self, name) for name in AttentionWeights._fields))
        return token_attention(texels, tokens, weights, heads=self.heads, with_map=with_map)


def _parameters(out: int, *fan_in: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of three layers, each as torch would initialise it."""
    bound = 1 / math.sqrt(math.prod(fan_in))
    weight = torch.empty(3, out, *fan_in).uniform_(-bound, bound)
    return nn.Parameter(weight), nn.Parameter(torch.empty(3, out).uniform_(-bound, bound))
