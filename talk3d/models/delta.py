"""The audio-guided attention U-Net: what a frame adds to the planes of an identity (Talk3D, section 3.3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.utils.checkpoint import checkpoint

from talk3d.models.frame_level import FrameLevel
from talk3d.models.frame_unet import FrameUNet, check_tokens
from talk3d.models.transformer import PlaneTransformer
from talk3d.nn.equalized import smoothing_filter
from talk3d.nn.planes import (
    PlaneBatchNorm,
    PlaneConv,
    PlaneGroupNorm,
    RolloutConv,
    join,
    split,
    to_planes,
    to_texels,
)
from talk3d.ops.resample import resample2d
from talk3d.ops.rollout import RolloutAxes
from talk3d.ops.triplane import AXES, Axes
from talk3d.profiling import annotate

__all__ = ["DeltaUNet", "IdentityFeatures", "Semantics", "fold_batch_norm"]

Semantics = Literal["aligned", "published"]

_CHANNELS_PER_GROUP = 8
_SLOPE = 0.01
_MAPS = 8  # of each token

# Coordinates (0 = x, 1 = y, 2 = z) of rows and columns as the published positional table has them, whatever the planes
_PUBLISHED_LABELS = ((0, 1), (1, 2), (0, 2))


class IdentityFeatures(NamedTuple):
    """What :meth:`DeltaUNet.encode` finds in an identity; batch 1, or that of the planes.

    Attributes:
        half: Features at half the resolution ``[B, 3, W, R/2, R/2]``.
        quarter: At a quarter ``[B, 3, 2W, R/4, R/4]``.
        eighth: At an eighth ``[B, 3, 4W, R/8, R/8]``.
        texels: ``eighth`` as the transformer sees it after its first self-attention ``[B, 3, (R/8)**2, 4W]``.
        scale: What the last layer's output is multiplied by ``[B, 1, 1]``.
    """

    half: Float[Tensor, "batch 3 width r2 r2"]
    quarter: Float[Tensor, "batch 3 width2 r4 r4"]
    eighth: Float[Tensor, "batch 3 width4 r8 r8"]
    texels: Float[Tensor, "batch 3 texel width4"]
    scale: Float[Tensor, "batch 1 1"]


class DeltaUNet(nn.Module):
    """Predict delta planes from the planes of an identity and the condition tokens of a frame.

    Three levels down, a transformer with cross-attention to the tokens, three levels up with skips. All weights belong
    to one plane each but those of the cross-attention; planes meet there, and in the roll-out at each level.

    ``semantics="published"`` computes what released weights were trained with. ``"aligned"`` differs in that

    - profiles are exchanged, and positions tabulated, along the true axes of the planes; the table is added once;
    - norms are group norms, so that a frame does not depend on its batch;
    - the last convolution is at full resolution, and a linear layer follows, which starts from zero: so does the delta,
      and the first steps of an optimiser change it little. It is measured in standard deviations of the identity's
      planes;
    - each token has maps beside it, learned texel by texel, that say where on the planes it shows.

    Args:
        axes: Convention of the planes, a key of :data:`talk3d.ops.AXES`. Published weights belong to ``"zy"``.
        semantics: ``"aligned"`` for new training, ``"published"`` for released weights.
        channels: Channels C of a plane, a multiple of 4.
        resolution: Side R of a plane, a multiple of 8.
        condition: Width E of a token.
        width: Channels W of a plane after the first level, a multiple of 8; each further level has twice as many. By
            default 2C, as published.
        tokens: How many tokens an ``"aligned"`` network gets; a ``"published"`` one takes any number.

    Raises:
        ValueError: On unknown options, and on ``"published"`` with other planes than ``"zy"``.

    Example:
        >>> unet = DeltaUNet(axes="zy", channels=4, resolution=16)
        >>> unet(torch.randn(2, 5, 64), torch.randn(1, 3, 4, 16, 16)).shape
        torch.Size([2, 3, 4, 16, 16])
    """

    def __init__(
        self,
        *,
        axes: Axes,
        semantics: Semantics = "aligned",
        channels: int = 32,
        resolution: int = 256,
        condition: int = 64,
        width: int | None = None,
        tokens: int = 5,
    ) -> None:
        super().__init__()
        if axes not in AXES:
            raise ValueError(f"axes must be one of {', '.join(AXES)}, got {axes!r}")
        if semantics not in ("aligned", "published"):
            raise ValueError(f"semantics must be 'aligned' or 'published', got {semantics!r}")
        published = semantics == "published"
        if published and axes != "zy":
            raise ValueError(f"published weights were trained for planes of the convention 'zy', got {axes!r}")
        if channels < 1 or channels % 4 or resolution < 8 or resolution % 8:
            raise ValueError(f"channels must be a multiple of 4, and resolution of 8, got {channels} and {resolution}")
        self.axes, self.semantics = axes, semantics
        width = 2 * channels if width is None else width
        if width < 1 or width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        self.channels, self.resolution, self.condition, self.width = channels, resolution, condition, width
        self.tokens = tokens
        self._recomputes = False

        exchange: RolloutAxes = "published" if published else axes
        c1, c2, c4, c8 = channels, width, 2 * width, 4 * width

        def level(channels: int, out: int, where: Where) -> _Level:
            return _Level(channels, out, exchange, where, PlaneBatchNorm if published else _group_norm)

        self.down = nn.ModuleList([level(c1, c2, "down"), level(c2, c4, "down"), level(c4, c8, "down")])
        self.transformer = PlaneTransformer(
            c8,
            resolution // 8,
            condition,
            labels=_PUBLISHED_LABELS if published else _labels(axes),
            table_in_every_block=published,
        )
        last = level(c2, c1, "up" if published else "between")
        self.up = nn.ModuleList([level(c8, c4, "up"), level(c4, c2, "up"), last])
        self.head = None if published else _Head(c1, resolution, tokens, condition)
        if published:  # the delta starts from zero, but only the first: a batch norm follows
            for parameter in last.conv1.parameters():
                nn.init.zeros_(parameter)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make such a network, ready for JSON."""
        names = ("axes", "semantics", "channels", "resolution", "condition", "width", "tokens")
        return {name: getattr(self, name) for name in names}

    def recompute(self, on: bool = True) -> DeltaUNet:
        """Keep only what goes from level to level for the backward, which computes the rest again; returns itself.

        The gradients are the same. Training takes a fraction of the memory, and a fourth pass where it had three.

        Raises:
            ValueError: If it is to be switched on and batch norms would then see each batch twice.
        """
        if on and self.semantics == "published":
            raise ValueError("a published network cannot recompute: its batch norms would count each batch twice")
        self._recomputes = on
        return self

    def _run(self, part: Callable[..., Any], *inputs: Any) -> Any:
        if self._recomputes and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
        return part(*inputs)

    def forward(
        self,
        tokens: Float[Tensor, "batch token condition"],
        identity: Float[Tensor, "identities 3 channel size size"] | IdentityFeatures,
    ) -> Float[Tensor, "batch 3 channel size size"]:
        """Predict delta planes.

        Args:
            tokens: Condition tokens of each frame ``[B, T, E]``.
            identity: Planes ``[1 or B, 3, C, R, R]``, or what :meth:`encode` made of them. Planes of batch 1, also
                expanded ones, are encoded once.

        Returns:
            Delta planes ``[B, 3, C, R, R]``, channels-last plane by plane: with batch 1, a kernel's layout.

        Raises:
            ValueError: On wrong shapes; with the name and shape of the argument.
        """
        check_tokens(tokens, None if self.head is None else self.tokens, self.condition)
        features = self._features(tokens, identity)
        batch = tokens.shape[0]
        with annotate("unet.mid"):
            planes, _ = self._run(self.transformer.finish, features.texels.expand(batch, -1, -1, -1), tokens)
        skips = features.eighth, features.quarter, features.half
        for index, (level, skip) in enumerate(zip(self.up, skips, strict=True), start=1):
            with annotate(f"unet.up{index}"):
                planes = self._run(level, planes + skip)
        if self.head is None:
            return planes
        with annotate("unet.head"):
            return to_planes(self.head(to_texels(planes), features.scale.expand(batch, -1, -1), tokens))

    def encode(self, planes: Float[Tensor, "batch 3 channel size size"], *, copies: int = 1) -> IdentityFeatures:
        """Everything that no token has a part in: the way down and the first self-attention.

        Args:
            planes: Planes of an identity ``[B, 3, C, R, R]``.
            copies: How many samples of a training step share them; the tracked variance of batch norms counts them.
        """
        channels, size = self.channels, self.resolution
        if planes.ndim != 5 or planes.shape[1:] != (3, channels, size, size):
            raise ValueError(
                f"identity must have the shape [batch, 3, {channels}, {size}, {size}], got {list(planes.shape)}"
            )
        with annotate("unet.id_cache"):
            half = self._run(self.down[0], planes, copies)
            quarter = self._run(self.down[1], half, copies)
            eighth = self._run(self.down[2], quarter, copies)
            scale = planes.std((1, 2, 3, 4)).view(-1, 1, 1)
            return IdentityFeatures(half, quarter, eighth, self._run(self.transformer.start, eighth), scale)

    def attention_maps(
        self,
        tokens: Float[Tensor, "batch token condition"],
        identity: Float[Tensor, "identities 3 channel size size"] | IdentityFeatures,
    ) -> Float[Tensor, "batch block token 3 size8 size8"]:
        """Where on the planes each token is looked at, mean over the heads: ``[B, 2, T, 3, R/8, R/8]``.

        The arguments are those of :meth:`forward`. Over the tokens it adds up to 1.
        """
        texels = self._features(tokens, identity).texels.expand(tokens.shape[0], -1, -1, -1)
        _, maps = self.transformer.finish(texels, tokens, with_maps=True)
        return torch.stack([to_planes(found) for found in maps], dim=1).transpose(2, 3)

    def for_frames(self, features: IdentityFeatures, dtype: torch.dtype) -> FrameUNet:
        """Make the same for one identity, in fewer launches: for inference, after :func:`fold_batch_norm`.

        Args:
            features: What :meth:`encode` made of the identity, in float32.
            dtype: Type of the frames.
        """
        skips = features.eighth, features.quarter, features.half
        levels = [level.for_frames().expect(skip, dtype) for level, skip in zip(self.up, skips, strict=True)]  # type: ignore[operator]  # they are levels
        return FrameUNet(self.transformer, levels, self.head, features, dtype)

    def _features(self, tokens: Tensor, identity: Tensor | IdentityFeatures) -> IdentityFeatures:
        check_tokens(tokens, None, self.condition)
        batch = tokens.shape[0]
        if isinstance(identity, Tensor):
            # an expanded batch is one identity
            shared = identity.ndim == 5 and (identity.shape[0] == 1 or identity.stride(0) == 0)
            identity = self.encode(identity[:1] if shared else identity, copies=batch if shared else 1)
        if identity.texels.shape[0] not in (1, batch):
            raise ValueError(f"identity has a batch of {identity.texels.shape[0]}, the tokens one of {batch}")
        return identity


Where = Literal["down", "up", "between"]


class _Level(nn.Module):
    """Roll-out convolution and convolution, each with norm and activation, and a resampling by 2.

    Args:
        channels: Channels of a plane that come in.
        out: Channels that go out.
        exchange: What the roll-out exchanges.
        where: Halve the planes at the end, double them there, or double them between the convolutions.
        norm: Makes a norm for so many channels.
    """

    fir: Tensor

    def __init__(
        self, channels: int, out: int, exchange: RolloutAxes, where: Where, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.where: Where = where
        self.conv0, self.norm0 = RolloutConv(channels, out, axes=exchange), norm(out)
        self.conv1, self.norm1 = PlaneConv(out, out), norm(out)
        self.register_buffer("fir", smoothing_filter(), persistent=False)

    def forward(self, planes: Tensor, copies: int = 1) -> Tensor:
        parts = _activate(self.norm0(split(self.conv0(planes)), copies))
        if self.where == "between":
            parts = split(self._resample(join(parts)))
        planes = join(_activate(self.norm1(self.conv1(parts), copies)))
        return planes if self.where == "between" else self._resample(planes)

    def for_frames(self) -> FrameLevel:
        """The same in fewer launches, for inference; of levels on the way up, without batch norms."""
        parts = self.conv0, self.norm0, self.conv1, self.norm1
        return FrameLevel(*parts, self.fir, between=self.where == "between", slope=_SLOPE)

    def _resample(self, planes: Tensor) -> Tensor:
        pictures = planes.transpose(0, 1).flatten(0, 1)  # [3 * B, C, R, R]
        fir = self.fir.to(pictures)
        if self.where == "down":
            pictures = resample2d(pictures, fir, down=2, padding=1)
        else:
            pictures = resample2d(pictures, fir, up=2, padding=(2, 1, 2, 1), gain=4)
        return pictures.unflatten(0, (3, -1)).transpose(0, 1)


class _Head(nn.Module):
    """What becomes of features at full resolution: delta planes, zero at first, in units of a scale.

    A linear layer over the texels of each plane; and maps that are learned texel by texel, each with a direction among
    the channels, as strong as one of the tokens says. The maps learn within tens of steps where a sound or a blink
    shows, which convolutions, whose weights all texels share, take thousands for; and since each belongs to one token,
    what one drives is not stirred by another. The layer refines what the maps cannot say.

    Args:
        width: Channels.
        size: Side of a plane.
        tokens: How many.
        condition: Width of a token.
    """

    def __init__(self, width: int, size: int, tokens: int, condition: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, width, width))
        self.bias = nn.Parameter(torch.zeros(3, width))
        maps = tokens * _MAPS
        self.maps = nn.Parameter(torch.zeros(3, size * size, maps))
        self.directions = nn.Parameter(torch.randn(3, maps, width) / math.sqrt(_MAPS))
        self.strength = nn.Parameter(torch.randn(tokens, condition, _MAPS) / math.sqrt(condition))

    def forward(self, texels: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
        """Take texels ``[B, 3, N, D]`` to as many, with a scale of each sample ``[B, 1, 1]`` and its tokens."""
        batch = len(tokens)
        # scaling the weights spares a pass over the largest planes of all
        weight = (self.weight.mT[:, None] * scale).flatten(0, 1)  # [3 * B, D, D]
        bias = (self.bias[:, None, None] * scale).flatten(0, 1)
        found = torch.baddbmm(bias, texels.transpose(0, 1).flatten(0, 1), weight)
        strength = torch.einsum("bte,tem->btm", tokens, self.strength).flatten(1)[:, :, None] * scale
        directions = self.directions[:, None] * strength  # [3, B, M, D]
        maps = self.maps[:, None].expand(-1, batch, -1, -1)
        found = torch.baddbmm(found, maps.flatten(0, 1), directions.flatten(0, 1))
        return found.unflatten(0, (3, -1)).transpose(0, 1)


class _NoNorm(nn.Module):
    """Stands where a norm was folded away."""

    def forward(self, parts: tuple[Tensor, ...], copies: int = 1) -> tuple[Tensor, ...]:
        return parts


def fold_batch_norm(unet: DeltaUNet) -> DeltaUNet:
    """Copy a network for inference, with each batch norm folded into the convolution before it.

    The copy is in evaluation mode and computes what the network would there. Group norms stay: they depend on the
    frame.
    """
    folded = copy.deepcopy(unet).eval()
    with torch.no_grad():
        for level in (*folded.down, *folded.up):
            for conv, norm in (("conv0", "norm0"), ("conv1", "norm1")):
                if isinstance(getattr(level, norm), PlaneBatchNorm):
                    gain, offset = getattr(level, norm).affine()
                    layer = getattr(level, conv)
                    layer.weight *= gain[..., None, None, None]
                    layer.bias.mul_(gain).add_(offset)
                    setattr(level, norm, _NoNorm())
    return folded


def _activate(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(leaky_relu(part, _SLOPE) for part in parts)


def _group_norm(channels: int) -> PlaneGroupNorm:
    return PlaneGroupNorm(channels, max(channels // _CHANNELS_PER_GROUP, 1))


def _labels(axes: Axes) -> tuple[tuple[int, int], ...]:
    """Coordinates of each plane's rows and columns."""
    columns, rows = AXES[axes][::2], AXES[axes][1::2]
    return tuple(zip(rows, columns, strict=True))
