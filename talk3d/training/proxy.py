"""The head proxy: a closed head around a personal face mesh, as a signed distance.

Frames of a frontal clip say little about depth: a fit of colours alone is a smeared wall that looks right from the
front. The proxy says where a head can be. The mesh is its face; skull, hair, ears, neck and shoulders are ellipsoids,
in proportion to the mesh at first, then fitted to the mattes of frames from all over the clip; and what lies outside
the mattes is cut off (the visual hull of Laurentini 1994, by a share of the frames, for torso and tracker move).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, grid_sample, interpolate, normalize

from talk3d import cameras as cams
from talk3d.data.facemesh import CHIN, EYE_CORNERS, OVAL

__all__ = ["HeadProxy", "Mattes", "fit_parts", "fit_proxy", "surface"]

_SIDES = (234, 454)  # of the mesh, in front of the ears
_SURFACE = 468  # vertices of the face; the rest are irises

# ellipsoids in centimetres of a head of average width and height, in MediaPipe's canonical frame: centre, radii, and
# how far each may be from that (standard deviations). An adult's head is some 15 wide and 19 long; hair adds to that.
# What the mattes cannot see, depth above all, is held tighter than what they can
_PARTS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...], bool]] = {
    "skull": ((0, 4.2, -3.1), (7.3, 8.3, 8.8), (0.0, 0.4, 0.2), (0.3, 0.4, 0.3), False),
    "hair": ((0, 5.0, -3.6), (7.7, 8.6, 9.2), (0.4, 1.2, 0.3), (1.2, 2.0, 0.6), False),
    "nape": ((2.0, 0.5, -7.2), (4.6, 5.0, 4.3), (0.8, 2.5, 0.5), (2.0, 4.0, 0.5), True),
    "jaw": ((0, -2.6, -0.8), (5.8, 6.2, 5.0), (0.0, 0.3, 0.3), (0.3, 0.3, 0.3), False),
    "ear": ((7.4, 0.6, -2.4), (0.7, 3.0, 1.8), (0.4, 0.4, 0.2), (0.3, 0.4, 0.2), True),
    "neck": ((0, -10.0, -4.4), (4.8, 9.0, 4.7), (0.4, 0.0, 0.4), (0.8, 0.0, 0.4), False),
    "trapezius": ((0, -18.0, -5.2), (9.0, 6.5, 4.6), (0.4, 1.5, 0.4), (2.0, 2.0, 0.5), False),
    "shoulders": ((0, -24.0, -4.8), (21.0, 9.0, 7.0), (1.0, 3.0, 0.5), (3.0, 2.0, 0.5), False),
}
_HALF_WIDTH, _CHIN_DROP = 7.55, 12.0  # of that head's mesh: at its sides, and from the eyes' corners to the chin

_FILLET = 0.015  # parts flow into each other where they are closer than this, world units
_MASK = 0.08  # how far the face reaches behind its surface; the jaw and the skull go on from there
_PRIOR = 0.02  # weight of squares against the cross entropy
_STEPS, _STEP = 60, 0.25  # of the fit to the mattes: Adam's steps, and their length in standard deviations
_SOFT = 0.012  # world units in which a silhouette goes from the person to the background
_HULL = 0.8  # share of the frames whose mattes must hold a point
_REACH = 0.15  # distances are not larger than this, in units of the world
_TRACED = 40  # steps of a ray
_VIEW = 32  # side of the mattes in the fit


class Mattes(NamedTuple):
    """What a proxy is fitted to: K frames.

    Attributes:
        cameras: Camera vectors ``[K, 25]``.
        matte: How much of each pixel is the person ``[K, 1, S, S]``.
        face: How much is face ``[K, 1, S, S]``, which the mesh shapes.
    """

    cameras: Float[Tensor, "frame 25"]
    matte: Float[Tensor, "frame 1 size size"]
    face: Float[Tensor, "frame 1 size size"]


class HeadProxy:
    """Signed distance to a closed head, negative inside, in units of the world.

    Args:
        grid: Distances ``[D, D, D]``, by z, y and x, at points of which the first and the last lie on the faces of the
            box.
        box_warp: Side of that box, which is centred at the origin.
    """

    def __init__(self, grid: Float[Tensor, "z y x"], box_warp: float) -> None:
        self.grid, self.box_warp = grid, box_warp

    def __call__(self, points: Float[Tensor, "*point 3"]) -> Float[Tensor, "*point"]:
        """Distance of points ``[..., 3]``, interpolated; differentiable. Beyond the box, that of its face."""
        where = (points / (self.box_warp / 2)).reshape(1, 1, 1, -1, 3)
        found = grid_sample(self.grid[None, None], where, padding_mode="border", align_corners=True)
        return found.reshape(points.shape[:-1])

    def to(self, device: torch.device | str) -> HeadProxy:
        """Move it."""
        return HeadProxy(self.grid.to(device), self.box_warp)


def fit_proxy(
    mesh: Float[Tensor, "478 3"], mattes: Mattes, *, box_warp: float = 1.0, resolution: int = 97
) -> HeadProxy:
    """Close a face mesh to a head that the mattes agree with.

    Args:
        mesh: Personal mesh in the world, MediaPipe's vertices.
        mattes: Frames from all over a clip; a dozen will do.
        box_warp: Side of the box in which distances are known.
        resolution: Points of the grid along a side, odd.

    Raises:
        ValueError: If the shapes do not fit, or the mattes see no person where the face is.
    """
    if mesh.shape[-1] != 3 or len(mesh) < _SURFACE:
        raise ValueError(f"mesh must be [478, 3], got {list(mesh.shape)}")
    if not len(mattes.cameras) == len(mattes.matte) == len(mattes.face) > 0:
        raise ValueError(f"mattes must hold as many cameras, mattes and faces, got {[list(p.shape) for p in mattes]}")
    parts = fit_parts(mesh, mattes)
    line = torch.linspace(-box_warp / 2, box_warp / 2, resolution)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], -1)  # [z, y, x, 3]
    # slab by slab: all at once would take half a gigabyte
    solid = torch.stack([_union(_ellipsoids(slab, *parts)) for slab in points])
    face, air = _face(mesh, line)
    solid = torch.maximum(_smooth_min(solid, face), air)
    coarse = _hull(points[::2, ::2, ::2], mattes)[None, None]  # it is smooth
    solid = torch.maximum(solid, interpolate(coarse, (resolution,) * 3, mode="trilinear", align_corners=True)[0, 0])
    if not (solid < 0).any():
        raise ValueError("the mesh is not in the box")
    proxy = HeadProxy(_distance(solid, box_warp), box_warp)
    behind = mesh[:_SURFACE] - mesh.new_tensor([0.0, 0.0, _MASK / 2])
    if (proxy(behind) < 0).float().mean() < 0.5:
        raise ValueError("the mattes leave little of the face: they do not fit the mesh, or the cameras")
    return proxy


def fit_parts(mesh: Float[Tensor, "478 3"], mattes: Mattes) -> tuple[Tensor, Tensor]:
    """Fit the ellipsoids around a mesh to mattes: centres and radii ``[P, 3]``."""
    return _fit_parts(*_parts(mesh), mattes)


def surface(parts: tuple[Tensor, Tensor], camera: Float[Tensor, "1 25"], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where a camera sees ellipsoids, by sphere tracing.

    Args:
        parts: Centres and radii.
        camera: Camera vector.
        side: Pixels along a side.

    Returns:
        Points and normals ``[P, 3]``, and of which pixels, row by row, they are.
    """
    origins, directions = (part[0] for part in cams.rays(*cams.unpack(camera), side))
    depth = origins[:, :1].new_full((len(origins), 1), float(origins[0].norm()) - 0.6)
    for _ in range(_TRACED):
        depth = depth + 0.9 * _union(_ellipsoids(origins + depth * directions, *parts))[:, None]
    points = (origins + depth * directions).requires_grad_()
    with torch.enable_grad():
        distance = _union(_ellipsoids(points, *parts))
        (slope,) = torch.autograd.grad(distance.sum(), points)
    hit = (distance.abs() < 2e-3).nonzero()[:, 0]
    return points.detach()[hit], normalize(slope[hit], dim=1), hit


def _parts(mesh: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres and radii ``[P, 3]`` in proportion to a mesh, and by how much each may change."""
    middle = mesh[list(EYE_CORNERS)].mean(0)
    wide = (mesh[_SIDES[1]] - mesh[_SIDES[0]]).norm() / (2 * _HALF_WIDTH)
    high = (middle - mesh[CHIN])[1] / _CHIN_DROP
    scale = torch.stack((wide, high, wide))
    rows = [
        ((side * center[0], *center[1:]), *rest)
        for center, *rest, paired in _PARTS.values()
        for side in ((1, -1) if paired else (1,))
    ]
    center, radii, center_spread, radii_spread = (torch.tensor(part) for part in zip(*rows, strict=True))
    origin = middle - scale * torch.tensor([0.0, 2.664, 3.173])  # of the canonical frame: see talk3d.data.facemesh
    return origin + scale * center, scale * radii, scale * center_spread, scale * radii_spread


def _fit_parts(
    center: Tensor, radii: Tensor, center_spread: Tensor, radii_spread: Tensor, mattes: Mattes
) -> tuple[Tensor, Tensor]:
    """Fit ellipsoids to mattes: maximum a posteriori, with the silhouettes' cross entropy and a normal prior."""
    origins, directions = cams.rays(*cams.unpack(mattes.cameras), _VIEW)
    matte, face = (interpolate(part, (_VIEW, _VIEW), mode="area").flatten(1) for part in mattes[1:])
    # the mesh's own silhouette is as good as the tracker; ellipsoids need not know it
    trust = 1 - face
    shift = torch.zeros(2, *center.shape, requires_grad=True)
    spread = torch.stack((center_spread, radii_spread))
    adam = torch.optim.Adam([shift], lr=_STEP)
    for step in range(_STEPS):
        adam.param_groups[0]["lr"] = _STEP * 0.5 * (1 + math.cos(math.pi * step / _STEPS))
        moved = torch.stack((center, radii)) + shift * spread
        margin = _union(_silhouettes(origins, directions, moved[0], moved[1]))
        error = binary_cross_entropy_with_logits(-margin / _SOFT, matte, weight=trust)
        prior = shift.square().mean()
        adam.zero_grad()
        (error + _PRIOR * prior).backward()
        adam.step()
    moved = (torch.stack((center, radii)) + shift * spread).detach()
    # no matte shows how far hair stands off the forehead: as far as at the sides
    hair = list(_PARTS).index("hair")
    moved[1, hair, 2] += (moved[1] - radii)[hair, 0]
    return moved[0], moved[1]


def _ellipsoids(points: Tensor, center: Tensor, radii: Tensor) -> Tensor:
    """Distances of points ``[..., 3]`` to ellipsoids ``[P, 3]``, right to first order near them: ``[..., P]``.

    Squares of scaled lengths are matrix products, which is ten times as fast as the differences.
    """
    length, slope = (_quadratic(points, center, radii**-k).clamp(min=1e-12).sqrt() for k in (2, 4))
    return length * (length - 1) / slope


def _quadratic(points: Tensor, center: Tensor, weight: Tensor) -> Tensor:
    """Weighted square of ``points - center``, ``[..., P]``."""
    return points.square() @ weight.T - 2 * points @ (center * weight).T + (center.square() * weight).sum(-1)


def _silhouettes(origins: Tensor, directions: Tensor, center: Tensor, radii: Tensor) -> Tensor:
    """By how much rays ``[K, R, 3]`` miss ellipsoids ``[P, 3]``, negative where they hit: ``[K, R, P]``.

    In coordinates in which the ellipsoid is a ball, the point of the ray nearest to it is known in closed form.
    """
    lengths = []
    origin = origins[:, :1]  # of all rays of a frame
    inverse = [radii**-k for k in (2, 4)]
    products = [
        (
            _quadratic(origin, center, weight),
            directions @ (origin * weight - center * weight).mT,
            directions.square() @ weight.T,
        )
        for weight in inverse
    ]
    _, across, square = products[0]
    along = across / square  # the nearest point is that much before the origin
    for start, mixed, length in products:
        lengths.append((start - 2 * along * mixed + along.square() * length).clamp(min=1e-12).sqrt())
    return lengths[0] * (lengths[0] - 1) / lengths[1]


def _union(distances: Tensor) -> Tensor:
    """Smooth minimum over the last axis."""
    k = _FILLET / 3
    return -k * torch.logsumexp(-distances / k, -1)


def _smooth_min(a: Tensor, b: Tensor) -> Tensor:
    return _union(torch.stack((a, b), -1))


def _face(mesh: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to what lies just behind the face; and how deep a point is in the air before it, negative elsewhere.

    Both ``[D, D, D]``, by z, y, x.
    """
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator  # scipy takes a second to import
    from scipy.ndimage import gaussian_filter

    surface = mesh[:_SURFACE].double().numpy()
    x, y = np.meshgrid(line.numpy(), line.numpy())  # [y, x]
    inside = LinearNDInterpolator(surface[:, :2], surface[:, 2])(x, y)  # by Delaunay's triangles
    depth = np.where(np.isnan(inside), NearestNDInterpolator(surface[:, :2], surface[:, 2])(x, y), inside)
    outline = torch.from_numpy(_polygon(surface[list(OVAL), :2], np.stack((x, y), -1))).float()
    # where the face turns away, at its sides, triangles of the front view are splinters
    front = torch.from_numpy(gaussian_filter(depth, 1.0)).float()
    gap = line[:, None, None] - front
    down, across = torch.gradient(front, spacing=float(line[1] - line[0]))
    slope = (1 + down.square() + across.square()).rsqrt()
    height = gap * slope
    return torch.maximum(torch.maximum(height, -_MASK - gap), outline), torch.minimum(height, -outline)


def _polygon(corners: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance of points ``[..., 2]`` to a polygon ``[V, 2]``, negative inside."""
    start, end = corners, np.roll(corners, -1, 0)
    edge = end - start
    offset = points[..., None, :] - start
    along = ((offset * edge).sum(-1) / (edge**2).sum(-1)).clip(0, 1)
    nearest = np.sqrt(((offset - along[..., None] * edge) ** 2).sum(-1)).min(-1)
    # a ray to the right crosses the outline an odd number of times from inside
    px, py = points[..., None, 0], points[..., None, 1]
    between = (start[:, 1] > py) != (end[:, 1] > py)
    cross = start[:, 0] + (py - start[:, 1]) * edge[:, 0] / np.where(edge[:, 1] == 0, np.inf, edge[:, 1])
    inside = (between & (px < cross)).sum(-1) % 2 == 1
    return np.where(inside, -nearest, nearest)


def _hull(points: Tensor, mattes: Mattes) -> Tensor:
    """Distance to the visual hull at points ``[..., 3]``, cut by a share of the mattes."""
    from scipy.ndimage import distance_transform_edt

    poses, intrinsics = cams.unpack(mattes.cameras)
    flat = points.reshape(-1, 3)
    margins = torch.empty(len(poses), len(flat))
    for k, (pose, matrix) in enumerate(zip(poses, intrinsics, strict=True)):
        person = (mattes.matte[k, 0] > 0.5).numpy()
        pixels = distance_transform_edt(~person) - distance_transform_edt(person)
        x, y, z = ((flat - pose[:3, 3]) @ pose[:3, :3]).unbind(1)
        u, v = matrix[0, 0] * x / z + matrix[0, 2], matrix[1, 1] * y / z + matrix[1, 2]
        where = torch.stack((2 * u - 1, 2 * v - 1), -1)
        picture = torch.from_numpy(pixels).float()[None, None]
        margin = grid_sample(picture, where[None, None], padding_mode="border", align_corners=False)[0, 0, 0]
        margins[k] = torch.where((where.abs() <= 1).all(1), margin * z / (matrix[0, 0] * len(person)), -1.0)
    rank = max(math.ceil(_HULL * len(poses)), 1)
    return margins.kthvalue(rank, dim=0).values.reshape(points.shape[:-1])


def _distance(solid: Tensor, box_warp: float) -> Tensor:
    """Make a field of a grid, of which only the zeros are right, a signed distance."""
    from scipy.spatial import cKDTree
    from skimage.measure import marching_cubes

    spacing = box_warp / (len(solid) - 1)
    field = solid.numpy()
    vertices, faces, _, _ = marching_cubes(field, 0.0)  # type: ignore[no-untyped-call]
    tree = cKDTree(np.concatenate((vertices, vertices[faces].mean(1))))
    points = np.stack(np.meshgrid(*[np.arange(len(field))] * 3, indexing="ij"), -1).reshape(-1, 3)
    found = tree.query(points, distance_upper_bound=_REACH / spacing, workers=-1)[0].reshape(field.shape)
    far = (spacing * found).clip(max=_REACH)  # infinite where there is nothing within reach
    # near the surface its own vertices are too coarse: there the field over its slope is right to first order
    slope = np.sqrt(sum(g**2 for g in np.gradient(field, spacing))).clip(0.3)
    near = field / slope
    share = np.clip(2 - far / spacing, 0, 1)
    signed = np.where(field < 0, -far, far)
    return torch.from_numpy((share * near + (1 - share) * signed).astype(np.float32))
