"""A level of the U-Net as it renders: the three planes together, and nothing twice that no frame changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from talk3d.nn.planes import PlaneConv, PlaneGroupNorm, RolloutConv
from talk3d.ops import Resampling, resample2d, rollout_conv
from talk3d.ops.grouped import plane_conv_act, rollout_conv_act
from talk3d.ops.norm import group_norm_act

__all__ = ["FrameLevel"]

_UP = Resampling(2, padding=(2, 1, 2, 1), gain=4)


class FrameLevel(nn.Module):
    """What a level on the way up computes, in fewer launches; for inference.

    The roll-out is linear, so that what the skip connection brings is convolved beforehand, bias and all. Norms that
    are there are done for all planes at once, with the bias before them and the activation behind them; where there is
    none, the activation is part of the convolution. Weights lie as pictures do.

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
    weight0: Tensor
    bias0: Tensor
    weight1: Tensor
    bias1: Tensor

    def __init__(
        self,
        conv0: RolloutConv,
        norm0: nn.Module,
        conv1: PlaneConv,
        norm1: nn.Module,
        fir: Tensor,
        *,
        between: bool,
        slope: float,
    ) -> None:
        super().__init__()
        self.norm0, self.norm1, self.axes = norm0, norm1, conv0.axes
        self.register_buffer("weight0", _last(conv0.weight.detach()))
        self.register_buffer("bias0", conv0.bias.detach())
        self.register_buffer("weight1", _last(conv1.weight.detach()))
        self.register_buffer("bias1", conv1.bias.detach())
        self.register_buffer("fir", fir)
        self.between, self.slope = between, slope
        self.offset: Tensor | None = None

    def expect(self, skip: Tensor, dtype: torch.dtype) -> FrameLevel:
        """Take in what an identity always adds ``[1, 3, C, R, R]``, go over to a type, and return itself."""
        offset = rollout_conv(skip, self.weight0, self.bias0, axes=self.axes)[0]  # [3, O, R, R]
        self.to(dtype)
        self.offset = offset  # no buffer: it stays in float32, as sums are
        return self

    def forward(self, planes: Tensor) -> Tensor:
        """Take planes ``[B, 3, C, R, R]``, without the skip, to ``[B, 3, O, 2R, 2R]``."""
        assert self.offset is not None
        batch = len(planes)
        slope0, slope1 = (1.0 if isinstance(n, PlaneGroupNorm) else self.slope for n in (self.norm0, self.norm1))
        x = rollout_conv_act(planes, self.weight0, self.offset, axes=self.axes, slope=slope0)
        x = x.transpose(0, 1).flatten(0, 1)  # [3 * B, O, R, R]
        if isinstance(self.norm0, PlaneGroupNorm):
            x = self._norm(x, None, self.norm0)
        if self.between:
            x = self._double(x)
        if isinstance(self.norm1, PlaneGroupNorm):
            x = self._norm(plane_conv_act(x, self.weight1, None), self.bias1, self.norm1)
        else:
            x = plane_conv_act(x, self.weight1, self.bias1, slope=slope1)
        if not self.between:
            x = self._double(x)
        return x.unflatten(0, (3, batch)).transpose(0, 1)

    def _norm(self, x: Tensor, bias: Tensor | None, norm: PlaneGroupNorm) -> Tensor:
        return group_norm_act(x, bias, norm.weight, norm.bias, groups=norm.groups, slope=self.slope)

    def _double(self, x: Tensor) -> Tensor:
        return resample2d(x, self.fir, up=_UP.up, padding=_UP.padding, gain=_UP.gain)


def _last(kernels: Tensor) -> Tensor:
    """Kernels ``[3, O, C, 3, 3]`` with their channels last in memory."""
    return kernels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
