"""A level of the U-Net as it renders: the three planes together wherever that is one operator instead of three."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from talk3d.nn.planes import PlaneConv, PlaneGroupNorm
from talk3d.ops import Activation, Resampling, bias_act, conv3x3_bias_act, resample2d
from talk3d.ops.norm import group_norm_act

__all__ = ["FrameLevel"]

_UP = Resampling(2, padding=(2, 1, 2, 1), gain=4)


class FrameLevel(nn.Module):
    """What a level on the way up computes, in fewer launches; for inference.

    Norms that are there are done for all planes at once, with the bias before them and the activation behind them;
    where there is none, the activation follows the convolution in one pass. Weights lie as pictures do.

    Args:
        conv0: The roll-out convolution.
        norm0: What follows it; anything but a group norm was folded away.
        conv1: The convolution.
        norm1: What follows that.
        fir: The filter of the resampling.
        between: Whether the planes are doubled between the convolutions, not behind them.
        slope: Of the activations' negative side.
    """

    fir: Tensor
    weight: Tensor

    def __init__(
        self,
        conv0: nn.Module,
        norm0: nn.Module,
        conv1: PlaneConv,
        norm1: nn.Module,
        fir: Tensor,
        *,
        between: bool,
        slope: float,
    ) -> None:
        super().__init__()
        self.conv0, self.norm0, self.norm1 = conv0, norm0, norm1
        kernels = conv1.weight.detach()
        self.register_buffer("weight", kernels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3))
        self.register_buffer("bias", conv1.bias.detach())
        self.register_buffer("fir", fir)
        self.between, self.slope = between, slope

    def forward(self, planes: Tensor) -> Tensor:
        """Take planes ``[B, 3, C, R, R]`` to ``[B, 3, O, 2R, 2R]``."""
        batch = len(planes)
        x = self.conv0(planes).transpose(0, 1).flatten(0, 1)  # [3 * B, O, R, R]
        if isinstance(self.norm0, PlaneGroupNorm):
            x = self._norm(x, None, self.norm0)
        else:
            x = bias_act(x, None, "lrelu", alpha=self.slope, gain=1.0)
        if self.between:
            x = self._double(x)
        normed = isinstance(self.norm1, PlaneGroupNorm)
        activation = Activation("linear") if normed else Activation("lrelu", self.slope, 1.0)
        biases: list[Tensor | None] = [None] * 3 if normed else list(self.bias)
        layers = zip(x.split(batch), self.weight, biases, strict=True)
        x = torch.cat([conv3x3_bias_act(*layer, activation) for layer in layers])
        if isinstance(self.norm1, PlaneGroupNorm):
            x = self._norm(x, self.bias, self.norm1)
        if not self.between:
            x = self._double(x)
        return x.unflatten(0, (3, batch)).transpose(0, 1)

    def _norm(self, x: Tensor, bias: Tensor | None, norm: PlaneGroupNorm) -> Tensor:
        return group_norm_act(x, bias, norm.weight, norm.bias, groups=norm.groups, slope=self.slope)

    def _double(self, x: Tensor) -> Tensor:
        return resample2d(x, self.fir.to(x), up=_UP.up, padding=_UP.padding, gain=_UP.gain)
