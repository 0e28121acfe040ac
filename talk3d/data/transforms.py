"""Similarities, projections and rotations, on arrays of many frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["apply", "inverse", "kabsch", "project", "similarity", "similarity3d"]

Array = NDArray[np.float64]


def apply(matrix: Array, points: Array) -> Array:
    """Move points ``[..., V, D]`` by ``[..., D, D + 1]``."""
    moved: Array = points @ matrix[..., :-1].swapaxes(-1, -2) + matrix[..., None, :, -1]
    return moved


def inverse(matrix: Array) -> Array:
    """Invert affine maps ``[..., D, D + 1]``."""
    linear = np.linalg.inv(matrix[..., :-1])
    return np.concatenate((linear, -linear @ matrix[..., -1:]), -1)


def similarity(source: Array, target: Array) -> Array:
    """Fit rotation, scale and translation in the plane, least squares (Umeyama 1991), as 4 numbers.

    Args:
        source: ``[..., V, 2]``.
        target: ``[..., V, 2]`` or ``[V, 2]``.

    Returns:
        ``[..., 2, 3]``.
    """
    mean, goal = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    a, b = source - mean, target - goal
    norm = (a**2).sum((-1, -2))
    real = (a * b).sum((-1, -2)) / norm  # scale * cos
    turned = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1) / norm  # scale * sin
    linear = np.stack((np.stack((real, -turned), -1), np.stack((turned, real), -1)), -2)
    shift = goal.squeeze(-2) - np.einsum("...ij,...j->...i", linear, mean.squeeze(-2))
    return np.concatenate((linear, shift[..., None]), -1)


def kabsch(source: Array, target: Array) -> Array:
    """Fit a rotation ``[..., 3, 3]`` that turns ``source`` to ``target``, ``[..., V, 3]`` around their means."""
    a, b = (points - points.mean(-2, keepdims=True) for points in (source, target))
    u, _, vt = np.linalg.svd(b.swapaxes(-1, -2) @ a)
    sign = np.ones(u.shape[:-1])
    sign[..., -1] = np.linalg.det(u @ vt)
    rotation: Array = (u * sign[..., None, :]) @ vt
    return rotation


def similarity3d(source: Array, target: Array) -> Array:
    """Fit rotation, scale and translation in space (Umeyama 1991) of ``[..., V, 3]``: ``[..., 3, 4]``."""
    rotation = kabsch(source, target)
    mean, goal = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    turned = (source - mean) @ rotation.swapaxes(-1, -2)
    scale = (turned * (target - goal)).sum((-1, -2)) / (turned**2).sum((-1, -2))
    linear = scale[..., None, None] * rotation
    shift = goal.squeeze(-2) - np.einsum("...ij,...j->...i", linear, mean.squeeze(-2))
    return np.concatenate((linear, shift[..., None]), -1)


def project(points: Array, focal: float) -> Array:
    """Project points ``[..., 3]`` of a camera's frame to the picture ``[..., 2]``, its sides being 1."""
    return focal * points[..., :2] / points[..., 2:] + 0.5
