"""What cannot be photographed, made visible: depth, normals, attention. Pictures are uint8, 0 to 255."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["attention_picture", "depth_picture", "normal_picture", "to_bytes"]

# from black over red and yellow to white, as hot metal: where each of red, green and blue begins to rise and is full
_HEAT = torch.tensor([[0.0, 0.4], [0.3, 0.8], [0.7, 1.0]])


def depth_picture(
    depth: Float[Tensor, "*batch height width"], near: float, far: float
) -> UInt8[Tensor, "*batch height width"]:
    """Make depth visible: white at ``near``, black at ``far`` and beyond."""
    if not near < far:
        raise ValueError(f"near must be less than far, got {near} and {far}")
    return to_bytes((far - depth) / (far - near))


def normal_picture(
    depth: Float[Tensor, "*batch height width"],
    origins: Float[Tensor, "*batch height width 3"],
    directions: Float[Tensor, "*batch height width 3"],
) -> UInt8[Tensor, "*batch height width 3"]:
    """Make the surface's orientation visible: red, green and blue are the world's x, y and z, from -1 to 1.

    Args:
        depth: Distance along each ray, as the renderer gives it.
        origins: Where the rays start.
        directions: Unit vectors. The pixels' rows go down and their columns to the right, as
            :func:`talk3d.cameras.rays` has them.

    Returns:
        Normals that face the camera, from central differences (one-sided at the edges).

    Raises:
        ValueError: If the picture is less than 2 pixels wide or high, or shapes differ.
    """
    if min(depth.shape[-2:]) < 2 or not origins.shape == directions.shape == (*depth.shape, 3):
        raise ValueError(
            f"depth must be [..., H, W] with at least 2 x 2 pixels, origins and directions [..., H, W, 3], "
            f"got {list(depth.shape)}, {list(origins.shape)} and {list(directions.shape)}"
        )
    points = origins + depth[..., None] * directions
    down, right = torch.gradient(points, dim=(-3, -2))
    normals = torch.nn.functional.normalize(torch.cross(down, right, dim=-1), dim=-1)
    return to_bytes((normals + 1) / 2)


def attention_picture(
    maps: Float[Tensor, "token 3 size size"],
    planes: Float[Tensor, "3 channel side side"],
    *,
    side: int = 128,
) -> UInt8[Tensor, "height width 3"]:
    """Draw on the planes where each token is looked at: a row for each token, a column for each plane.

    Args:
        maps: Of one frame and one block, from :meth:`talk3d.models.DeltaUNet.attention_maps`: ``[T, 3, r, r]``.
        planes: The identity's planes ``[3, C, R, R]``. Their spread over the channels is the grey underneath.
        side: Of each plane in the picture.

    Returns:
        ``[T * side, 3 * side, 3]``. Blended over the grey is the attention as heat: 0 is black, an equal share among
        the tokens is red to yellow, and all of it is white.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if maps.ndim != 4 or planes.ndim != 4 or maps.shape[1] != 3 or planes.shape[0] != 3:
        raise ValueError(
            f"maps must be [tokens, 3, size, size] and planes [3, channels, side, side], "
            f"got {list(maps.shape)} and {list(planes.shape)}"
        )
    spread = planes.std(1, keepdim=True)
    grey = torch.nn.functional.interpolate(spread / spread.amax((2, 3), keepdim=True).clamp(min=1e-12), (side, side))
    shares = torch.nn.functional.interpolate(maps, (side, side), mode="bilinear")[:, :, None]
    start, full = _HEAT.to(maps).T[:, :, None, None]
    heat = ((shares.sqrt() - start) / (full - start)).clamp(0, 1)  # [T, 3, 3, side, side]; the root lifts small shares
    blended = 0.25 * grey + 0.75 * heat
    return to_bytes(blended.permute(0, 3, 1, 4, 2).reshape(maps.shape[0] * side, 3 * side, 3)).cpu()


def to_bytes(values: Tensor) -> Tensor:
    """Make 0 to 1 into 0 to 255, rounded; what is beyond is cut off, and what is not a number is 0."""
    return (values.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
