"""The roll-out convolution in plain PyTorch, as published: lay the profiles out, concatenate, convolve."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def forward(planes: Tensor, weight: Tensor, bias: Tensor | None, exchanges: list[int]) -> Tensor:
    """Convolve ``planes`` [B, 3, C, R, R]; see ``talk3d.ops.rollout_conv``."""
    biases = [None] * 3 if bias is None else bias.unbind()
    rolled = roll_out(planes, exchanges).unbind(1)
    return _channels_last([conv2d(*layer, padding=1) for layer in zip(rolled, weight, biases, strict=True)])


def roll_out(planes: Tensor, exchanges: list[int]) -> Tensor:
    """Give each plane two more groups of channels, the profiles of the others: ``[B, 3, 3C, R, R]``."""
    profiles = planes.mean(4), planes.mean(3)  # what varies along the height, and along the width: [B, 3, C, R]
    groups = []
    for receiver, sender, kept, laid in _routes(exchanges):
        if sender == receiver:
            groups.append(planes[:, sender])
        else:
            groups.append(profiles[kept][:, sender].unsqueeze(3 - laid).expand_as(planes[:, sender]))
    return torch.cat(groups, dim=1).unflatten(1, (3, -1))


def backward(
    d_out: Tensor, planes: Tensor, weight: Tensor, exchanges: list[int], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` to planes, weight and bias; an empty tensor stands for one that is not needed."""
    rolled = roll_out(planes, exchanges)
    options = [weight.shape[1]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needs  # stride, padding, dilation: 1
    layers = zip(d_out.unbind(1), rolled.unbind(1), weight, strict=True)
    grads = [torch.ops.aten.convolution_backward(*layer, *options) for layer in layers]
    d_rolled, d_weight, d_bias = (list(found) for found in zip(*grads, strict=True))
    return (
        _roll_in(d_rolled, exchanges) if needs[0] else planes.new_empty(0),
        torch.stack(d_weight) if needs[1] else planes.new_empty(0),
        torch.stack(d_bias) if needs[2] else planes.new_empty(0),
    )


def _roll_in(d_rolled: list[Tensor], exchanges: list[int]) -> Tensor:
    """The derivative of :func:`roll_out`, for a gradient ``[B, 3C, R, R]`` of each receiver."""
    d_planes: list[Tensor | float] = [0.0] * 3
    for receiver, sender, kept, laid in _routes(exchanges):
        d_group = d_rolled[receiver].chunk(3, dim=1)[sender]
        if sender != receiver:
            d_profile = d_group.sum(3 - laid) / d_group.shape[3]  # [B, C, R]
            d_group = d_profile.unsqueeze(3 - kept).expand_as(d_group)
        d_planes[sender] = d_planes[sender] + d_group
    return _channels_last(d_planes)  # type: ignore[arg-type]  # each is a tensor by now


def _routes(exchanges: list[int]) -> list[tuple[int, int, int, int]]:
    """Receiver, sender, and which axis of the sender is laid along which of the receiver."""
    pairs = iter(zip(exchanges[::2], exchanges[1::2], strict=True))
    planes = range(3)
    return [(to, of, *((0, 0) if to == of else next(pairs))) for to in planes for of in planes]


def _channels_last(planes: list[Tensor]) -> Tensor:
    """Join three planes ``[B, C, R, R]``; memory is ``[3, B, R, R, C]``."""
    return torch.stack([plane.permute(0, 2, 3, 1) for plane in planes]).permute(1, 0, 4, 2, 3)
