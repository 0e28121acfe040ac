"""An avatar as files for other programs: a mesh, and pictures of its shape. What ``talk3d export`` does."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from talk3d import cameras
from talk3d.avatar import Avatar
from talk3d.beside import replacing, require_place
from talk3d.geometry import FORMATS, Mesh, extract_mesh, write_mesh
from talk3d.pictures import depth_picture, normal_picture, to_bytes

__all__ = ["avatar_mesh", "export_mesh", "export_views", "view_sheet"]

YAWS = (-30.0, 0.0, 30.0)  # degrees, as published protocols look at novel views


@torch.no_grad()
def avatar_mesh(avatar: Avatar, *, resolution: int = 256, level: float = 10.0, border: float = 30 / 256) -> Mesh:
    """Extract the surface of the person at rest, with the colours that the renderer has there.

    Args:
        avatar: The avatar.
        resolution: Grid points along each side of the volume.
        level: Raw density at the surface.
        border: Part of each side that counts as empty; see :func:`talk3d.geometry.extract_mesh`.

    Raises:
        ValueError: If the density reaches the level nowhere.
    """
    identity = avatar.identity

    def query(points: Tensor) -> tuple[Tensor, Tensor]:
        density, colors = identity.query(identity.planes, points[None])
        return density[0], colors[0, :, :3]

    box_warp, device = identity.config.rendering.box_warp, identity.planes.device
    return extract_mesh(query, box_warp=box_warp, resolution=resolution, level=level, border=border, device=device)


def export_mesh(avatar: Avatar, path: Path, *, resolution: int = 256, level: float = 10.0) -> Mesh:
    """Write :func:`avatar_mesh` as ``.ply``, ``.obj`` or ``.glb``, in world units (see :mod:`talk3d.cameras`).

    Raises:
        ValueError: If it cannot be written there, or the density reaches the level nowhere.
    """
    require_place(path, FORMATS)
    mesh = avatar_mesh(avatar, resolution=resolution, level=level)
    write_mesh(mesh, path)
    return mesh


@torch.no_grad()
def view_sheet(avatar: Avatar, yaws: tuple[float, ...] = YAWS, pitch: float = 0.0) -> UInt8[Tensor, "height width 3"]:
    """Draw the person at rest: a row for each yaw, with picture, depth and normals.

    Args:
        avatar: The avatar.
        yaws: Where the camera stands, degrees.
        pitch: How far up, degrees.

    Raises:
        ValueError: If there is no yaw, or an angle is not finite.
    """
    if not yaws or not all(map(math.isfinite, (*yaws, pitch))):
        raise ValueError(f"yaws must be one angle or more in degrees, and pitch one, got {list(yaws)} and {pitch}")
    identity, config = avatar.identity, avatar.identity.config
    vectors = torch.stack([config.camera(yaw, pitch) for yaw in yaws]).to(identity.planes)
    made = identity(vectors)
    side = made.image.shape[2]
    pictures = to_bytes((made.image + 1) / 2).permute(0, 2, 3, 1)

    depth, resolution = made.view.depth[:, 0], made.view.depth.shape[2]
    near, far = config.radius - config.rendering.box_warp / 2, config.radius + config.rendering.box_warp / 2
    origins, directions = (
        part.unflatten(1, (resolution, resolution)) for part in cameras.rays(*cameras.unpack(vectors), resolution)
    )
    depths = depth_picture(depth, near, far)[..., None].expand(-1, -1, -1, 3)
    normals = normal_picture(depth, origins, directions)
    enlarged = [
        torch.nn.functional.interpolate(part.permute(0, 3, 1, 2).float(), (side, side)).byte().permute(0, 2, 3, 1)
        for part in (depths, normals)
    ]
    rows = torch.cat([pictures, *enlarged], dim=2)
    return rows.flatten(0, 1).cpu()


def export_views(avatar: Avatar, path: Path, yaws: tuple[float, ...] = YAWS, pitch: float = 0.0) -> None:
    """Write :func:`view_sheet` as a PNG file.

    Raises:
        ValueError: If it cannot be written there, there is no yaw, or an angle is not finite.
    """
    require_place(path, (".png",))
    with replacing(path) as unfinished:
        Image.fromarray(view_sheet(avatar, yaws, pitch).numpy()).save(unfinished, format="png")
