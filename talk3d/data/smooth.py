"""Smoothing in time without a phase: local quadratic regression, Savitzky and Golay's filter for uneven times."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["reach", "smooth"]


def reach(width: float) -> int:
    """How many frames to each side :func:`smooth` looks."""
    return int(np.ceil(3 * width))


def smooth(
    values: ArrayLike, times: NDArray[np.float64], width: float, weights: ArrayLike = 1.0
) -> NDArray[np.float64]:
    r"""Fit a parabola around each frame, with weights :math:`\exp(-t^2 / 2 w^2)`, and take its value there.

    The weights are even in time and so is their fit: motion at constant speed or acceleration comes out as it went in,
    with no lag, and white noise with 0.69 / sqrt(w) of its standard deviation (the picture's own time is used, not the
    grid's: a clip of 30 frames a second shows each up to 17 ms beside it). At the ends the fit is one-sided.

    Args:
        values: ``[N, ...]``.
        times: Of each frame, in frames ``[N]``, not decreasing.
        width: w, in frames; 0 returns the values.
        weights: Trust in each frame ``[N]``; 0 leaves it out, and it gets what its neighbours suggest.

    Returns:
        ``[N, ...]``.
    """
    given = np.asarray(values, np.float64)
    if width <= 0 or len(given) < 3:
        return given
    count, half = len(given), reach(width)
    neighbours = np.arange(count)[:, None] + np.arange(-half, half + 1)
    inside = (neighbours >= 0) & (neighbours < count)
    neighbours = neighbours.clip(0, count - 1)
    offset = times[neighbours] - times[:, None]
    trust = np.exp(-0.5 * (offset / width) ** 2) * inside * np.broadcast_to(weights, count)[neighbours]
    basis = offset[..., None] ** np.arange(3)  # [N, K, 3]
    gram = np.einsum("nk,nki,nkj->nij", trust, basis, basis)
    # where fewer than three times are known, the parabola becomes a line or a constant
    gram += np.diag([1e-12, 1e-8, 1e-8]) * np.maximum(trust.sum(1), 1e-9)[:, None, None]
    share = np.linalg.inv(gram)[:, 0]  # of the basis in the value at offset 0
    kernel = np.einsum("ni,nki,nk->nk", share, basis, trust)
    flat = given.reshape(count, -1)
    out = np.zeros_like(flat)
    for k in range(2 * half + 1):  # [N, K, values] would not fit
        out += kernel[:, k, None] * flat[neighbours[:, k]]
    return out.reshape(given.shape)
