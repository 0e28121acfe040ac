"""Super-resolution: from rendered features to the picture (EG3D, section 4.3)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from talk3d.models.synthesis import SynthesisBlock, upsample
from talk3d.nn import Noise
from talk3d.ops import Activation, Resampling, bias_act, conv3x3_bias_act, resample2d_bias_act
from talk3d.ops.rgb import ToPicture, act_rgb
from talk3d.profiling import annotate

__all__ = ["VARIANTS", "FoldedSuperResolution", "SuperResolution", "Variant"]

Variant = Literal["2x", "4x", "8x", "8xdc", "small"]

_RGB = 3  # the first channels of the features are the picture at low resolution


class _Shape(NamedTuple):
    """The two blocks of a variant, and the size of their input."""

    size: int
    widths: tuple[int, int]
    ups: tuple[Literal[1, 2], Literal[1, 2]]
    only_enlarge: bool = False

    @property
    def resolution(self) -> int:
        """Side of the result."""
        return self.size * self.ups[0] * self.ups[1]


# EG3D's Hybrid2X, 4X, 8X and 8XDC; the factor is that of the published training sizes. "small" is ours, for a CPU
VARIANTS: dict[Variant, _Shape] = {
    "2x": _Shape(64, (128, 64), (1, 2)),
    "4x": _Shape(128, (128, 64), (1, 2), only_enlarge=True),
    "8x": _Shape(128, (128, 64), (2, 2)),
    "8xdc": _Shape(128, (256, 128), (2, 2)),
    "small": _Shape(64, (32, 32), (2, 2)),
}


def _resize(features: Tensor, shape: _Shape) -> Tensor:
    """Bring features to the size that the blocks want."""
    width = features.shape[3]
    if width == shape.size or (shape.only_enlarge and width > shape.size):
        return features
    # on a CPU torch resamples no bfloat16 with antialias
    exact = features.float() if features.dtype == torch.bfloat16 else features
    resized = interpolate(exact, (shape.size, shape.size), mode="bilinear", align_corners=False, antialias=True)
    return resized.to(features.dtype)


class SuperResolution(nn.Module):
    """Two synthesis blocks over rendered features, styled by one latent.

    Args:
        variant: A key of :data:`VARIANTS`.
        channels: Channels of the features.
        w_dim: Width of the latent.
        clamp: Largest magnitude of activations, if there is one.
        dtype: Type of the activations in the blocks, by default that of the features, which the picture keeps.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        channels: int = 32,
        w_dim: int = 512,
        clamp: float | None = 256.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.shape = VARIANTS[variant]
        self.options: dict[str, Any] = {"variant": variant, "channels": channels, "w_dim": w_dim, "clamp": clamp}
        self.channels = channels
        self.w_dim = w_dim
        self.dtype = dtype
        (width0, width1), (up0, up1) = self.shape.widths, self.shape.ups
        side = self.shape.size * up0
        self.block0 = SynthesisBlock(
            channels, width0, w_dim=w_dim, resolution=side, image_channels=_RGB, up=up0, clamp=clamp
        )
        self.block1 = SynthesisBlock(
            width0, width1, w_dim=w_dim, resolution=side * up1, image_channels=_RGB, up=up1, clamp=clamp
        )

    def forward(
        self,
        features: Float[Tensor, "batch channels height width"],
        w: Float[Tensor, "batch w_dim"],
        *,
        noise: Noise = "none",
    ) -> Float[Tensor, "batch 3 out_height out_width"]:
        """Make the picture.

        Args:
            features: Rendered features, of which the first three are the picture at low resolution.
            w: The latent: the last of a generator's.
            noise: As in :class:`talk3d.models.synthesis.SynthesisBackbone`.

        Returns:
            Pictures ``[B, 3, H', W']``, from -1 to about 1.

        Raises:
            ValueError: If a shape does not fit.
        """
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ValueError(f"features must be [batch, {self.channels}, height, width], got {list(features.shape)}")
        if w.shape != (len(features), self.w_dim):
            raise ValueError(f"w must have the shape [{len(features)}, {self.w_dim}], got {list(w.shape)}")
        features = _resize(features, self.shape)
        ws = w[:, None].expand(-1, 3, -1)
        with annotate("sr.b0"):
            x, image = self.block0(features.to(self.dtype or features.dtype), features[:, :_RGB], ws, noise=noise)
        with annotate("sr.b1"):
            _, image = self.block1(x, image, ws, noise=noise)
        return image

    @torch.no_grad()
    def fold(self, w: Float[Tensor, " w_dim"]) -> FoldedSuperResolution:
        """Fold modulation, demodulation, gains and bias for one latent into the weights of plain convolutions.

        It has no noise. Its parameters are constants, in the type of this network's; gradients flow to the features.

        Raises:
            ValueError: If the shape of ``w`` is not ``[w_dim]``.
        """
        if w.shape != (self.w_dim,):
            raise ValueError(f"w must have the shape [{self.w_dim}], got {list(w.shape)}")
        return FoldedSuperResolution(self.shape, _FoldedBlock(self.block0, w), _FoldedBlock(self.block1, w))


class _FoldedBlock(nn.Module):
    """A synthesis block for one latent, without noise."""

    conv0_weight: Tensor
    conv0_bias: Tensor
    to_rgb_weight: Tensor
    to_rgb_bias: Tensor
    filter: Tensor | None

    def __init__(self, block: SynthesisBlock, w: Tensor) -> None:
        super().__init__()
        self.activation = Activation(gain=1.0, clamp=block.conv0.clamp)
        self.register_buffer("filter", block.filter, persistent=False)
        weight, bias = block.conv0.fold(w)
        weight = weight if block.filter is None else weight.transpose(0, 1)  # as a transposed convolution takes it
        self.register_buffer("conv0_weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("conv0_bias", bias.detach())
        weight, bias = block.to_rgb.fold(w)
        self.register_buffer("to_rgb_weight", weight.flatten(1))
        self.register_buffer("to_rgb_bias", bias.detach())
        weight, bias = block.conv1.fold(w)
        self.conv1: nn.Module = FoldedConv(weight.contiguous(memory_format=torch.channels_last), bias, self.activation)

    def forward(self, x: Tensor, image: Tensor, *, last: bool) -> tuple[Tensor | None, Tensor]:
        if self.filter is None:
            with annotate(".conv"):
                x = conv3x3_bias_act(x, self.conv0_weight, self.conv0_bias, self.activation)
        else:
            with annotate(".up"):
                spread = conv_transpose2d(x, self.conv0_weight, stride=2)
            with annotate(".fir"):
                # the rim of the filter would darken a bias put in before
                smoothing = Resampling(padding=1, gain=4.0)
                x = resample2d_bias_act(spread, self.filter.to(x.dtype), self.conv0_bias, smoothing, self.activation)
        learns = torch.is_grad_enabled() and (x.requires_grad or image.requires_grad)
        if learns:
            with annotate(".conv"):
                x = self.conv1(x)
            with annotate(".rgb"):
                return x, self._contribute(x, image)
        with annotate(".conv"):  # what follows the convolution begins what makes the picture
            left: tuple[Tensor, Tensor | None, Activation | None] = self.conv1.begin(x)  # type: ignore[operator]
        with annotate(".rgb"):
            filter = None if self.filter is None else self.filter.to(x.dtype)
            picture = ToPicture(self.to_rgb_weight, self.to_rgb_bias, filter, self.activation.clamp)
            return act_rgb(*left, picture, image, keep=not last)

    def _contribute(self, x: Tensor, image: Tensor) -> Tensor:
        rgb = conv2d(x, self.to_rgb_weight[:, :, None, None])
        contribution = bias_act(rgb, self.to_rgb_bias, "linear", clamp=self.activation.clamp).to(image.dtype)
        return contribution + (image if self.filter is None else upsample(image, self.filter.to(image.dtype)))


class FoldedConv(nn.Module):
    """A plain convolution, in a place where another may stand."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.detach())
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3_bias_act(x, self.weight, self.bias, self.activation)

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor | None, Activation | None]:
        """Convolve, and leave to :func:`talk3d.ops.rgb.act_rgb` what it does in passing: bias and activation.

        On a CPU the convolution does them in passing, and nothing is left.
        """
        if x.device.type == "cpu":
            return self(x), None, None
        return conv2d(x, self.weight, padding=1), self.bias, self.activation


class FoldedSuperResolution(nn.Module):
    """:class:`SuperResolution` for one latent; made by :meth:`SuperResolution.fold`.

    Its weights are channels-last, the layout that is fast and that rendered features have. ``.to(torch.bfloat16)`` runs
    the convolutions in that type; the picture keeps the type of the features.
    """

    def __init__(self, shape: _Shape, block0: _FoldedBlock, block1: _FoldedBlock) -> None:
        super().__init__()
        self.shape = shape
        self.block0 = block0
        self.block1 = block1

    def forward(
        self, features: Float[Tensor, "batch channels height width"], *, part: bool = False
    ) -> Float[Tensor, "batch 3 out_height out_width"]:
        """Make pictures from rendered features, whose first three channels are the picture at low resolution.

        With ``part`` they are a part of a view that has the size that the network wants, and stay as large as they are.
        """
        features = features if part else _resize(features, self.shape)
        with annotate("sr.b0"):
            x, image = self.block0(features.to(self.block0.conv0_weight.dtype), features[:, :_RGB], last=False)
        with annotate("sr.b1"):
            _, image = self.block1(x, image, last=True)
        return image
