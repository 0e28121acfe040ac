"""Rays of a camera from a dozen numbers, and what they see: the renderer's way in for frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.registry import Operator
from talk3d.ops.triplane import PackedPlanes
from talk3d.ops.volume import Decoder, Rendered, RenderOptions, _limits, _render
from talk3d.profiling import annotate

__all__ = ["FlatDecoder", "pencil_rays", "render_pencils"]


class FlatDecoder(NamedTuple):
    """A decoder in one piece, as kernels read it.

    Attributes:
        parameters: Its four tensors, one after the other.
        hidden: Width of its hidden layer.
    """

    parameters: Float[Tensor, " number"]
    hidden: int

    @classmethod
    def of(cls, decoder: Decoder) -> FlatDecoder:
        """Put together what :func:`talk3d.ops.render_rays` takes."""
        return cls(torch.cat([part.detach().flatten() for part in decoder]), len(decoder[1]))


def pencil_rays(
    pencils: Float[Tensor, "batch 4 3"], side: int, options: RenderOptions, *, impl: str | None = None
) -> Float[Tensor, "batch ray 8"]:
    """Lay rays through the pixels of square pictures, row by row.

    Args:
        pencils: Of each camera ``[B, 4, 3]`` in float32 or float64: the steps of the direction across and down the
            whole picture, the direction of its upper left corner, and the origin.
        side: Of the picture in pixels.
        options: Says where rays begin and end.
        impl: ``"triton"`` (one launch; float32) or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Origin, unit direction, near and far of each ray ``[B, side * side, 8]``.

    Raises:
        ValueError: On a wrong shape, type or side.

    Note:
        Not differentiable.

    Example:
        >>> pencil = torch.tensor([[[2.0, 0, 0], [0, 2, 0], [-1, -1, 1], [0, 0, -2]]])
        >>> pencil_rays(pencil, 1, RenderOptions(axes="zy")).flatten()
        tensor([ 0.0000,  0.0000, -2.0000,  0.0000,  0.0000,  1.0000,  2.2500,  3.3000])
    """
    if pencils.ndim != 3 or pencils.shape[1:] != (4, 3) or pencils.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"pencils must be [batch, 4, 3] of float32 or float64, got {list(pencils.shape)} {pencils.dtype}"
        )
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    near, far = options.near, options.far
    if near != "auto" and far != "auto":
        fixed: Tensor = _pencil_rays(pencils, side, near, far, options.box_warp, options.coarse, impl=impl)
        return fixed
    rays: Tensor = _pencil_rays(pencils, side, None, None, options.box_warp, options.coarse, impl=impl)
    if options.coupled == "published":  # what one ray gets depends on all
        return torch.cat([rays[..., :6], _limits(rays[..., :3], rays[..., 3:6], options)], dim=2)
    return rays


def render_pencils(
    planes: PackedPlanes, decoder: FlatDecoder, pencils: Float[Tensor, "batch 4 3"], side: int, options: RenderOptions
) -> Rendered:
    """Render square pictures: :func:`talk3d.ops.render_rays` of :func:`pencil_rays`, with nothing prepared twice.

    Args:
        planes: Packed planes.
        decoder: In one piece.
        pencils: See :func:`pencil_rays`.
        side: Of the pictures in pixels.
        options: See :class:`talk3d.ops.RenderOptions`.

    Raises:
        ValueError: On wrong shapes, types or devices.
    """
    with annotate("render.rays"):
        rays = pencil_rays(pencils, side, options)
    with annotate("render"):
        return _render(planes, decoder, rays, (None, None), options, None)


def _fake(pencils, side, near, far, box_warp, coarse):  # type: ignore[no-untyped-def]
    return pencils.new_empty(len(pencils), side * side, 8)


_pencil_rays = Operator(
    "pencil_rays(Tensor pencils, int side, float? near, float? far, float box_warp, int coarse) -> Tensor", fake=_fake
)
_pencil_rays.refuse_derivative("it is for inference; talk3d.cameras.rays is differentiable")
_pencil_rays.implement(
    "triton",
    "talk3d.kernels.pencil:pencil_rays",
    supports=lambda pencils, side, *_: (
        f"it takes float32, not {pencils.dtype}"
        if pencils.dtype != torch.float32
        else f"it counts in 32 bits, and {side} pixels are too many"
        if side > 2**15
        else None
    ),
)
_pencil_rays.implement("reference", "talk3d.reference.pencil:pencil_rays")
