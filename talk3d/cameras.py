"""Cameras: poses, intrinsics, rays and paths, in one convention (``docs/cameras.png`` draws it).

World: y is up, the face looks along +z from near the origin, and one unit is about 37 cm.

Camera: OpenCV axes, x to the right of the picture, y down, z forward. ``cam2world`` ``[..., 4, 4]`` maps homogeneous
camera coordinates to the world: its columns are the three axes and the position. The frontal camera is at (0, 0, 2.7)
with rotation diag(1, -1, -1): the picture's right is +x, the person's left.

Angles are in degrees. Positive *yaw* moves the camera towards +x, so that it sees the person's left cheek; positive
*pitch* moves it up, so that it sees the top of the head; positive *roll* turns it clockwise as seen from behind, so
that the head in the picture turns anticlockwise. Only :func:`look_at_eg3d`, a published formula, takes radians, and its
second angle grows downwards.

Intrinsics ``[..., 3, 3]`` are in units of the picture, x of its width and y of its height: a centred camera has its
principal point at (0.5, 0.5), whatever the resolution. A *camera vector* is EG3D's ``c``: 25 numbers, ``cam2world`` by
rows, then the intrinsics by rows.

Numbers and tensors mix and broadcast; results have the type and device of the tensors, and gradients flow to these.
Values are checked as :mod:`talk3d.arguments` says: not on a GPU, and not under ``torch.compile``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cross, vector_norm

from talk3d.arguments import (
    Scalar,
    broadcast,
    common_batch,
    require,
    require_finite,
    require_matrix,
    require_positive,
)
from talk3d.poses import FFHQ_PIVOT, RADIUS, Vector, angles, look_at, look_at_eg3d, make_pose, slerp

__all__ = [
    "FFHQ_FOCAL",
    "FFHQ_PIVOT",
    "RADIUS",
    "TALK3D_FOCAL",
    "TALK3D_PIVOT",
    "angles",
    "focal_from_fov",
    "focal_from_fov_eg3d",
    "interpolate",
    "intrinsics",
    "look_at",
    "look_at_eg3d",
    "orbit",
    "pack",
    "path",
    "rays",
    "unpack",
]

FFHQ_FOCAL = 2985.29 / 700  # EG3D's face crops: focal length over side, in pixels
TALK3D_FOCAL = 3.6  # Talk3D, after VIVE3D: a wider crop of the same generator
TALK3D_PIVOT = (0.0, 0.05, 0.2)


def focal_from_fov(degrees: Scalar) -> Tensor:
    r"""Convert a field of view to a focal length: :math:`1 / (2 \tan(\mathrm{fov} / 2))`.

    Args:
        degrees: Angle from one edge of the picture to the opposite one ``[...]``, between 0 and 180.

    Returns:
        The focal length ``[...]`` in units of that side of the picture.

    Raises:
        ValueError: An angle is not between 0 and 180.
    """
    return 0.5 / torch.tan(torch.deg2rad(_field_of_view(degrees)) / 2)


def focal_from_fov_eg3d(degrees: Scalar) -> Tensor:
    """Do as :func:`focal_from_fov`, over the diagonal of a square and with EG3D's constants: 18.837 gives 4.26339."""
    return 1 / (1.414 * torch.tan(_field_of_view(degrees) * 3.14159 / 360))


def intrinsics(
    focal: Scalar, focal_y: Scalar | None = None, *, cx: Scalar = 0.5, cy: Scalar = 0.5, skew: Scalar = 0.0
) -> Float[Tensor, "*batch 3 3"]:
    """Make a matrix of intrinsics in units of the picture: ``[[focal, skew, cx], [0, focal_y, cy], [0, 0, 1]]``.

    Args:
        focal: Focal length ``[...]`` in picture widths, positive.
        focal_y: Focal length ``[...]`` in picture heights; by default ``focal``. In a picture of W by H square pixels
            it is ``focal * W / H``.
        cx: Principal point ``[...]`` in widths from the left edge.
        cy: Principal point ``[...]`` in heights from the upper edge.
        skew: Horizontal shear ``[...]`` in widths.

    Returns:
        Matrices ``[..., 3, 3]``, of the batch to which the arguments broadcast.

    Raises:
        ValueError: A value is not finite, a focal length not positive, or shapes do not broadcast.
    """
    focal_y = focal if focal_y is None else focal_y
    require_positive(focal=focal, focal_y=focal_y)
    fx, fy, cx, cy, skew = broadcast(focal=focal, focal_y=focal_y, cx=cx, cy=cy, skew=skew)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack((fx, skew, cx, zero, fy, cy, zero, zero, one), -1).reshape(*fx.shape, 3, 3)


def pack(
    cam2world: Float[Tensor, "*#batch 4 4"], intrinsics: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch 25"]:
    """Write poses ``[..., 4, 4]`` and intrinsics ``[..., 3, 3]``, which broadcast, as camera vectors ``[..., 25]``.

    Raises:
        ValueError: A shape is wrong, a value not finite, or the two are on different devices.
    """
    batch = _require_cameras(cam2world, intrinsics)
    return torch.cat((cam2world.flatten(-2).expand(*batch, 16), intrinsics.flatten(-2).expand(*batch, 9)), -1)


def unpack(cameras: Float[Tensor, "*batch 25"]) -> tuple[Float[Tensor, "*batch 4 4"], Float[Tensor, "*batch 3 3"]]:
    """Read camera vectors ``[..., 25]``: views of the poses ``[..., 4, 4]`` and the intrinsics ``[..., 3, 3]``.

    Raises:
        ValueError: The shape is wrong or a value is not finite.
    """
    if cameras.shape[-1:] != (25,) or not cameras.is_floating_point():
        raise ValueError(f"cameras must be [..., 25] of a floating type, got {tuple(cameras.shape)} {cameras.dtype}")
    require_finite("cameras", cameras)
    batch = cameras.shape[:-1]
    return cameras[..., :16].view(*batch, 4, 4), cameras[..., 16:].view(*batch, 3, 3)


def rays(
    cam2world: Float[Tensor, "*#batch 4 4"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    resolution: int | tuple[int, int],
) -> tuple[Float[Tensor, "*batch ray 3"], Float[Tensor, "*batch ray 3"]]:
    """Cast a ray through the centre of each pixel.

    Args:
        cam2world: Poses ``[..., 4, 4]``.
        intrinsics: ``[..., 3, 3]``; one matrix may serve all poses.
        resolution: ``(height, width)``, or one number for a square.

    Returns:
        Origins and unit directions ``[..., height * width, 3]`` in the world, row by row from the upper left corner.
        Origins are expanded, not copied.

    Raises:
        ValueError: A shape is wrong, a value not finite, the resolution below 1, or devices differ.

    Example:
        >>> origins, directions = rays(look_at(0.0, 0.0)[None], intrinsics(FFHQ_FOCAL), (3, 5))
        >>> directions.shape, directions[0, 7]
        (torch.Size([1, 15, 3]), tensor([ 0.,  0., -1.]))
    """
    batch = _require_cameras(cam2world, intrinsics)
    height, width = _height_width(resolution)
    fx, skew, cx, _, fy, cy, *_ = intrinsics.flatten(-2)[..., None, None].unbind(-3)
    y = (_pixel_centers(height, intrinsics)[:, None] - cy) / fy  # [..., H, 1]
    x = (_pixel_centers(width, intrinsics) - cx - skew * y) / fx  # [..., H, W]
    right, down, forward, position = cam2world[..., None, None, :3, :].unbind(-1)  # [..., 1, 1, 3]
    # sums of products instead of a matrix product, which TF32 and autocast would round
    directions = x[..., None] * right + y[..., None] * down + forward
    directions = (directions / vector_norm(directions, dim=-1, keepdim=True)).flatten(-3, -2)
    shape = (*batch, height * width, 3)
    return position.squeeze(-2).expand(shape), directions.expand(shape)


def orbit(
    yaw: Scalar = 30.0,
    pitch: Scalar = 15.0,
    *,
    frames: int = 120,
    focal: Scalar = FFHQ_FOCAL,
    radius: Scalar = RADIUS,
    pivot: Vector = FFHQ_PIVOT,
) -> Float[Tensor, "frame 25"]:
    """Circle the frontal view: above, the person's left, below, right, and on to above.

    Args:
        yaw: Largest yaw, degrees.
        pitch: Largest pitch, degrees.
        frames: Frames of one turn, at even steps; the first would follow the last. 120 are 4.8 s at 25 a second.
        focal: As in :func:`intrinsics`.
        radius: As in :func:`look_at`.
        pivot: As in :func:`look_at`.

    Returns:
        Camera vectors ``[frames, 25]``.

    Raises:
        ValueError: A value is not finite, the radius or focal length not positive, or ``frames`` below 1.
    """
    yaw, pitch = broadcast(yaw=yaw, pitch=pitch)
    _require_frames(frames)
    phase = torch.arange(frames, dtype=yaw.dtype, device=yaw.device) * (2 * math.pi / frames)
    poses = look_at(yaw * phase.sin(), pitch * phase.cos(), radius=radius, pivot=pivot)
    return pack(poses, intrinsics(focal).to(poses))


def path(
    angles: Float[Tensor, "key 2"] | Float[Tensor, "key 3"] | Sequence[Sequence[float]],
    *,
    frames: int,
    closed: bool = False,
    focal: Scalar = FFHQ_FOCAL,
    radius: Scalar = RADIUS,
    pivot: Vector = FFHQ_PIVOT,
) -> Float[Tensor, "frame 25"]:
    """Move through listed directions, evenly spaced in time, along a Catmull-Rom spline.

    Args:
        angles: Yaw and pitch, or yaw, pitch and roll, in degrees ``[K, 2 or 3]``. They are plain numbers: from 350 to
            370 is a step of 20. One row is a camera that stands still.
        frames: Frames from the first row to the last, both included, or of one closed turn as in :func:`orbit`.
        closed: Return to the first row.
        focal: As in :func:`intrinsics`.
        radius: As in :func:`look_at`.
        pivot: As in :func:`look_at`.

    Returns:
        Camera vectors ``[frames, 25]``.

    Raises:
        ValueError: The shape of ``angles`` is wrong, a value is not finite, the radius or focal length not positive, or
            ``frames`` below 1.
    """
    keys = angles if isinstance(angles, Tensor) else torch.tensor(angles, dtype=torch.get_default_dtype())
    if keys.ndim != 2 or len(keys) < 1 or keys.shape[1] not in (2, 3) or not keys.is_floating_point():
        raise ValueError(f"angles must be [K, 2] or [K, 3] of a floating type, got {tuple(keys.shape)} {keys.dtype}")
    require_finite("angles", keys)
    keys = keys.expand(2, -1) if len(keys) == 1 else keys
    spans = len(keys) if closed else len(keys) - 1
    first, last = (keys[-1:], keys[:2]) if closed else (2 * keys[:1] - keys[1:2], 2 * keys[-1:] - keys[-2:-1])
    keys = torch.cat((first, keys, last))
    _require_frames(frames)
    steps = frames if closed else max(frames - 1, 1)
    times = torch.arange(frames, dtype=keys.dtype, device=keys.device) * (spans / steps)
    span = times.floor().clamp(max=spans - 1)
    s = (times - span)[:, None]
    a, b, c, d = (keys[span.long() + k] for k in range(4))  # the span goes from b to c
    turns = b + 0.5 * s * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))
    poses = look_at(*turns.unbind(-1), radius=radius, pivot=pivot)
    return pack(poses, intrinsics(focal).to(poses))


def interpolate(
    cameras: Float[Tensor, "key 25"], times: Float[Tensor, "*time"] | Sequence[float]
) -> Float[Tensor, "*time 25"]:
    """Interpolate between cameras: rotations along the shorter arc at even speed, all else linearly.

    Args:
        cameras: Camera vectors ``[K, 25]``, camera k at time k.
        times: When to look ``[...]``. Before the first camera and after the last, it stands still.

    Returns:
        Camera vectors ``[..., 25]``. Of two equal arcs, half a turn each, one is taken.

    Raises:
        ValueError: The shape of ``cameras`` is wrong, one of them holds no rotation, or a value is not finite.
    """
    if cameras.ndim != 2 or len(cameras) < 1:
        raise ValueError(f"cameras must be [K, 25], got {tuple(cameras.shape)}")
    poses, _ = unpack(cameras)
    rotations = poses[:, :3, :3]
    gram = (rotations[:, :, :, None] * rotations[:, :, None, :]).sum(1)
    error = (gram - torch.eye(3, dtype=gram.dtype, device=gram.device)).abs().amax((-2, -1))
    right, down, forward, positions = poses[:, :3].unbind(-1)
    right_handed = (cross(right, down) * forward).sum(-1) > 0
    tolerance = max(1e-3, 4 * torch.finfo(cameras.dtype).eps)  # cameras come from files of few digits
    require(right_handed & (error < tolerance), f"cameras {tuple(cameras.shape)} must hold rotations")
    when = torch.as_tensor(times, dtype=cameras.dtype, device=cameras.device)
    require_finite("times", when)
    when = when.clamp(0, len(cameras) - 1)
    before = when.floor().long()
    after = (before + 1).clamp(max=len(cameras) - 1)
    s = when - before
    axes = slerp(rotations[before], rotations[after], s)
    position, matrix = (torch.lerp(part[before], part[after], s[..., None]) for part in (positions, cameras[:, 16:]))
    return pack(make_pose(axes, position), matrix.reshape(*matrix.shape[:-1], 3, 3))


def _require_cameras(cam2world: Tensor, intrinsics: Tensor) -> tuple[int, ...]:
    """Return the batch shape of poses and intrinsics that fit together."""
    require_matrix("cam2world", cam2world, 4)
    require_matrix("intrinsics", intrinsics, 3)
    return common_batch({"cam2world": cam2world, "intrinsics": intrinsics}, inner=2)


def _field_of_view(degrees: Scalar) -> Tensor:
    (fov,) = broadcast(degrees=degrees)
    require((fov > 0) & (fov < 180), "degrees must be between 0 and 180")
    return fov


def _pixel_centers(size: int, like: Tensor) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)  # half types cannot count to a picture's width
    return ((torch.arange(size, dtype=dtype, device=like.device) + 0.5) / size).to(like.dtype)


def _height_width(resolution: int | tuple[int, int]) -> tuple[int, int]:
    size = resolution if isinstance(resolution, (tuple, list)) else (resolution, resolution)
    if len(size) != 2 or not all(isinstance(length, int) and length >= 1 for length in size):
        raise ValueError(f"resolution must be a whole number or (height, width), each at least 1, got {resolution!r}")
    return size[0], size[1]


def _require_frames(frames: int) -> None:
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames must be a whole number, at least 1, got {frames!r}")
