"""Rays of pencils, with where they begin and end, in Triton: one launch for what torch takes thirty for."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles


@triton.jit
def _along(pencil_ptr, axis: tl.constexpr, across, down):
    """One coordinate of the origin, and of the direction before it has a length of 1."""
    right, below = tl.load(pencil_ptr + axis), tl.load(pencil_ptr + 3 + axis)
    return tl.load(pencil_ptr + 9 + axis), tl.load(pencil_ptr + 6 + axis) + across * right + down * below


@triton.jit
def _slab(origin, direction, half):
    """Where a ray enters and leaves what lies between two faces; along them, everywhere or nowhere."""
    level = direction == 0.0
    slope = tl.where(level, 1.0, direction)
    one, two = (-half - origin) / slope, (half - origin) / slope
    within = tl.abs(origin) <= half
    enters = tl.where(level, float("-inf"), tl.minimum(one, two))
    leaves = tl.where(level, tl.where(within, float("inf"), float("-inf")), tl.maximum(one, two))
    return enters, leaves


@triton.jit
def _rays_kernel(
    pencils_ptr,  # [B, 4, 3]
    rays_ptr,  # [B, R * R, 8]
    R,
    step,  # of a pixel: 1 / R
    near,
    far,
    half,  # of the box
    nearest,
    share,  # of what lies between near and far in the box
    AUTO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(R * R, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    across, down = ((n % R).to(tl.float32) + 0.5) * step, ((n // R).to(tl.float32) + 0.5) * step
    pencils_ptr += batch * 12
    ox, x = _along(pencils_ptr, 0, across, down)
    oy, y = _along(pencils_ptr, 1, across, down)
    oz, z = _along(pencils_ptr, 2, across, down)
    length = tl.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    begin, end = x * 0.0 + near, x * 0.0 + far
    if AUTO:
        enters_x, leaves_x = _slab(ox, x, half)
        enters_y, leaves_y = _slab(oy, y, half)
        enters_z, leaves_z = _slab(oz, z, half)
        begin = tl.maximum(tl.maximum(tl.maximum(enters_x, enters_y), enters_z), nearest)
        end = tl.minimum(tl.minimum(leaves_x, leaves_y), leaves_z)
        # a ray that misses has all its samples in one place, where it passes the centre
        passing = tl.maximum(-(ox * x + oy * y + oz * z), nearest)
        misses = begin >= end
        begin, end = tl.where(misses, passing, begin), tl.where(misses, passing, end)
        end = begin + (end - begin) * share
    at, exists = rays_ptr + (batch * R * R + n) * 8, n < R * R
    tl.store(at, x * 0.0 + ox, mask=exists)
    tl.store(at + 1, x * 0.0 + oy, mask=exists)
    tl.store(at + 2, x * 0.0 + oz, mask=exists)
    tl.store(at + 3, x, mask=exists)
    tl.store(at + 4, y, mask=exists)
    tl.store(at + 5, z, mask=exists)
    tl.store(at + 6, begin, mask=exists)
    tl.store(at + 7, end, mask=exists)


def pencil_rays(
    pencils: Tensor, side: int, near: float | None, far: float | None, box_warp: float, coarse: int
) -> Tensor:
    rays = pencils.new_empty(len(pencils), side * side, 8)
    if rays.numel():
        auto = near is None or far is None
        _rays_kernel[(len(pencils) * triton.cdiv(side * side, tiles.RAYS),)](
            pencils.contiguous(), rays, side, 1 / side, 0.0 if auto else near, 0.0 if auto else far, box_warp / 2,
            1e-3 * box_warp, 1 - 1 / coarse, auto, tiles.RAYS,
        )  # fmt: skip
    return rays
