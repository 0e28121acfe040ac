"""The StyleGAN2 backbone with skip connections (StyleGAN2, figure 7b), whose picture is the stack of planes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.nn import Noise, SynthesisLayer, ToRGB, smoothing_filter
from talk3d.ops import resample2d
from talk3d.profiling import annotate

__all__ = ["BackboneShape", "SynthesisBackbone", "SynthesisBlock", "upsample"]

_FIRST = 4  # side of the learned constant


def upsample(image: Float[Tensor, "batch channel height width"], filter: Tensor) -> Tensor:
    """Double the size of a picture with the low-pass filter."""
    return resample2d(image, filter, up=2, padding=(2, 1, 2, 1), gain=4.0)


class SynthesisBlock(nn.Module):
    """Two modulated convolutions, and their contribution to the picture.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        w_dim: Width of the latents.
        resolution: Side of the output.
        image_channels: Channels of the picture.
        up: 2 to double the size of the activations and of the picture, 1 to keep them.
        clamp: Largest magnitude of activations and contribution, if there is one.
    """

    filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        image_channels: int,
        up: Literal[1, 2] = 2,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim=w_dim, resolution=resolution, up=up, clamp=clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim=w_dim, resolution=resolution, clamp=clamp)
        self.to_rgb = ToRGB(out_channels, image_channels, w_dim=w_dim, clamp=clamp)
        self.register_buffer("filter", smoothing_filter() if up == 2 else None, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        image: Float[Tensor, "batch image_channels height width"] | None,
        ws: Float[Tensor, "batch 3 w_dim"],
        *,
        noise: Noise = "const",
    ) -> tuple[Tensor, Tensor]:
        """Give the next activations and picture; ``ws`` are the latents of the convolutions and of the contribution.

        Activations keep their type; the picture has that of ``ws``.
        """
        x = self.conv0(x, ws[:, 0], noise=noise)
        x = self.conv1(x, ws[:, 1], noise=noise)
        with annotate(".rgb"):
            contribution = self.to_rgb(x, ws[:, 2]).to(ws.dtype)
            if image is None:
                return x, contribution
            return x, contribution + (image if self.filter is None else upsample(image, self.filter))


class ConstantBlock(nn.Module):
    """The first block: a learned constant instead of an input, and one convolution.

    Args:
        channels: Channels of the constant and of the output.
        w_dim: Width of the latents.
        image_channels: Channels of the picture.
    """

    def __init__(self, channels: int, *, w_dim: int, image_channels: int) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(channels, _FIRST, _FIRST))
        self.conv1 = SynthesisLayer(channels, channels, w_dim=w_dim, resolution=_FIRST)
        self.to_rgb = ToRGB(channels, image_channels, w_dim=w_dim)

    def forward(self, ws: Float[Tensor, "batch 2 w_dim"], *, noise: Noise = "const") -> tuple[Tensor, Tensor]:
        """Give the first activations ``[B, channels, 4, 4]`` and picture ``[B, image_channels, 4, 4]``."""
        x = self.const.expand(len(ws), -1, -1, -1)
        x = self.conv1(x, ws[:, 0], noise=noise)
        return x, self.to_rgb(x, ws[:, 1])


class BackboneShape(NamedTuple):
    """How wide a backbone is: at a side of ``r`` it has ``min(channel_base / r, channel_max)`` channels."""

    resolution: int
    image_channels: int
    channel_base: int
    channel_max: int

    def sides(self) -> list[int]:
        """Sides of the blocks, from 4 to the resolution."""
        return [_FIRST << block for block in range((self.resolution // _FIRST).bit_length())]

    def channels(self, side: int) -> int:
        """Channels at a side."""
        return min(self.channel_base // side, self.channel_max)

    @property
    def num_ws(self) -> int:
        """Latents that the layers take: a block's last one is also the next block's first."""
        return 2 * len(self.sides())


class SynthesisBackbone(nn.Module):
    """Blocks from 4 x 4 to the resolution, each adding to the picture.

    Args:
        shape: Sizes.
        w_dim: Width of the latents.

    Raises:
        ValueError: If the resolution is not a power of 2 from 4 on.
    """

    def __init__(self, shape: BackboneShape, *, w_dim: int) -> None:
        super().__init__()
        sides = shape.sides()
        if sides[-1:] != [shape.resolution]:
            raise ValueError(f"resolution must be a power of 2, at least {_FIRST}, got {shape.resolution}")
        self.num_ws = shape.num_ws
        self.w_dim = w_dim
        self.blocks = nn.ModuleDict(
            {str(_FIRST): ConstantBlock(shape.channels(_FIRST), w_dim=w_dim, image_channels=shape.image_channels)}
        )
        for side in sides[1:]:
            self.blocks[str(side)] = SynthesisBlock(
                shape.channels(side // 2),
                shape.channels(side),
                w_dim=w_dim,
                resolution=side,
                image_channels=shape.image_channels,
            )

    def forward(
        self, ws: Float[Tensor, "batch num_ws w_dim"], *, noise: Noise = "const"
    ) -> Float[Tensor, "batch image_channels resolution resolution"]:
        """Make the picture.

        Args:
            ws: A latent for each layer.
            noise: ``"const"`` for the stored maps, ``"none"``, or a generator for fresh ones.

        Raises:
            ValueError: If the shape of ``ws`` does not fit.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must have the shape [batch, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}")
        first, *others = self.blocks.values()
        with annotate(f"backbone.b{_FIRST}"):
            x, image = first(ws[:, :2], noise=noise)
        for index, block in enumerate(others):
            with annotate(f"backbone.b{_FIRST << (index + 1)}"):
                x, image = block(x, image, ws[:, 2 * index + 1 : 2 * index + 4], noise=noise)
        return image
