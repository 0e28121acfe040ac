"""Where a camera stands and how it is turned: the part of :mod:`talk3d.cameras` that knows no picture.

The convention is described there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cross, vector_norm
from torch.nn.functional import normalize

from talk3d.arguments import Scalar, broadcast, require, require_matrix, require_positive

__all__ = ["FFHQ_PIVOT", "RADIUS", "Vector", "angles", "look_at", "look_at_eg3d", "make_pose", "slerp"]

RADIUS = 2.7  # EG3D, ffhq512-128: distance of every training camera from the world origin
FFHQ_PIVOT = (0.0, 0.0, 0.2)  # EG3D, ffhq512-128: where its sampled cameras look

Vector = tuple[float, float, float] | Float[Tensor, "*#batch 3"]


def look_at(
    yaw: Scalar, pitch: Scalar, roll: Scalar = 0.0, *, radius: Scalar = RADIUS, pivot: Vector = FFHQ_PIVOT
) -> Float[Tensor, "*batch 4 4"]:
    r"""Place a camera that sees the pivot from a given direction; :func:`angles` is the inverse.

    The line of sight has exactly the given yaw and pitch, and the camera lies, as EG3D's do, on a sphere around the
    world *origin*. With pivot :math:`q` and radius :math:`r` its position is

    .. math:: o = q + t\,d, \quad d = (\cos p \sin y, \sin p, \cos p \cos y), \quad
        t = \sqrt{(q \cdot d)^2 + r^2 - |q|^2} - q \cdot d

    EG3D measures angles of :math:`o` itself: with the pivot 0.2 in front of the origin, its 30 degrees of yaw are 32.3.

    Args:
        yaw: Towards +x, degrees ``[...]``.
        pitch: Upwards, degrees ``[...]``. At ±90, too, yaw says where the picture's right is.
        roll: Clockwise as seen from behind the camera, degrees ``[...]``.
        radius: Distance from the world origin ``[...]``, positive.
        pivot: Point in the centre of the picture ``[..., 3]``, nearer to the origin than ``radius``.

    Returns:
        ``cam2world``, of the batch to which the arguments broadcast.

    Raises:
        ValueError: A value is not finite, the radius not positive, the pivot too far away, or shapes do not broadcast.
    """
    require_positive(radius=radius)
    yaw, pitch, roll, distance, *target = broadcast(
        yaw=yaw, pitch=pitch, roll=roll, radius=radius, **_components(pivot)
    )
    y, p, r = (torch.deg2rad(angle)[..., None] for angle in (yaw, pitch, roll))
    center = torch.stack(target, -1)
    inside = distance.square() - center.square().sum(-1)
    require(inside > 0, "pivot must be nearer to the world origin than radius")
    out = torch.cat((p.cos() * y.sin(), p.sin(), p.cos() * y.cos()), -1)  # from the pivot to the camera
    right = torch.cat((y.cos(), torch.zeros_like(y), -y.sin()), -1)
    down = torch.cat((p.sin() * y.sin(), -p.cos(), p.sin() * y.cos()), -1)
    along = (center * out).sum(-1)
    position = center + (torch.sqrt(along.square() + inside) - along)[..., None] * out
    axes = r.cos() * right + r.sin() * down, r.cos() * down - r.sin() * right, -out
    return make_pose(torch.stack(axes, -1), position)


def look_at_eg3d(
    h: Scalar, v: Scalar, *, radius: Scalar = RADIUS, pivot: Vector = FFHQ_PIVOT
) -> Float[Tensor, "*batch 4 4"]:
    r"""Place a camera by EG3D's formula, which published protocols and Talk3D's files use.

    .. math:: o = r\,(-\sin\phi \cos h, \cos\phi, \sin\phi \sin h), \quad \phi = \arccos(1 - 2 v / \pi)

    The warp shrinks pitch: 20 degrees in ``v`` move the camera by 12.8 around the origin. Talk3D's files hold offsets:
    ``h = pi/2 + yaw`` and ``v = pi/2 + pitch``.

    Args:
        h: Azimuth in *radians* ``[...]``; :math:`\pi/2` is frontal, and more moves the camera towards +x.
        v: Warped inclination in *radians* ``[...]``; :math:`\pi/2` is frontal, and more moves the camera *down*. It is
            clamped to ``[1e-5, pi - 1e-5]``.
        radius: Distance from the world origin ``[...]``, positive.
        pivot: Point in the centre of the picture ``[..., 3]``.

    Returns:
        ``cam2world``, of the batch to which the arguments broadcast.

    Raises:
        ValueError: A value is not finite, the radius not positive, or shapes do not broadcast.
    """
    require_positive(radius=radius)
    h, v, distance, *target = broadcast(h=h, v=v, radius=radius, **_components(pivot))
    cos_phi = 1 - 2 * v.clamp(1e-5, math.pi - 1e-5) / math.pi
    sin_phi = torch.sin(torch.acos(cos_phi))
    position = distance[..., None] * torch.stack((-sin_phi * h.cos(), cos_phi, sin_phi * h.sin()), -1)
    forward = normalize(torch.stack(target, -1) - position, dim=-1)
    x, _, z = forward.unbind(-1)
    right = normalize(torch.stack((-z, torch.zeros_like(x), x), -1), dim=-1)
    return make_pose(torch.stack((right, cross(forward, right), forward), -1), position)


def angles(cam2world: Float[Tensor, "*batch 4 4"]) -> tuple[Tensor, Tensor, Tensor]:
    """Measure the direction of a camera: the inverse of :func:`look_at`, wherever the camera is.

    Args:
        cam2world: Poses ``[..., 4, 4]``.

    Returns:
        Yaw, pitch and roll ``[...]`` in degrees, within ±180, ±90 and ±180. Straight above the head only the difference
        of yaw and roll means something, straight below it their sum, and gradients are 0.

    Raises:
        ValueError: The shape is wrong or a value is not finite.
    """
    require_matrix("cam2world", cam2world, 4)
    right, down, forward, _ = cam2world[..., :3, :].unbind(-1)
    x, y, z = (-forward).unbind(-1)
    level = vector_norm(forward[..., ::2], dim=-1)  # hypot's gradient at 0 is not finite
    yaw, pitch, roll = torch.atan2(x, z), torch.atan2(y, level), torch.atan2(-right[..., 1], -down[..., 1])
    return torch.rad2deg(yaw), torch.rad2deg(pitch), torch.rad2deg(roll)


def make_pose(
    rotation: Float[Tensor, "*batch 3 3"], position: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Make ``cam2world`` of the camera's axes, the columns of ``[..., 3, 3]``, and its position ``[..., 3]``."""
    upper = torch.cat((rotation, position[..., None]), -1)
    last = torch.eye(4, dtype=upper.dtype, device=upper.device)[3:]
    return torch.cat((upper, last.expand(*upper.shape[:-2], 1, 4)), -2)


def slerp(
    start: Float[Tensor, "*#batch 3 3"], end: Float[Tensor, "*#batch 3 3"], s: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Turn from one rotation to another at even speed, by the shorter way (Shoemake 1985).

    Args:
        start: Rotation at ``s = 0``, ``[..., 3, 3]``.
        end: Rotation at ``s = 1``, ``[..., 3, 3]``.
        s: How far to turn ``[...]``.

    Returns:
        Rotations ``[..., 3, 3]``. Between opposite ones the two ways are equal, and either is taken.
    """
    a, b, s = _to_quaternion(start), _to_quaternion(end), s[..., None]
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)  # q and -q are one rotation: take the nearer
    # the angle between them in half turns; the arc cosine of their product would lose small ones
    angle = 2 / math.pi * torch.atan2(vector_norm(a - b, dim=-1), vector_norm(a + b, dim=-1))[..., None]
    # each weight is sin(s t) / sin(t), which is s where t is 0
    q = ((1 - s) * torch.sinc((1 - s) * angle) * a + s * torch.sinc(s * angle) * b) / torch.sinc(angle)
    real, vector = q[..., :1, None], q[..., 1:, None]
    identity = torch.eye(3, dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 3, 3)
    turned = 2 * cross(vector, identity, dim=-2)
    rotation: Tensor = identity + real * turned + cross(vector, turned, dim=-2)
    return rotation


def _to_quaternion(rotation: Tensor) -> Tensor:
    """``[..., 3, 3]`` to unit quaternions ``[..., 4]``, real part first."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = rotation.flatten(-2).unbind(-1)
    # row i is 4 q_i q: that of the largest component is never short
    rows = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, 1 - xx + yy - zz, zy + yz),
        (yx - xy, xz + zx, zy + yz, 1 - xx - yy + zz),
    )
    scaled = torch.stack([torch.stack(row, -1) for row in rows], -2)
    largest = scaled.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion: Tensor = normalize(scaled.take_along_dim(largest, -2).squeeze(-2), dim=-1)
    return quaternion


def _components(pivot: Vector) -> dict[str, Scalar]:
    shape = tuple(pivot.shape) if isinstance(pivot, Tensor) else (len(pivot),)
    if shape[-1:] != (3,):
        raise ValueError(f"pivot must be [..., 3], got {shape}")
    parts: Sequence[Scalar] = pivot.unbind(-1) if isinstance(pivot, Tensor) else pivot
    return {f"pivot[{axis}]": part for axis, part in enumerate(parts)}
