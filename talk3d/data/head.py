"""The head: a personal face mesh from the tracker's points, and the camera's pose against it in every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talk3d.data.facemesh import RIGID, anchors
from talk3d.data.transforms import apply, kabsch, project, similarity, similarity3d

__all__ = ["View", "fit_mesh", "place", "pnp", "shifts", "to_crop", "turns", "world_to_camera"]

Array = NDArray[np.float64]
_RIGID = list(RIGID)
_FACE = list(range(468))  # all but the irises, which turn by themselves

# the regularised update, in units of the picture's side and of the world
_NOISE = 3 / 512  # of a landmark: what the tracker gets wrong in the same way from similar directions
_PRIOR = 0.006  # 2 mm: what the tracker's own shape gets wrong
_VIEWS = 25  # as many frames count as independent, however many there are
_ROUNDS = 6


@dataclass(frozen=True)
class View:
    """The camera of a frontal crop, by which crops are aligned.

    Attributes:
        focal: In sides of the crop.
        pivot: Where it looks.
        radius: Its distance from the origin of the world.
    """

    focal: float
    pivot: tuple[float, float, float]
    radius: float

    def pose(self) -> Array:
        """World to camera ``[3, 4]``: it looks along -z, on the height of its pivot."""
        x, y, _ = self.pivot
        position = np.array([x, y, np.sqrt(self.radius**2 - x**2 - y**2)])
        turn = np.diag([1.0, -1.0, -1.0])
        return np.concatenate((turn, -turn @ position[:, None]), 1)

    def template(self, mesh: Array) -> Array:
        """The mesh ``[V, 3]`` as the frontal camera sees it ``[V, 2]``, the crop's sides being 1."""
        return project(apply(self.pose(), mesh), self.focal)


def place(mesh: Array) -> Array:
    """Move a mesh ``[478, 3]`` of any position and size to the generator's world by the canonical face.

    The outer corners of the eyes get their distance and their middle their place; the nose tip, inner eye corners,
    mouth corners and chin say how it is turned.
    """
    vertices, targets = anchors()
    right, left = vertices[0], vertices[3]
    scale = np.linalg.norm(targets[3] - targets[0]) / np.linalg.norm(mesh[left] - mesh[right])
    middle, goal = (mesh[left] + mesh[right]) / 2, (targets[3] + targets[0]) / 2
    # around the middle of the eyes, and not of all anchors: a long chin is no turn
    near, far = scale * (mesh[vertices] - middle), targets - goal
    turn = kabsch(np.concatenate((near, -near)), np.concatenate((far, -far)))
    return scale * (mesh - middle) @ turn.T + goal


def fit_mesh(landmarks: Array, view: View) -> tuple[Array, float]:
    """Fit a personal mesh to tracked points of frames from all over a clip.

    It begins as their Procrustes mean (rigid points say how to turn, scale and move each frame), placed in the world.
    Then poses and mesh take turns: each frame's pose by PnP in its aligned crop, each vertex by least squares over all
    frames, held to the mean by a prior: a clip that shows the face from one side alone says little about depth.

    Args:
        landmarks: x, y and depth of the tracker in source pixels ``[K, 478, 3]``, no NaN.
        view: The frontal camera.

    Returns:
        The mesh ``[478, 3]`` in world coordinates, and the error of its rigid points in crops, root mean square with
        the crop's sides being 1.
    """
    upright = landmarks * (1.0, -1.0, -1.0)  # the world's y goes up, z to the camera
    mean = upright[len(upright) // 2]
    for _ in range(4):
        moves = similarity3d(upright[:, _RIGID], mean[_RIGID])
        mean = apply(moves, upright).mean(0)
    prior = mesh = place(mean)
    for _ in range(_ROUNDS):
        seen = apply(to_crop(landmarks[:, _RIGID, :2], mesh, view), landmarks[..., :2])
        poses = pnp(mesh, seen[:, _RIGID], turns(mesh, landmarks), view)
        mesh = place(_update(mesh, prior, poses, seen, view))
    seen = apply(to_crop(landmarks[:, _RIGID, :2], mesh, view), landmarks[..., :2])
    poses = pnp(mesh, seen[:, _RIGID], turns(mesh, landmarks), view)
    error = project(apply(poses, mesh[_RIGID]), view.focal) - seen[:, _RIGID]
    return mesh, float(np.sqrt((error**2).sum(-1).mean()))


def to_crop(rigid: Array, mesh: Array, view: View) -> Array:
    """Align rigid points in source pixels ``[N, R, 2]`` with the mesh seen from the front.

    Returns:
        Similarities ``[N, 2, 3]`` from source pixels to the crop, its sides being 1.
    """
    return similarity(rigid, view.template(mesh)[_RIGID])


def pnp(mesh: Array, seen: Array, rotations: Array, view: View) -> Array:
    """Find poses of the crop's camera from rigid points, all in units of the picture as its intrinsics are.

    Args:
        mesh: ``[478, 3]`` in the world.
        seen: Rigid points in crops ``[N, R, 2]``, their sides being 1.
        rotations: World to camera, where the search begins ``[N, 3, 3]``.
        view: Focal length of the crops.

    Returns:
        World to camera ``[N, 3, 4]``, least squares of the distances in the picture.
    """
    import cv2

    intrinsics = np.array([[view.focal, 0, 0.5], [0, view.focal, 0.5], [0, 0, 1]])
    poses = np.empty((len(seen), 3, 4))
    scale = 512.0  # OpenCV stops at a step of fixed size: give it pixels
    intrinsics[:2] *= scale
    shift = view.pose()[:, 3]
    for n, (rotation, points) in enumerate(zip(rotations, seen, strict=True)):
        guess, begin = cv2.Rodrigues(rotation)[0], shift[:, None].copy()
        _, turn, moved = cv2.solvePnP(
            mesh[_RIGID], scale * points, intrinsics, None, guess, begin, True, cv2.SOLVEPNP_ITERATIVE
        )
        poses[n] = np.concatenate((cv2.Rodrigues(turn)[0], moved), 1)
    return poses


def turns(mesh: Array, points: Array) -> Array:
    """Find how the head is turned from the tracker's points in space: world to camera rotations ``[N, 3, 3]``.

    On the synthetic clip this is nearer to the truth than PnP (yaw within 1.8 degrees instead of 2.4): the tracker's
    depth holds something that its picture coordinates do not.

    Args:
        mesh: ``[478, 3]`` in the world.
        points: x, y and depth of the tracker in the crop's directions ``[N, 478, 3]``.
    """
    return kabsch(np.broadcast_to(mesh[_FACE], (len(points), len(_FACE), 3)), points[:, _FACE])


def shifts(mesh: Array, rotations: Array, seen: Array, view: View) -> Array:
    """Find translations ``[N, 3]`` with which turned rigid points project best to where they are seen ``[N, R, 2]``.

    Linear least squares of the distances in the picture, times depth, which differs little between the points.
    """
    turned = mesh[_RIGID] @ rotations.swapaxes(1, 2)
    ray = (seen - 0.5) / view.focal
    gram = np.zeros((len(seen), 3, 3))
    gram[:, 0, 0] = gram[:, 1, 1] = len(_RIGID)
    gram[:, :2, 2] = gram[:, 2, :2] = -ray.sum(1)
    gram[:, 2, 2] = (ray**2).sum((1, 2))
    off = ray * turned[..., 2:] - turned[..., :2]
    right = np.concatenate((off.sum(1), -(ray * off).sum((1, 2))[:, None]), 1)
    return np.linalg.solve(gram, right[..., None])[..., 0]


def world_to_camera(poses: Array) -> Array:
    """Invert rigid poses ``[N, 3, 4]``: world to camera becomes ``cam2world`` ``[N, 4, 4]``, or back."""
    turn = poses[:, :, :3].swapaxes(1, 2)
    out = np.zeros((len(poses), 4, 4))
    out[:, :3, :3], out[:, :3, 3:], out[:, 3, 3] = turn, -turn @ poses[:, :, 3:], 1
    return out


def _update(mesh: Array, prior: Array, poses: Array, seen: Array, view: View) -> Array:
    """One Gauss-Newton step of every vertex by itself."""
    points = apply(poses, mesh)  # [K, V, 3]
    error = seen - project(points, view.focal)
    x, y, z = np.moveaxis(points, -1, 0)
    zero = np.zeros_like(x)
    slope = view.focal * np.stack((np.stack((1 / z, zero, -x / z**2), -1), np.stack((zero, 1 / z, -y / z**2), -1)), -2)
    slope = slope @ poses[:, None, :, :3]  # [K, V, 2, 3] by the world's axes
    trust = min(_VIEWS, len(poses)) / len(poses) / _NOISE**2
    gram = trust * np.einsum("kvij,kvil->vjl", slope, slope) + np.eye(3) / _PRIOR**2
    pull = trust * np.einsum("kvij,kvi->vj", slope, error) + (prior - mesh) / _PRIOR**2
    return mesh + np.linalg.solve(gram, pull[..., None])[..., 0]
