"""3 x 3 convolutions of several planes with what follows them, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu

from talk3d.reference import rollout


def plane_conv_act(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Convolve each plane, add, activate; see ``talk3d.ops.grouped.plane_conv_act``."""
    biases = [None] * len(weight) if bias is None else bias
    layers = zip(x.chunk(len(weight)), weight, biases, strict=True) if len(x) else ()
    y = x.new_empty(len(x), *x.shape[2:], weight.shape[1]).permute(0, 3, 1, 2)
    for layer, out in zip(layers, y.chunk(len(weight)), strict=False):  # of no pictures there is one chunk
        out.copy_(leaky_relu(conv2d(*layer, padding=1), slope))
    return y


def rollout_conv_act(planes: Tensor, weight: Tensor, offset: Tensor, exchanges: list[int], slope: float) -> Tensor:
    """Convolve, add, activate; see ``talk3d.ops.grouped.rollout_conv_act``."""
    summed = rollout.forward(planes, weight, None, exchanges)
    return summed.copy_(leaky_relu((summed + offset).to(planes.dtype), slope))
