"""Surfaces: a mesh from a density field, and pictures of depth and of normals.

World units throughout, with y up and the face looking along +z (see :mod:`talk3d.cameras`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

__all__ = ["Mesh", "Query", "depth_picture", "extract_mesh", "normal_picture", "write_mesh"]

Query = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points ``[M, 3]`` -> raw density ``[M]`` (before the softplus of the renderer) and colour ``[M, 3]`` in [0, 1]."""

EMPTY = -1000.0  # raw density where nothing can be
POINTS = 2**17  # asked for at once: some 50 MB of features and activations
FORMATS = (".ply", ".obj", ".glb")


class Mesh(NamedTuple):
    """Triangles, counter-clockwise seen from outside."""

    vertices: Float[Tensor, "vertex 3"]
    faces: Int[Tensor, "face 3"]
    colors: UInt8[Tensor, "vertex 3"]


@torch.no_grad()
def extract_mesh(
    query: Query,
    *,
    box_warp: float,
    resolution: int = 256,
    level: float = 10.0,
    border: float = 30 / 256,
    device: torch.device | str = "cpu",
) -> Mesh:
    """Find the surface where the density crosses a level, by marching cubes.

    The field is sampled on a grid whose first and last points lie on the faces of the box. EG3D's scripts use 512
    points, level 10, and the same border.

    Args:
        query: The field. It is asked for at most ``POINTS`` points at once.
        box_warp: Side of the cube, centred at the origin, that the planes cover.
        resolution: Grid points along each side.
        level: Raw density at the surface.
        border: Part of each side, at both ends, that counts as empty: the outer planes hold the background and the
            edges of the crop. A surface that reaches it is closed there.
        device: Where the points are made.

    Returns:
        The mesh, on the CPU.

    Raises:
        ValueError: If the density reaches the level nowhere, or an argument is out of range.
    """
    from skimage.measure import marching_cubes  # scipy's arrays take a second to import

    margin = round(border * resolution)
    if not box_warp > 0 or border < 0 or resolution - 2 * margin < 2:
        raise ValueError(
            f"box_warp must be positive, border not negative, and two grid points must be left, "
            f"got {box_warp}, {border} and {resolution - 2 * margin}"
        )
    steps = torch.linspace(-box_warp / 2, box_warp / 2, resolution, device=device)[margin : resolution - margin]
    count = len(steps)
    density = torch.full([count + 2] * 3, EMPTY)  # a shell of nothing closes the surface
    inner = torch.empty(count**3)
    for start in range(0, count**3, POINTS):
        index = torch.arange(start, min(start + POINTS, count**3), device=device)
        points = steps[torch.stack([index // count**2, index // count % count, index % count], dim=1)]
        inner[start : start + len(index)] = query(points)[0].cpu()
    density[1:-1, 1:-1, 1:-1] = inner.view(count, count, count)
    if not inner.max() > level:
        raise ValueError(f"there is no surface: the density reaches {inner.max().item():.3g}, below level {level:.3g}")
    # in a right-handed grid of x, y, z, what scikit-image calls ascent is what makes faces look out of the dense side
    found, faces, _, _ = marching_cubes(density.numpy(), level, gradient_direction="ascent")  # type: ignore[no-untyped-call]
    spacing = box_warp / (resolution - 1)
    vertices = (torch.from_numpy(found.copy()) + (margin - 1)) * spacing - box_warp / 2
    colors = torch.cat([query(part.to(device))[1].cpu() for part in vertices.split(POINTS)])
    return Mesh(vertices, torch.from_numpy(faces.copy()).long(), _bytes(colors))


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh with its vertex colours as ``.ply``, ``.obj`` or ``.glb``.

    Raises:
        ValueError: If the ending is another.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path}: a mesh can be written as {', '.join(FORMATS)}, not {path.suffix or 'without ending'}"
        )
    import trimesh

    made = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), vertex_colors=mesh.colors.numpy(), process=False)
    made.export(path)


def depth_picture(
    depth: Float[Tensor, "*batch height width"], near: float, far: float
) -> UInt8[Tensor, "*batch height width"]:
    """Make depth visible: white at ``near``, black at ``far`` and beyond."""
    if not near < far:
        raise ValueError(f"near must be less than far, got {near} and {far}")
    return _bytes((far - depth) / (far - near))


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
    return _bytes((normals + 1) / 2)


def _bytes(values: Tensor) -> Tensor:
    return (values.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
