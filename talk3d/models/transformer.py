"""The bottom of the delta U-Net: texels of three planes attend to their own plane, and to the condition tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from talk3d.nn.planes import (
    PlaneGroupNorm,
    PlaneLayerNorm,
    PlaneLinear,
    TokenAttention,
    join,
    split,
    to_planes,
    to_texels,
)
from talk3d.ops.linear import plane_linear

__all__ = ["PlaneTransformer", "position_table"]

_GROUPS = 32
_WAVELENGTH = 10000


class PlaneTransformer(nn.Module):
    """Two blocks of self-attention within each plane, cross-attention to the tokens, and a feed-forward layer.

    What happens before the first cross-attention depends on the planes alone: :meth:`start` does that, and
    :meth:`finish` the rest.

    Args:
        width: Channels of a plane.
        size: Side of a plane in texels.
        condition: Width of a condition token.
        labels: For each plane, which coordinate (0 = x, 1 = y, 2 = z) the positional table gives to its rows, and
            which to its columns.
        head_width: Channels of an attention head.
        blocks: Number of blocks.
        table_in_every_block: Add the table before each block (as published), not only before the first.
    """

    position: Tensor

    def __init__(
        self,
        width: int,
        size: int,
        condition: int,
        *,
        labels: tuple[tuple[int, int], ...],
        head_width: int = 64,
        blocks: int = 2,
        table_in_every_block: bool = False,
    ) -> None:
        super().__init__()
        # a constant, but one that released weights carry: training once changed it
        self.register_buffer("position", position_table(width, size, labels))
        self.norm = PlaneGroupNorm(width, _GROUPS)
        self.project = PlaneLinear(width, width)
        heads = max(width // head_width, 1)
        self.blocks = nn.ModuleList(_Block(width, condition, heads) for _ in range(blocks))
        self.table_in_every_block = table_in_every_block

    def start(self, planes: Float[Tensor, "batch 3 channel size size"]) -> Float[Tensor, "batch 3 texel channel"]:
        """Everything that no token has a part in: norm, projection, and the first self-attention."""
        texels = self.project(to_texels(join(self.norm(split(planes)))))
        return self._blocks[0].look_around(self._place(texels))

    def finish(
        self,
        texels: Float[Tensor, "batch 3 texel channel"],
        tokens: Float[Tensor, "batch token condition"],
        *,
        with_maps: bool = False,
    ) -> tuple[Float[Tensor, "batch 3 channel size size"], list[Float[Tensor, "batch 3 texel token"]]]:
        """Everything else, from what :meth:`start` found. Returns planes, and the map of each block if asked for."""
        maps: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            if index:
                texels = block.look_around(self._place(texels) if self.table_in_every_block else texels)
            texels, found = block.ask(texels, tokens, with_map=with_maps)
            maps += [] if found is None else [found]
        return to_planes(texels), maps

    @property
    def _blocks(self) -> list[_Block]:
        return list(self.blocks)  # type: ignore[arg-type]  # torch's lists hold any module

    def _place(self, texels: Tensor) -> Tensor:
        return texels + self.position.to(texels).transpose(0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, condition: int, heads: int) -> None:
        super().__init__()
        self.self_norm = PlaneLayerNorm(width)
        self.self_attention = _SelfAttention(width, heads)
        self.cross_attention = TokenAttention(width, condition, heads)
        self.feed_norm = PlaneLayerNorm(width)
        self.feed_forward = _FeedForward(width)

    def look_around(self, texels: Tensor) -> Tensor:
        return texels + self.self_attention(self.self_norm(texels))

    def ask(self, texels: Tensor, tokens: Tensor, *, with_map: bool) -> tuple[Tensor, Tensor | None]:
        texels, found = self.cross_attention(texels, tokens, with_map=with_map)
        return texels + self.feed_forward(self.feed_norm(texels)), found


class _SelfAttention(nn.Module):
    """Attention within each plane."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        bound = 1 / math.sqrt(width)
        self.qkv = nn.Parameter(torch.empty(3, 3, width, width).uniform_(-bound, bound))  # plane, then q, k, v
        self.out = PlaneLinear(width, width)

    def forward(self, texels: Tensor) -> Tensor:
        flat = texels.transpose(0, 1).flatten(1, 2)  # [3, B * N, D]
        projected = plane_linear(flat, self.qkv.flatten(1, 2))
        q, k, v = projected.view(3 * texels.shape[0], texels.shape[2], 3, self.heads, -1).transpose(1, 3).unbind(2)
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # [3 * B, N, h, d]
        return self.out(found.flatten(2).unflatten(0, (3, -1)).transpose(0, 1))


class _FeedForward(nn.Module):
    """Two linear layers about a gated GELU, four times as wide within."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = PlaneLinear(width, 8 * width)
        self.contract = PlaneLinear(4 * width, width)

    def forward(self, texels: Tensor) -> Tensor:
        value, gate = self.expand(texels).chunk(2, dim=3)
        return self.contract(value * functional.gelu(gate))


def position_table(width: int, size: int, labels: tuple[tuple[int, int], ...]) -> Float[Tensor, "texel 3 channel"]:
    """Tabulate a sinusoidal encoding of (x, y, z) on the texels of three planes that halve a cube of ``size`` texels.

    A third of the channels, rounded up to an even number, encodes each coordinate: sine and cosine in turn, with wave
    lengths that grow geometrically. The coordinate that a plane lacks is the mean of the two middle ones.

    Args:
        width: Number of channels; the excess of the last coordinate is cut off.
        size: Side of a plane.
        labels: Coordinates (0 = x, 1 = y, 2 = z) of each plane's rows and columns.

    Returns:
        ``[size * size, 3, width]``.
    """
    share = 2 * math.ceil(width / 6)
    frequency = 1 / _WAVELENGTH ** (torch.arange(0, share, 2) / share)
    angle = torch.arange(size)[:, None] * frequency
    encoding = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)  # [size, share]
    middle = encoding[(size - 1) // 2 : size // 2 + 1].mean(0)
    tables = []
    for rows, columns in labels:
        parts = [middle.expand(size, size, share)] * 3
        parts[rows] = encoding[:, None].expand(size, size, share)
        parts[columns] = encoding[None].expand(size, size, share)
        tables.append(torch.cat(parts, dim=2)[..., :width].flatten(0, 1))
    return torch.stack(tables, dim=1)
