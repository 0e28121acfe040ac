"""The delta U-Net as it renders one identity: everything that no token has a part in is a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from talk3d.models.frame_level import FrameLevel
from talk3d.nn.planes import to_planes, to_texels
from talk3d.ops.linear import plane_linear_act
from talk3d.profiling import annotate

if TYPE_CHECKING:
    from talk3d.models.delta import IdentityFeatures

__all__ = ["FrameUNet", "check_tokens"]


def check_tokens(tokens: Tensor, count: int | None, width: int) -> None:
    """Raise unless tokens are ``[B, count, width]``; without a count any number of them will do."""
    if tokens.ndim != 3 or tokens.shape[2] != width:
        raise ValueError(f"tokens must have the shape [batch, tokens, {width}], got {list(tokens.shape)}")
    if count not in (None, tokens.shape[1]):
        raise ValueError(f"this network was made for {count} tokens, got {tokens.shape[1]}")


class FrameUNet(nn.Module):
    """What :class:`talk3d.models.delta.DeltaUNet` computes for one identity, in fewer launches; for inference.

    Made by :meth:`talk3d.models.delta.DeltaUNet.for_frames`. Skips are inside the levels, gains and biases of layer
    norms inside the linear layers behind them, the scale of the identity inside the head.

    Args:
        transformer: In float32.
        levels: On the way up, with their skips.
        head: The last layer, or None.
        features: What the way down found, in float32.
        dtype: What frames are computed in.
    """

    texels: Tensor

    def __init__(
        self,
        transformer: Any,
        levels: list[FrameLevel],
        head: Any,
        features: IdentityFeatures,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.dtype, self.up = dtype, nn.ModuleList(levels)
        self.register_buffer("texels", features.texels.to(dtype))
        table = transformer.position.transpose(0, 1) if transformer.table_in_every_block else None
        last = len(transformer.blocks) - 1
        self.blocks = nn.ModuleList(
            _FrameBlock(block, looks=index > 0, added=None if index == last else table).to(dtype)
            for index, block in enumerate(transformer.blocks)
        )
        self.head = None if head is None else _FrameHead(head, features.scale).to(dtype)
        self.tokens = None if head is None else len(head.strength)
        self.condition = transformer.blocks[0].cross_attention.key.shape[1]

    def forward(self, tokens: Float[Tensor, "batch token condition"]) -> Float[Tensor, "batch 3 channel size size"]:
        """Predict delta planes ``[B, 3, C, R, R]``, channels-last plane by plane.

        Raises:
            ValueError: On tokens of another number or width.
        """
        check_tokens(tokens, self.tokens, self.condition)
        batch, tokens = len(tokens), tokens.to(self.dtype)
        with annotate("unet.mid"):
            texels = self.texels.expand(batch, -1, -1, -1)
            for block in self.blocks:
                texels = block(texels, tokens)
            planes = to_planes(texels)
        for index, level in enumerate(self.up, start=1):
            with annotate(f"unet.up{index}"):
                planes = level(planes)
        if self.head is None:
            return planes
        with annotate("unet.head"):
            return to_planes(self.head(to_texels(planes), tokens))


class _FrameBlock(nn.Module):
    """A block of the transformer, with the layer norms inside the layers behind them.

    Args:
        block: What it is made of.
        looks: Whether the self-attention is still to be done.
        added: What the next block adds first, ``[3, N, D]``, or None.
    """

    project_weight: Tensor
    project_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor

    def __init__(self, block: Any, *, looks: bool, added: Tensor | None) -> None:
        super().__init__()
        self.cross_attention, self.looks = block.cross_attention, looks
        attention = block.self_attention
        self.heads = attention.heads
        if looks:
            _keep(self, "project", *_behind(block.self_norm, attention.qkv.flatten(1, 2), None))
            _keep(self, "out", attention.out.weight, attention.out.bias[:, None])
        feed = block.feed_forward
        _keep(self, "expand", *_behind(block.feed_norm, feed.expand.weight, feed.expand.bias))
        bias = feed.contract.bias[:, None]
        _keep(self, "contract", feed.contract.weight, bias if added is None else bias + added)

    def forward(self, texels: Tensor, tokens: Tensor) -> Tensor:
        """Take texels ``[B, 3, N, D]`` to as many."""
        batch = len(texels)
        if self.looks:
            flat = _flat(texels)
            projected = plane_linear_act(flat, self.project_weight, self.project_bias, normalise=True)
            q, k, v = projected.view(3 * batch, texels.shape[2], 3, self.heads, -1).transpose(1, 3).unbind(2)
            found = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [3 * B, N, D]
            found = found.unflatten(0, (3, batch)).flatten(1, 2)
            texels = _unflat(plane_linear_act(found, self.out_weight, self.out_bias, flat), batch)
        flat = _flat(self.cross_attention(texels, tokens).planes)
        inner = plane_linear_act(flat, self.expand_weight, self.expand_bias, normalise=True, gate=True)
        return _unflat(plane_linear_act(inner, self.contract_weight, self.contract_bias, flat), batch)


class _FrameHead(nn.Module):
    """The last layer, in units of one identity's scale ``[1, 1, 1]``."""

    layer_weight: Tensor
    layer_bias: Tensor
    maps: Tensor
    directions: Tensor
    strength: Tensor

    def __init__(self, head: Any, scale: Tensor) -> None:
        super().__init__()
        _keep(self, "layer", head.weight * scale, (head.bias * scale[0])[:, None])
        for name, value in (
            ("maps", head.maps),
            ("directions", head.directions[:, None]),
            ("strength", head.strength * scale),
        ):
            self.register_buffer(name, value.detach())

    def forward(self, texels: Tensor, tokens: Tensor) -> Tensor:
        """Take texels ``[B, 3, N, D]`` to as many."""
        found = plane_linear_act(_flat(texels), self.layer_weight, self.layer_bias).unflatten(1, (len(tokens), -1))
        strength = torch.einsum("bte,tem->btm", tokens, self.strength).flatten(1)[:, :, None]
        directions = self.directions * strength  # [3, B, M, D]
        for sample in range(len(tokens)):  # at once they would need copies of the maps, the largest constants of all
            found[:, sample].baddbmm_(self.maps, directions[:, sample])
        return found.transpose(0, 1)


def _keep(module: nn.Module, name: str, weight: Tensor, bias: Tensor) -> None:
    module.register_buffer(f"{name}_weight", weight.detach().contiguous())
    module.register_buffer(f"{name}_bias", bias.detach().contiguous())


def _behind(norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight ``[3, O, D]`` and bias ``[3, 1, O]`` of a layer with the gain and the bias of the norm before it."""
    offset = torch.einsum("pod,pd->po", weight, norm.bias)
    return weight * norm.weight[:, None], (offset if bias is None else bias + offset)[:, None]


def _flat(texels: Tensor) -> Tensor:
    """Texels ``[B, 3, N, D]`` as rows of each plane ``[3, B * N, D]``."""
    return texels.transpose(0, 1).flatten(1, 2)


def _unflat(rows: Tensor, batch: int) -> Tensor:
    return rows.unflatten(1, (batch, -1)).transpose(0, 1)
