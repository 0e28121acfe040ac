"""3 x 3 convolutions of several planes, one after another, with what follows them."""

from __future__ import annotations

import torch
from torch import Tensor

from talk3d.composed import rollout


def plane_conv_act(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Convolve each plane, add, activate; see ``talk3d.ops.grouped.plane_conv_act``."""
    y = x.new_empty(len(x), *x.shape[2:], weight.shape[1]).permute(0, 3, 1, 2)
    biases = [None] * len(weight) if bias is None else bias
    layers = zip(x.chunk(len(weight)), weight, biases, y.chunk(len(weight)), strict=True) if len(x) else ()
    for pictures, kernels, offset, out in layers:
        out.copy_(torch.ops.talk3d.conv3x3_bias_act(pictures, kernels, offset, slope, 1.0, None, "auto"))
    return y


def rollout_conv_act(planes: Tensor, weight: Tensor, offset: Tensor, exchanges: list[int], slope: float) -> Tensor:
    """Convolve, add, activate; see ``talk3d.ops.grouped.rollout_conv_act``."""
    summed = rollout.forward(planes, weight, None, exchanges)
    texels = summed.permute(1, 0, 3, 4, 2)  # [3, B, R, R, O], dense
    texels += offset.permute(0, 2, 3, 1)[:, None]
    if slope == 1:
        return summed
    pictures = texels.flatten(0, 1).permute(0, 3, 1, 2)
    activated: Tensor = torch.ops.talk3d.bias_act(pictures, None, slope, 1.0, None, "auto")
    return activated.permute(0, 2, 3, 1).unflatten(0, (3, -1)).permute(1, 0, 4, 2, 3)
