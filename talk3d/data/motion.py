"""How the head moves from picture to picture, by optical flow, and how that steadies what the tracker says.

The tracker looks at each picture anew. Its landmarks are right on average, but lean with every word and blink: where
the head of the synthetic clip is perfectly still, its poses wander by a degree and its crops by a pixel, too slowly for
any smoothing. Optical flow sees that nothing moves, but adds up its errors over time. :func:`fuse` weighs both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["carry", "fuse"]

Array = NDArray[np.float64]
# Lucas and Kanade's search: half of its window over the face's width, so that a blink stays with the points around the
# eye; pixels that half must have; halvings of the picture
_WINDOW, _LEAST, _LEVELS = 0.05, 4, 3
_RETURN = 0.5  # pixels by which a point may miss itself on the way there and back
_ENOUGH = 0.5  # share of points that must come back
# a point that goes its own way, such as an eye's corner in a blink: pixels off the others' way, and times what is usual
# (where the head turns, the nose does not move as the cheeks do)
_ALONE, _USUAL = 0.1, 5.0


def carry(before: NDArray[np.uint8], now: NDArray[np.uint8], points: Array) -> Array:
    """Follow points from one picture to the next (Lucas and Kanade, with pyramids).

    Args:
        before: The picture they are in, grey ``[H, W]``.
        now: The next one.
        points: ``[R, 2]`` in pixels, the first one's centre at 0.5.

    Returns:
        Where they are now ``[R, 2]``; those that got lost, or go their own way, move with the others. NaN if most got
        lost.
    """
    import cv2

    start = (points - 0.5).astype(np.float32)[:, None]
    side = 2 * max(round(_WINDOW * float(np.ptp(points[:, 0]))), _LEAST) + 1
    search = {"winSize": (side, side), "maxLevel": _LEVELS}
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, **search)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **search)
    good = (found[:, 0] > 0) & (returned[:, 0] > 0) & (np.linalg.norm((back - start)[:, 0], axis=1) < _RETURN)
    nowhere = np.full_like(points, np.nan)
    if good.mean() < _ENOUGH:
        return nowhere
    affine, _ = cv2.estimateAffine2D(start[good], there[good])
    if affine is None:
        return nowhere
    moved: Array = there[:, 0].astype(np.float64)
    together = (points - 0.5) @ affine[:, :2].T + affine[:, 2]
    alone = np.linalg.norm(moved - together, axis=1)
    stray = ~good | (alone > _ALONE + _USUAL * np.median(alone[good]))
    moved[stray] = together[stray]
    return moved + 0.5


def fuse(absolute: Array, steps: Array, trust: Array, ratio: Array) -> Array:
    r"""Find the values that agree best with what each frame says and with the steps between them.

    .. math:: \min_x \sum_i t_i\, |x_i - a_i|^2 + \sum_i r_i^2\, |x_{i+1} - x_i - s_i|^2

    Two-sided, as a Kalman smoother is: there is no lag.

    Args:
        absolute: a, what each frame says ``[N, D]``.
        steps: s, from each frame to the next ``[N - 1, D]``; NaN where it is not known.
        trust: t, 0 to 1 ``[N]``.
        ratio: r, error of a over error of s ``[N - 1]``: over about so many frames, steps decide.

    Returns:
        x ``[N, D]``.
    """
    from scipy.linalg import solveh_banded

    known = np.isfinite(steps).all(1)
    pull = np.where(known, ratio, 1e-2)[:, None] ** 2  # unknown steps hold frames together that say nothing
    step = np.where(known[:, None], steps, 0)
    bands = np.zeros((2, len(absolute)))
    bands[1] = trust
    bands[1, 1:] += pull[:, 0]
    bands[1, :-1] += pull[:, 0]
    bands[0, 1:] = -pull[:, 0]
    right = trust[:, None] * absolute
    right[1:] += pull * step
    right[:-1] -= pull * step
    found: Array = solveh_banded(bands, right)
    return found
