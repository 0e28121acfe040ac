"""Operators at the sizes talk3d uses, each beside its peer.

The peer is ``talk3d.reference``: careful plain PyTorch of the published maths. It is called directly, without the
operator around it, and differentiated by PyTorch's autograd, so that it pays for nothing of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from case import CHANNELS, Case, Function, Problem, Size, Tensors, backward, forward, forward_backward
from talk3d import cameras, ops
from talk3d.ops.volume import _Settings
from talk3d.reference import convolution, triplane, volume
from talk3d.testing import head_planes

AXES: Literal["zy"] = "zy"  # Talk3D's convention: three planes, no shortcut by symmetry
PAIRS = ops.AXES[AXES]
NEAR, FAR = 2.25, 3.3
HIDDEN, COLORS = 64, 32
CLAMP = 256.0  # of activations
WIDTH = 256  # channels of the super-resolution's first block, whose pictures have twice the side of the rendered ones
TRAINED_WIDTH = 64  # and of the U-Net's first level, whose pictures are planes


def sample_problem(size: Size, seed: int) -> Problem:
    """Sample where the coarse pass of a frame does, with random jitter, in the order of the rays."""
    texels, _ = _head(size, seed)
    origins, directions = _rays(size, seed)
    generator = torch.Generator().manual_seed(seed)
    limits = origins.new_tensor([NEAR, FAR]).expand(1, size.rays**2, 2)
    jitter = torch.rand(1, size.rays**2, size.coarse, generator=generator)
    depths = volume.coarse_depths(torch.cat([origins, directions, limits], dim=2), size.coarse, jitter, False)
    points = (origins[..., None, :] + depths[..., None] * directions[..., None, :]).flatten(1, 2)
    return _problem((texels, points), [(1, size.points, CHANNELS)], seed)


def sample_ours(size: Size, impl: str) -> Function:
    """Bind ``ops.sample_triplane`` to an implementation."""

    def function(texels: Tensor, points: Tensor) -> Tensors:
        return (ops.sample_triplane(_packed(texels), points, box_warp=1.0, impl=impl),)

    return function


def sample_peer(size: Size) -> Function:
    """Three ``grid_sample`` and their mean."""
    return lambda texels, points: (triplane.forward(texels, points, list(PAIRS), 2.0, True),)


def render_problem(size: Size, seed: int) -> Problem:
    """Render a frame of Talk3D's frontal camera, turned by 3 degrees of yaw for each seed."""
    texels, decoder = _head(size, seed)
    rays = size.rays**2
    return _problem((texels, *decoder, *_rays(size, seed)), [(1, rays, COLORS), (1, rays), (1, rays)], seed)


def render_ours(size: Size, impl: str, *, min_weight: float = 0.0) -> Function:
    """Bind ``ops.render_rays`` to an implementation."""
    options = ops.RenderOptions(
        axes=AXES, near=NEAR, far=FAR, coarse=size.coarse, fine=size.fine, min_weight=min_weight
    )

    def function(texels: Tensor, *leaves: Tensor) -> Tensors:
        w0, b0, w1, b1, origins, directions = leaves
        return _weighted(*ops.render_rays(_packed(texels), (w0, b0, w1, b1), origins, directions, options, impl=impl))

    return function


def render_peer(size: Size) -> Function:
    """The published renderer, which keeps every intermediate for autograd."""
    settings = _Settings(
        scale=2.0,
        hidden=HIDDEN,
        coarse=size.coarse,
        fine=size.fine,
        disparity=False,
        white_back=False,
        clamp_depth=True,
        min_weight=0.0,
    )

    def function(texels: Tensor, *leaves: Tensor) -> Tensors:
        *decoder, origins, directions = leaves
        limits = origins.new_tensor([NEAR, FAR]).expand(1, size.rays**2, 2)
        rays = torch.cat([origins, directions, limits], dim=2)
        flat = torch.cat([part.flatten() for part in decoder])
        found = volume.forward(texels, flat, rays, None, None, list(PAIRS), [float(s) for s in settings])
        return _weighted(*found[:3])

    return function


def planes_problem(size: Size, seed: int, *, dtype: torch.dtype = torch.float32) -> Problem:
    """The same with planes of any type, which alone ask for a gradient: in training a driver nothing else moves."""
    (texels, *others), grads = render_problem(size, seed)
    planes = texels.detach().to(dtype).requires_grad_()
    return Problem((planes, *(other.detach() for other in others)), grads)


def convolution_problem(size: Size, seed: int, *, width: int = WIDTH) -> Problem:
    """Activations of the super-resolution's first block, weights that keep their deviation, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    side = 2 * size.rays  # which is that of the planes too
    x = torch.randn(1, side, side, width, generator=generator)
    weight = torch.randn(width, width, 3, 3, generator=generator) / (9 * width) ** 0.5
    return _problem((x, weight, torch.randn(width, generator=generator)), [(1, width, side, side)], seed)


def convolution_ours(size: Size, impl: str) -> Function:
    """Bind ``ops.conv3x3_bias_act`` to an implementation."""

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensors:
        return (ops.conv3x3_bias_act(x.movedim(3, 1), weight, bias, ops.Activation(clamp=CLAMP), impl=impl),)

    return function


def convolution_peer(size: Size) -> Function:
    """A convolution of torch, and its bias, activation, gain and clamp one after another."""
    options = 0.2, 2**0.5, CLAMP

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensors:
        pictures = x.movedim(3, 1)
        layout = torch.contiguous_format if pictures.is_contiguous() else torch.channels_last
        return (convolution.conv3x3_bias_act(pictures, weight.contiguous(memory_format=layout), bias, *options),)

    return function


def sample_flop(size: Size) -> float:
    """Four taps on three planes, and their mean."""
    return size.points * CHANNELS * (3 * 4 * 2 + 3)


def render_flop(size: Size) -> float:
    """Sampling and the decoder's two layers for each sample; what else there is does not matter."""
    return size.samples * (CHANNELS * (3 * 4 * 2 + 3) + 2 * (CHANNELS * HIDDEN + HIDDEN * (1 + COLORS)))


def convolution_flop(size: Size, *, width: int = WIDTH) -> float:
    """The nine products of every pair of channels; we need 2.25."""
    return 2 * 9 * width**2 * (2 * size.rays) ** 2


def _points_bytes(size: Size) -> float:
    return 4 * size.points * 3


def _features_bytes(size: Size) -> float:
    return 4 * size.points * CHANNELS


def _frame_bytes(size: Size) -> float:
    return 4 * size.rays**2 * (6 + COLORS + 2)  # origin, direction; features, depth, weight


def _head(size: Size, seed: int) -> tuple[Tensor, Tensors]:
    planes, decoder = head_planes(size=size.planes, seed=seed)
    return ops.pack_planes(planes, AXES).texels, decoder


def _weighted(features: Tensor, depth: Tensor, weight: Tensor) -> Tensors:
    # where a ray meets almost nothing, depth is a quotient of roundings, and neither side has a digit of it right
    return features, depth * weight, weight


def _packed(texels: Tensor) -> ops.PackedPlanes:
    return ops.PackedPlanes(texels, AXES, PAIRS)


def _rays(size: Size, seed: int) -> Tensors:
    pose = cameras.look_at(3.0 * seed, 0.0, pivot=cameras.TALK3D_PIVOT)
    found = cameras.rays(pose, cameras.intrinsics(cameras.TALK3D_FOCAL), size.rays)
    return tuple(part[None].contiguous() for part in found)  # [1, R, 3] each


def _problem(leaves: Tensors, outputs: Sequence[tuple[int, ...]], seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    grads = tuple(torch.randn(shape, generator=generator) for shape in outputs)
    return Problem(tuple(leaf.requires_grad_() for leaf in leaves), grads)


_HALF = partial(planes_problem, dtype=torch.float16)
_sample = partial(Case, problem=sample_problem, ours=sample_ours, peer=sample_peer)
_render = partial(Case, problem=render_problem, peer=render_peer)
CASES = {
    "sample_triplane_forward": _sample(
        timed=forward,
        flop=sample_flop,
        traffic=lambda size: size.planes_bytes + _points_bytes(size) + _features_bytes(size),
        tolerance=1e-5,
        rounds=30,
    ),
    "sample_triplane_backward": _sample(
        timed=backward,
        flop=lambda size: 2 * sample_flop(size),
        traffic=lambda size: 2 * size.planes_bytes + 2 * _points_bytes(size) + _features_bytes(size),
        tolerance=1e-5,
        rounds=30,
    ),
    "render_rays_forward": _render(
        ours=render_ours,
        timed=forward,
        flop=render_flop,
        traffic=lambda size: size.planes_bytes + _frame_bytes(size),
        tolerance=1e-5,
        rounds=21,
    ),
    "render_rays_forward_min_weight_1e-4": _render(
        ours=partial(render_ours, min_weight=1e-4),
        timed=forward,
        flop=render_flop,
        traffic=lambda size: size.planes_bytes + _frame_bytes(size),
        tolerance=1e-2,
        rounds=15,
        lossy=True,
    ),
    "render_rays_forward_backward": _render(
        ours=render_ours,
        timed=forward_backward,
        flop=lambda size: 3 * render_flop(size),
        traffic=lambda size: 3 * size.planes_bytes + 2 * _frame_bytes(size),
        tolerance=1e-2,  # a ray's gradient jumps where a sample rounds to the other side of a texel's edge
        rounds=15,
    ),
    "conv3x3_bias_act_forward": Case(
        problem=convolution_problem,
        ours=convolution_ours,
        peer=convolution_peer,
        timed=forward,
        flop=convolution_flop,
        traffic=lambda size: 4 * (9 * WIDTH**2 + 2 * WIDTH * (2 * size.rays) ** 2),
        tolerance=1e-5,
        rounds=9,
    ),
    "conv3x3_bias_act_backward": Case(
        problem=partial(convolution_problem, width=TRAINED_WIDTH),
        ours=convolution_ours,
        peer=convolution_peer,
        timed=backward,
        flop=lambda size: 2 * convolution_flop(size, width=TRAINED_WIDTH),
        traffic=lambda size: 4 * (2 * 9 * TRAINED_WIDTH**2 + 4 * TRAINED_WIDTH * (2 * size.rays) ** 2),
        tolerance=1e-2,  # the slope jumps where a sum rounds to the other side of zero
        rounds=15,
    ),
    **{
        f"render_rays_{name}": Case(
            problem=problem,
            ours=render_ours,
            peer=render_peer,
            timed=timed,
            flop=lambda size, times=times: times * render_flop(size),
            traffic=lambda size, times=times: times * size.planes_bytes + _frame_bytes(size),
            tolerance=tolerance,
            rounds=30,
            gpu=True,
        )
        for name, problem, timed, times, tolerance in (
            ("forward_float16", _HALF, forward, 1, 1e-2),
            ("backward_planes", planes_problem, backward, 2, 1e-2),
            ("forward_backward_planes", planes_problem, forward_backward, 3, 1e-2),
            ("backward_planes_float16", _HALF, backward, 2, 3e-2),
        )
    },
}
