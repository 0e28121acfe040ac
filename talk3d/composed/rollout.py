"""The roll-out convolution, factorised: a profile is convolved where it varies, and its response broadcast.

A 3 x 3 convolution with zero padding over a map that is constant along one axis has the same value at every position
along that axis but the first and the last. So has a map of three positions: the profile, repeated three times, goes
through the very kernels that the whole map would.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv2d

_ENDS = 3  # the first position, all between, and the last


def forward(planes: Tensor, weight: Tensor, bias: Tensor | None, exchanges: list[int]) -> Tensor:
    """Convolve ``planes`` [B, 3, C, R, R]; see ``talk3d.ops.rollout_conv``."""
    texels = _texels(planes)
    profiles = _sums(texels, 1 / planes.shape[3])
    out = texels.new_empty(*texels.shape[:4], weight.shape[1])
    for receiver, routes in enumerate(_routes(exchanges)):
        kernels = weight[receiver].chunk(3, dim=1)
        offset = None if bias is None else bias[receiver]
        partial = _convolve(_picture(texels[receiver]), kernels[receiver], offset)
        target = _picture(out[receiver])
        for sender, kept, laid in routes:
            response = conv2d(_thin(profiles[kept][sender], laid), kernels[sender], padding=1)
            axis = 3 - laid  # along which the response is constant
            for there, here in _positions(target.shape[2]):
                parts = partial.narrow(axis, *there), response.narrow(axis, *here)
                torch.add(*parts, out=target.narrow(axis, *there))
            partial = target
    return _planes(out)


def backward(
    d_out: Tensor, planes: Tensor, weight: Tensor, exchanges: list[int], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`forward` to planes, weight and bias; an empty tensor stands for one that is not needed."""
    size = planes.shape[3]
    texels, d_texels = _texels(planes), _texels(d_out)
    profiles, d_sums = _sums(texels, 1 / size), _sums(d_texels, 1)
    d_profiles = torch.zeros_like(profiles[0]), torch.zeros_like(profiles[1])
    d_planes = torch.empty_like(texels) if needs[0] else planes.new_empty(0)
    d_weight = weight.new_empty(weight.shape if needs[1] else 0)

    def conv_backward(d_target: Tensor, source: Tensor, receiver: int, sender: int) -> Tensor | None:
        kernels = weight[receiver].chunk(3, dim=1)[sender]
        if needs[1]:
            found = torch.ops.talk3d.conv3x3_weight_backward(d_target, source, "auto")
            d_weight[receiver].chunk(3, dim=1)[sender].copy_(found)
        return _convolve(d_target, kernels.transpose(0, 1).flip((2, 3)), None) if needs[0] else None

    for receiver, routes in enumerate(_routes(exchanges)):
        d_target = _picture(d_texels[receiver])
        d_own = conv_backward(d_target, _picture(texels[receiver]), receiver, receiver)
        if d_own is not None:
            _picture(d_planes[receiver]).copy_(d_own)
        for sender, kept, laid in routes:
            axis = 3 - laid
            total = (
                d_sums[laid][receiver].transpose(1, 2).unsqueeze(axis)
            )  # over the axis: [B, O, R, 1] or [B, O, 1, R]
            d_response = _ends(d_target, total, axis)
            d_thin = conv_backward(d_response, _thin(profiles[kept][sender], laid), receiver, sender)
            if d_thin is not None:
                d_profiles[kept][sender] += d_thin.sum(axis).transpose(1, 2)
    if needs[0]:
        d_planes += (d_profiles[0] / size)[:, :, :, None]
        d_planes += (d_profiles[1] / size)[:, :, None]
    d_bias = d_sums[0].sum((1, 2)) if needs[2] else weight.new_empty(0)
    return _planes(d_planes) if needs[0] else d_planes, d_weight, d_bias


def _convolve(picture: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve by the fastest way there is, which on a CPU is not torch's."""
    convolved: Tensor = torch.ops.talk3d.conv3x3_bias_act(picture, kernels, bias, 1.0, 1.0, None, "auto")
    return convolved


def _sums(texels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """What varies along the height, and along the width, times a factor: ``[3, B, R, C]`` each."""
    _, _, height, width, channels = shape = texels.shape
    # one outer, one summed and one inner dimension: torch's reductions of more are many times slower on a CPU
    over_width = texels.view(-1, width, channels).sum(1).view(*shape[:3], channels)
    over_height = texels.view(-1, height, width * channels).sum(1).view(*shape[:2], width, channels)
    return over_width * factor, over_height * factor


def _thin(profile: Tensor, laid: int) -> Tensor:
    """Lay a profile ``[B, R, C]`` along the height or the width of a map that is no wider than it must be."""
    ends = min(profile.shape[1], _ENDS)
    texels = profile.unsqueeze(2 - laid)
    return _picture(texels.repeat_interleave(ends, dim=2 - laid))


def _ends(d_target: Tensor, total: Tensor, axis: int) -> Tensor:
    """Gradient of a thin response from that of the map ``[B, O, R, R]`` and its sum along the axis."""
    size = d_target.shape[axis]
    if size < _ENDS:
        return d_target
    first, last = d_target.narrow(axis, 0, 1), d_target.narrow(axis, size - 1, 1)
    return torch.cat([first, total - first - last, last], dim=axis)


def _positions(size: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the positions of a thin map belong along an axis of ``size``: (start, length) there, and here."""
    if size < _ENDS:
        yield (0, size), (0, size)
    else:
        yield (0, 1), (0, 1)
        yield (1, size - 2), (1, 1)
        yield (size - 1, 1), (2, 1)


def _routes(exchanges: list[int]) -> Iterator[list[tuple[int, int, int]]]:
    """For each receiver: the two senders, and which axis of theirs is laid along which of its own."""
    for receiver, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        a, b, c, d = exchanges[4 * receiver : 4 * receiver + 4]
        yield [(first, a, b), (second, c, d)]


def _texels(planes: Tensor) -> Tensor:
    """Planes ``[B, 3, C, R, R]`` in the order of memory that is fast: ``[3, B, R, R, C]``."""
    return planes.permute(1, 0, 3, 4, 2).contiguous()


def _planes(texels: Tensor) -> Tensor:
    return texels.permute(1, 0, 4, 2, 3)


def _picture(texels: Tensor) -> Tensor:
    """One plane ``[B, R, R, C]`` as a convolution wants it."""
    return texels.permute(0, 3, 1, 2)
