"""Surfaces: a mesh from a density field.

World units throughout, with y up and the face looking along +z (see :mod:`talk3d.cameras`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from talk3d.beside import replacing, require_place
from talk3d.pictures import to_bytes

__all__ = ["FORMATS", "Mesh", "Query", "extract_mesh", "write_mesh"]

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
    return Mesh(vertices, torch.from_numpy(faces.copy()).long(), to_bytes(colors))


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh with its vertex colours as ``.ply``, ``.obj`` or ``.glb``.

    Raises:
        ValueError: If the ending is another, or the file cannot be written there.
    """
    require_place(path, FORMATS)
    import trimesh

    made = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), vertex_colors=mesh.colors.numpy(), process=False)
    with replacing(path) as unfinished:  # whose ending tells trimesh the format
        made.export(unfinished)
