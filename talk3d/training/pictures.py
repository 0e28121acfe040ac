"""Pictures for previews."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from talk3d import cameras as cams
from talk3d.models.scene import View
from talk3d.pictures import depth_picture, normal_picture

__all__ = ["gray", "grid", "pixels", "shape_pictures"]


def pixels(picture: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "height width 3"]:
    """A picture from -1 to 1 as bytes, on the CPU."""
    return ((picture.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()


def grid(rows: Sequence[Sequence[UInt8[Tensor, "height width 3"]]]) -> UInt8[Tensor, "all_height all_width 3"]:
    """Pictures of one size side by side, row after row."""
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)


def gray(values: UInt8[Tensor, "height width"]) -> UInt8[Tensor, "height width 3"]:
    """A picture without colour."""
    return values[..., None].expand(-1, -1, 3).cpu()


def shape_pictures(view: View, camera: Float[Tensor, "1 25"]) -> list[UInt8[Tensor, "height width 3"]]:
    """Depth and normals of a view, white where it is empty."""
    side = view.depth.shape[3]
    pose, intrinsics = cams.unpack(camera)
    origins, directions = (part.view(1, side, side, 3) for part in cams.rays(pose, intrinsics, side))
    depth, empty = view.depth[:, 0], view.weight[0, 0] < 0.5
    middle = float(pose[0, :3, 3].norm())
    normals = normal_picture(depth, origins, directions)[0].masked_fill(empty[..., None], 255)
    # the near half of the head's box
    return [gray(depth_picture(depth[0], middle - 0.45, middle + 0.35).masked_fill(empty, 255)), normals.cpu()]
