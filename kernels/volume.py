"""Volume rendering in Triton: which kernels run, in which order. See docs/kernels/volume_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.march import _draw_kernel, _march_backward_kernel, _march_kernel
from talk3d.kernels.volume_backward import _field_backward_kernel, _tint_kernel
from talk3d.kernels.volume_forward import _color_kernel, _density_kernel

OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def forward(
    planes: Tensor,
    decoder: Tensor,
    rays: Tensor,
    jitter: Tensor | None,
    u: Tensor | None,
    pairs: list[int],
    settings: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if not pairs:  # planes with a border, in the order of CUDA's kernels
        planes, pairs = planes[:, :, 1:-1, 1:-1].contiguous(), [0, 1, 0, 2, 2, 1][: 2 * planes.shape[1]]
    _, _, coarse, fine, disparity, white_back, clamp_depth, min_weight = settings
    B, R, _ = rays.shape
    coarse, fine = int(coarse), int(fine)
    N = coarse + fine
    features, depth, weight = rays.new_empty(B, R, 32), rays.new_empty(B, R), rays.new_empty(B, R)
    transmittance = rays.new_empty(B, R, N - 1)
    # t holds the coarse depths, then the fine ones; raw and share are in its order
    t, raw, share, depths = (rays.new_empty(B, R, N, dtype=torch.float32) for _ in range(4))
    if B * R:
        grid, field = _field(planes, rays, pairs, settings)
        _density_kernel[grid](
            planes, decoder, rays, rays if jitter is None else jitter, t, raw, FIRST=0, COUNT=coarse, DRAW=True,
            JITTER=jitter is not None, DISPARITY=bool(disparity), **field,
        )  # fmt: skip
        place = rays.new_empty(B, R, max(fine, 1), dtype=torch.int32)
        if fine:
            tile = tiles.draw(coarse, fine)
            _draw_kernel[(triton.cdiv(B * R, tile["BLOCK_R"]),)](
                t, raw, rays if u is None else u, place, B * R, coarse, fine, u is not None, **tile
            )
            _density_kernel[grid](
                planes, decoder, rays, rays, t, raw, FIRST=coarse, COUNT=fine, DRAW=False, JITTER=False,
                DISPARITY=False, **field,
            )  # fmt: skip
        tile = tiles.march(fine, N)
        _march_kernel[(triton.cdiv(B * R, tile["BLOCK_R"]),)](
            t, raw, place, share, depths, transmittance, depth, weight, B * R, min_weight, coarse, fine,
            bool(clamp_depth), **tile,
        )  # fmt: skip
        _color_kernel[grid](planes, decoder, rays, t, share, weight, features, WHITE=bool(white_back), **field)
    return features, depth, weight, depths.to(rays.dtype), transmittance


def backward(
    grads: list[Tensor], saved: list[Tensor], pairs: list[int], settings: list[float], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    planes, decoder, rays, depths, _ = saved
    B, R, N = depths.shape
    # sums of many small numbers, whatever the type of the result
    found = [
        torch.zeros_like(tensor, dtype=torch.float32) if need else tensor.new_empty(0)
        for tensor, need in zip((planes, decoder, rays), needs[:3], strict=True)
    ]
    if B * R and any(needs[:3]):
        grid, field = _field(planes, rays, pairs, settings)
        raw, tint, share, d_raw = (rays.new_empty(B, R, N, dtype=torch.float32) for _ in range(4))
        _tint_kernel[grid](planes, decoder, rays, depths, grads[0], raw, tint, **field)
        tile = tiles.march_backward(N)
        _march_backward_kernel[(triton.cdiv(B * R, tile["BLOCK_R"]),)](
            depths, raw, tint, *grads, share, d_raw, B * R, settings[-1], N, bool(settings[5]), **tile
        )
        needed = {"NEEDS_PLANES": needs[0], "NEEDS_DECODER": needs[1], "NEEDS_RAYS": needs[2]}
        _field_backward_kernel[grid](
            planes, decoder, rays, depths, grads[0], share, d_raw, *found, **needed,
            D_PRECISION=tiles.gradient_precision(planes.dtype), **field,
        )  # fmt: skip
    d_planes, d_decoder, d_rays = (
        gradient.to(tensor.dtype) for gradient, tensor in zip(found, (planes, decoder, rays), strict=True)
    )
    return d_planes, d_decoder, d_rays


def _field(
    planes: Tensor, rays: Tensor, pairs: list[int], settings: list[float]
) -> tuple[tuple[int], dict[str, object]]:
    """The grid and the arguments that all kernels have that evaluate samples."""
    (B, R, _), (S, _, H, W, _) = rays.shape, planes.shape
    tile = tiles.render_rays()
    return (B * triton.cdiv(R, tile["BLOCK_R"]),), {
        "R": R, "H": H, "W": W, "scale": settings[0], "N": int(settings[2] + settings[3]), "PAIRS": tuple(pairs),
        "SHARED": S == 1, "SQUARE": H == W, "OPERAND": OPERANDS[planes.dtype],
        "PRECISION": tiles.precision(planes.dtype), "PTX": tiles.ptx(), **tile,
    }  # fmt: skip
