"""Losses: pure functions to one number each.

Each is a mean, over pixels, over the pixels of a region, over points, or over frames: its size depends neither on the
batch, nor on the size of the pictures, nor on how large a mouth is. Pictures are from -1 to 1 unless it says otherwise.
What they keep for the backward is in docs/training.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy, grid_sample, smooth_l1_loss

from talk3d import cameras as cams
from talk3d.training.lean import absolute, again
from talk3d.training.precision import full_precision

__all__ = [
    "articulation",
    "delta_size",
    "edges",
    "l1",
    "landmarks",
    "matte",
    "ms_ssim",
    "photometric",
    "project",
    "psnr",
    "region_l1",
    "region_mean",
    "temporal",
    "warp",
]

# weights of the scales, the finest first (Wang, Simoncelli and Bovik 2003, section 3.2)
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_CONTRAST, _LUMINANCE = 0.03**2, 0.01**2


def l1(found: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]) -> Tensor:
    """Mean absolute difference."""
    return absolute(found - target).mean()


def region_l1(
    found: Float[Tensor, "batch channel height width"],
    target: Float[Tensor, "batch channel height width"],
    region: Float[Tensor, "batch 1 height width"],
) -> Tensor:
    """Mean absolute difference within a region.

    The mean over a frame's region, then over the frames that have one: a frame with a small mouth counts as much as one
    with a large mouth, and one without does not count. 0 if none has.

    Args:
        found: ``[B, C, H, W]``.
        target: Likewise.
        region: How much of each pixel belongs to it, 0 to 1, ``[B, 1, H, W]``.
    """
    return region_mean(absolute(found - target), region)


def region_mean(
    error: Float[Tensor, "batch channel height width"], region: Float[Tensor, "batch 1 height width"]
) -> Tensor:
    """Mean of an error within a region, as in :func:`region_l1`."""
    area = region.sum((1, 2, 3))
    there = area > 0
    frames = (region * error).sum((1, 2, 3)) / (area * error.shape[1]).clamp(min=1e-6)
    return (frames * there).sum() / there.sum().clamp(min=1)


@full_precision
def ms_ssim(
    found: Float[Tensor, "batch channel height width"], target: Float[Tensor, "batch channel height width"]
) -> Tensor:
    """1 less the multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), with as many scales as fit.

    A scale fits where the window of 11 pixels does; the exponents of those that fit are scaled to add up to 1.

    Raises:
        ValueError: If the pictures are smaller than the window.
    """
    side = min(found.shape[2:])
    fitting = [weight for level, weight in enumerate(_SCALES) if side >> level >= _WINDOW]
    if not fitting:
        raise ValueError(f"pictures must have at least {_WINDOW} pixels along a side, got {list(found.shape)}")
    found, target = (found + 1) / 2, (target + 1) / 2
    similarity = torch.ones(len(found), device=found.device)
    for level, weight in enumerate(fitting):
        luminance, contrast = _ssim(found, target)
        last = level == len(fitting) - 1
        # where structures oppose each other a power has no value
        term = (luminance * contrast if last else contrast).mean((1, 2, 3)).clamp(min=1e-3)
        similarity = similarity * term ** (weight / sum(fitting))
        found, target = (found, target) if last else (avg_pool2d(found, 2), avg_pool2d(target, 2))
    return 1 - similarity.mean()


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of luminance and of contrast with structure, of pictures from 0 to 1."""
    moments = torch.stack((x, y, x * x, y * y, x * y))
    down, across = (_smoothing(side, x) for side in x.shape[2:])
    mx, my, xx, yy, xy = down @ moments @ across.mT
    luminance = (2 * mx * my + _LUMINANCE) / (mx.square() + my.square() + _LUMINANCE)
    contrast = (2 * (xy - mx * my) + _CONTRAST) / (xx - mx.square() + yy - my.square() + _CONTRAST)
    return luminance, contrast


def _smoothing(side: int, like: Tensor) -> Tensor:
    """The window at all places where it fits along an axis, as a matrix; a convolution of one channel is far slower."""
    offset = torch.arange(_WINDOW, dtype=like.dtype, device=like.device) - _WINDOW // 2
    window = (-offset.square() / (2 * _SIGMA**2)).exp()
    matrix = like.new_zeros(side - _WINDOW + 1, side)
    for place in range(_WINDOW):
        matrix.diagonal(place).copy_(window[place] / window.sum())
    return matrix


def edges(
    found: Float[Tensor, "batch channel height width"], target: Float[Tensor, "batch channel height width"]
) -> Tensor:
    """Mean absolute difference of the differences between neighbouring pixels, across and down: blur costs."""
    error = found - target
    return absolute(error.diff(dim=2)).mean() + absolute(error.diff(dim=3)).mean()


@full_precision
def matte(weight: Float[Tensor, "batch 1 height width"], target: Float[Tensor, "batch 1 height width"]) -> Tensor:
    """Mean binary cross entropy, in nats, between the opacity of a view and the matte, both 0 to 1."""
    # an opacity of exactly 0 or 1 has no finite slope; on a GPU torch refuses this function under autocast
    return binary_cross_entropy(weight.clamp(1e-4, 1 - 1e-4), target)


@full_precision
def project(
    points: Float[Tensor, "batch point 3"], cameras: Float[Tensor, "batch 25"]
) -> Float[Tensor, "batch point 2"]:
    """Where points of the world are in the picture, in units of its sides from the upper left corner."""
    poses, intrinsics = cams.unpack(cameras)
    seen = (points - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    pixels = seen @ intrinsics.mT
    return pixels[..., :2] / pixels[..., 2:]


def landmarks(
    points: Float[Tensor, "batch point 3"], cameras: Float[Tensor, "batch 25"], tracked: Float[Tensor, "batch point 2"]
) -> Tensor:
    """Distance of projected points from tracked landmarks: mean of the Huber loss that turns linear at 1 %.

    Args:
        points: Points of the world, such as the personal mesh, ``[B or 1, K, 3]``.
        cameras: ``[B, 25]``.
        tracked: In units of the picture's sides ``[B, K, 2]``.

    Returns:
        In hundredths of a side: 1 is a mean distance of some 1.5 of them.
    """
    return 100 * smooth_l1_loss(project(points, cameras), tracked, beta=0.01)


def warp(
    picture: Float[Tensor, "batch channel height width"],
    depth: Float[Tensor, "batch 1 rows columns"],
    rays: tuple[Float[Tensor, "batch ray 3"], Float[Tensor, "batch ray 3"]],
    neighbour: Float[Tensor, "batch 25"],
) -> tuple[Float[Tensor, "batch channel rows columns"], Float[Tensor, "batch 1 rows columns"]]:
    """Fetch a neighbouring frame's picture into a frame, through that frame's depth.

    Args:
        picture: Of the neighbour.
        depth: Distance along each ray of the frame.
        rays: Their origins and directions, row by row.
        neighbour: Its camera ``[B, 25]``.

    Returns:
        What each ray shows of the picture, and 1 where it was within it ``[B, 1, R, C]``. Gradients flow to picture,
        depth, rays and camera.
    """
    shape = depth.shape[2:]
    origins, directions = rays
    grid = (project(origins + directions * depth.flatten(2).mT, neighbour) * 2 - 1).unflatten(1, shape)
    inside = (grid.abs() < 1).all(-1)[:, None]
    fetched = grid_sample(picture, grid, padding_mode="border", align_corners=False)
    return fetched, inside.to(picture.dtype)


def photometric(
    target: Float[Tensor, "batch 3 rows columns"],
    fetched: Float[Tensor, "batch 3 rows columns"],
    inside: Float[Tensor, "batch 1 rows columns"],
    region: Float[Tensor, "batch 1 rows columns"],
) -> Tensor:
    """Photometric reprojection: a neighbouring frame, fetched through the rendered depth, looks like this one.

    Args:
        target: The frame as it was filmed.
        fetched: The neighbouring one as :func:`warp` fetched it.
        inside: Where it could be.
        region: Where the person is rigid enough, such as the face without mouth and eyes.

    Returns:
        Mean absolute difference as in :func:`region_l1`.
    """
    return region_l1(fetched, target, region * inside)


def temporal(
    found: Float[Tensor, "window frame ..."], target: Float[Tensor, "window frame ..."] | None = None
) -> Tensor:
    """Mean absolute difference between the change from frame to frame and that of the target.

    Args:
        found: Windows of consecutive frames ``[N, T, ...]``.
        target: Likewise; None means no change.
    """
    change = found.diff(dim=1)
    return absolute(change if target is None else change - target.diff(dim=1)).mean()


def articulation(found: Float[Tensor, "batch value"], lips: Float[Tensor, "batch value"]) -> Tensor:
    """Mean squared error of lips that were read off speech, both in standard deviations of the clip's."""
    return (found - lips).square().mean()


def delta_size(
    delta: Float[Tensor, "batch 3 channel height width"], planes: Float[Tensor, "one 3 channel height width"]
) -> Tensor:
    """Mean square of delta planes, in variances of the identity's."""
    return again(_mean_square, delta) / planes.detach().var().clamp(min=1e-8)


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean()


def psnr(found: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Peak signal to noise ratio in a region of one frame; not a number if it has none."""
    error = ((found.clamp(-1, 1) - target) / 2).square() * region
    return -10 * torch.log10(error.sum() / (3 * region.sum()))
