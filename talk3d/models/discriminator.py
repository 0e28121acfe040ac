"""The discriminator that sees the picture and the render it was made from (EG3D, section 4.4)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from talk3d.models.mapping import MappingNetwork
from talk3d.nn import EqualizedConv2d, EqualizedLinear

__all__ = ["DualDiscriminator"]

_LAST = 4  # side of the activations that are judged


class DualDiscriminator(nn.Module):
    """StyleGAN2's residual discriminator over six channels: the picture, and the enlarged raw render.

    Args:
        resolution: Side of the picture, a power of 2 from 8 on.
        channel_base: At a side of ``r`` there are ``channel_base / r`` channels ...
        channel_max: ... but no more than this.
        camera_dim: Width of the camera vector on which the judgement is conditioned.
        mapping_layers: Layers of the network that embeds it.
        group: Pictures that are compared with one another by the minibatch statistic.
        clamp: Largest magnitude of the activations, if there is one.

    Raises:
        ValueError: If the resolution is no such power.
    """

    def __init__(
        self,
        resolution: int = 512,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        camera_dim: int = 25,
        mapping_layers: int = 8,
        group: int = 4,
        clamp: float | None = 256.0,
    ) -> None:
        super().__init__()
        if resolution < 2 * _LAST or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of 2, at least {2 * _LAST}, got {resolution}")

        def channels(side: int) -> int:
            return min(channel_base // side, channel_max)

        sides = [resolution >> block for block in range((resolution // _LAST).bit_length() - 1)]  # 512, ..., 8
        self.resolution = resolution
        self.from_rgb = EqualizedConv2d(6, channels(resolution), 1, clamp=clamp)
        self.blocks = nn.ModuleDict(
            {str(side): _ResidualBlock(channels(side), channels(side // 2), clamp=clamp) for side in sides}
        )
        self.epilogue = _Epilogue(channels(_LAST), group=group, clamp=clamp)
        self.mapping = MappingNetwork(0, camera_dim, channels(_LAST), layers=mapping_layers, average=False)

    def forward(
        self,
        image: Float[Tensor, "batch 3 resolution resolution"],
        image_raw: Float[Tensor, "batch 3 height width"],
        cameras: Float[Tensor, "batch camera_dim"],
    ) -> Float[Tensor, "batch 1"]:
        """Judge pictures.

        Args:
            image: Pictures.
            image_raw: The renders they were made from, of any size.
            cameras: The cameras they are seen from.

        Returns:
            Logits ``[B, 1]``: the larger, the more real. Twice differentiable, as the penalty on gradients wants.

        Raises:
            ValueError: If a shape does not fit, or the batch is no multiple of the group.
        """
        side = self.resolution
        if image.shape[1:] != (3, side, side):
            raise ValueError(f"image must have the shape [batch, 3, {side}, {side}], got {list(image.shape)}")
        if image_raw.ndim != 4 or image_raw.shape[:2] != image.shape[:2]:
            raise ValueError(f"image_raw must be [{len(image)}, 3, height, width], got {list(image_raw.shape)}")
        raw = interpolate(image_raw, (side, side), mode="bilinear", align_corners=False, antialias=True)
        x = self.from_rgb(torch.cat([image, raw], dim=1))
        for block in self.blocks.values():
            x = block(x)
        x = self.epilogue(x)
        condition = self.mapping(None, cameras)
        return (x * condition).sum(1, keepdim=True) / math.sqrt(condition.shape[1])


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut; halves the size. ``[B, I, H, W]`` to ``[B, O, H / 2, W / 2]``."""

    def __init__(self, in_channels: int, out_channels: int, *, clamp: float | None) -> None:
        super().__init__()
        gain = math.sqrt(0.5)  # of each branch, so that their sum keeps the variance
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3, clamp=clamp)
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, down=2, gain=gain, clamp=clamp)
        self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, activation="linear", down=2, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv1(self.conv0(x))


class _Epilogue(nn.Module):
    """Minibatch statistic, convolution and two linear layers. ``[B, C, 4, 4]`` to ``[B, C]``."""

    def __init__(self, channels: int, *, group: int, clamp: float | None) -> None:
        super().__init__()
        self.group = group
        self.conv = EqualizedConv2d(channels + 1, channels, 3, clamp=clamp)
        self.fc = EqualizedLinear(channels * _LAST**2, channels, activation="lrelu")
        self.out = EqualizedLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self._deviation(x)], dim=1)
        return self.out(self.fc(self.conv(x).flatten(1)))

    def _deviation(self, x: Tensor) -> Tensor:
        """Mean standard deviation over the pictures of a group, as a map ``[B, 1, H, W]``."""
        group = min(self.group, len(x))
        if not group or len(x) % group:
            raise ValueError(f"image has a batch of {len(x)}, which is no multiple of the group of {group}")
        groups = x.unflatten(0, (group, -1))  # pictures b, b + B / group, ... are compared
        deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
