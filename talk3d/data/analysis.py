"""From tracked landmarks to everything a frame's geometry is: mesh, crops, poses, blink, points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from talk3d import cameras
from talk3d.data.blink import aperture, blink
from talk3d.data.crop import scale
from talk3d.data.facemesh import EYE_CORNERS, NOSE_TIP, RIGID, VERTICES
from talk3d.data.geometry import apply, project, similarity3d
from talk3d.data.head import View, fit_mesh, pnp, to_crop, world_to_camera
from talk3d.data.rows import PIECE, RowWriter
from talk3d.data.shots import Shot
from talk3d.data.smooth import reach, smooth
from talk3d.data.track import Track
from talk3d.data.video import FPS

__all__ = ["Analysis", "analyze"]

Array = NDArray[np.float64]
_RIGID = list(RIGID)

# widths of the smoothing in frames: what bone carries, and what lips do
STEADY, LIVELY = 1.5, 0.6
_MESH_FRAMES = 300  # to fit the mesh to, from all over the clip
_LOST, _LOST_RATIO = 8 / 512, 5.0  # error of a frame's rigid points, in sides and in the clip's median, that is no face
_INTERPOLATED = 1e-3  # trust in a frame without a face


@dataclass(frozen=True)
class Analysis:
    """Per-frame geometry of a shot; landmarks and points are on disk.

    Attributes:
        mesh: ``[478, 3]`` in the world.
        crops: Source pixels to crop pixels ``[N, 2, 3]``.
        cam2world: ``[N, 4, 4]``.
        angles: Pitch, yaw, roll of the view of the head in the uncropped frame, degrees ``[N, 3]``.
        blink: Left, right ``[N, 2]``.
        face: Nose tip, left and right eye's outer corner in source pixels ``[N, 3, 2]``.
        valid: ``[N]``.
        tracking: Numbers for ``meta.json``.
    """

    mesh: Array
    crops: Array
    cam2world: Array
    angles: Array
    blink: Array
    face: Array
    valid: NDArray[np.bool_]
    tracking: dict[str, float]


def analyze(track: Track, shot: Shot, view: View, size: int, folder: Path) -> Analysis:
    """Compute a shot's geometry, and write ``landmarks.npy`` and ``points.npy``.

    Args:
        track: Where the tracker found faces.
        shot: Which frames, which face.
        view: The camera of a frontal crop.
        size: Side of the crops in pixels.
        folder: Where to write.
    """
    raw = _Landmarks(track, shot)
    times = FPS * track.times[shot.start : shot.stop]
    trust = np.where(shot.valid, 1.0, _INTERPOLATED)
    known = np.flatnonzero(shot.valid)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), _MESH_FRAMES)).round().astype(int)]
    mesh, mesh_error = fit_mesh(np.concatenate([raw.read(i, i + 1) for i in chosen]), view)

    # what each frame says by itself
    aligned, apertures, corners = [], [], []
    for start, stop in raw.pieces():
        points = raw.read(start, stop)
        aligned.append(to_crop(points[:, _RIGID, :2], mesh, view))
        apertures.append(aperture(points))
        corners.append(points[:, [NOSE_TIP, EYE_CORNERS[1], EYE_CORNERS[0]], :2])
    unit = smooth(np.concatenate(aligned), times, STEADY, trust)

    poses, errors = [], []
    for start, stop in raw.pieces():
        points = raw.read(start, stop)
        seen = apply(unit[start:stop], points[..., :2])
        found = pnp(mesh, seen, points, view)
        error = project(apply(found, mesh[_RIGID]), view.focal) - seen[:, _RIGID]
        poses.append(found)
        errors.append(np.sqrt((error**2).sum(-1).mean(-1)))
    error = np.concatenate(errors)
    usual = float(np.median(error[shot.valid]))
    valid = shot.valid & (error < max(_LOST, _LOST_RATIO * usual))
    trust = np.where(valid, 1.0, _INTERPOLATED)
    pose = _smooth_poses(np.concatenate(poses), times, trust)

    half = reach(LIVELY)
    count = len(times)
    with (
        RowWriter(folder / "landmarks.npy", (count, VERTICES, 2)) as landmarks,
        RowWriter(folder / "points.npy", (count, VERTICES, 3)) as space,
    ):
        for start, stop in raw.pieces():
            first, last = max(start - half, 0), min(stop + half, count)
            points = smooth(raw.read(first, last), times[first:last], LIVELY, trust[first:last])
            points = points[start - first : stop - first]
            seen = apply(unit[start:stop], points[..., :2])
            landmarks.append(seen)
            space.append(_lift(seen, points, mesh, pose[start:stop], view))

    closed, open_level = blink(np.concatenate(apertures), valid)
    cam2world = world_to_camera(pose)
    yaw, pitch, roll = (angle.numpy() for angle in cameras.angles(torch.from_numpy(cam2world)))
    turned = np.degrees(np.arctan2(unit[:, 1, 0], unit[:, 0, 0]))  # clockwise, of the frame on its way to the crop
    roll = (roll + turned + 180) % 360 - 180
    return Analysis(
        mesh=mesh,
        crops=size * unit,
        cam2world=cam2world,
        angles=np.stack((pitch, yaw, roll), 1),
        blink=closed[:, ::-1],
        face=smooth(np.concatenate(corners), times, STEADY, trust),
        valid=valid,
        tracking={
            "steady_frames": STEADY,
            "lively_frames": LIVELY,
            "mesh_error_pixels": round(size * mesh_error, 3),
            "pose_error_pixels": round(size * usual, 3),
            "open_eye_right": round(float(open_level[0]), 4),
            "open_eye_left": round(float(open_level[1]), 4),
            "crop_scale": round(float(np.median(scale(size * unit))), 4),
        },
    )


class _Landmarks:
    """The tracker's landmarks of a shot's face, interpolated where it was not found."""

    def __init__(self, track: Track, shot: Shot) -> None:
        self._track, self._shot = track, shot
        known = np.flatnonzero(shot.valid)
        frames = np.arange(len(shot.valid))
        place = np.searchsorted(known, frames)
        self._after = known[place.clip(0, len(known) - 1)]
        self._before = np.where(shot.valid, frames, known[(place - 1).clip(0, len(known) - 1)])

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Stretches of frames that fit in memory."""
        count = len(self._before)
        return ((start, min(start + PIECE, count)) for start in range(0, count, PIECE))

    def read(self, start: int, stop: int) -> Array:
        """``[stop - start, 478, 3]``."""
        first = self._shot.start
        found = self._track.landmarks(self._shot.face, first + start, first + stop)
        for n in np.flatnonzero(np.isnan(found[:, 0, 0])):
            before, after = self._before[start + n], self._after[start + n]
            a, b = (self._track.landmarks(self._shot.face, first + k, first + k + 1)[0] for k in (before, after))
            found[n] = a + (b - a) * (start + n - before) / max(after - before, 1)
        return found


def _smooth_poses(poses: Array, times: Array, trust: Array) -> Array:
    """Smooth rigid poses ``[N, 3, 4]``: rotation vectors from the mean rotation, and translations."""
    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_matrix(poses[:, :, :3])
    mean = rotations.mean(weights=trust)
    vectors = smooth((mean.inv() * rotations).as_rotvec(), times, STEADY, trust)
    turned = (mean * Rotation.from_rotvec(vectors)).as_matrix()
    return np.concatenate((turned, smooth(poses[:, :, 3:], times, STEADY, trust)), 2)


def _lift(seen: Array, points: Array, mesh: Array, pose: Array, view: View) -> Array:
    """Give points in the crop ``[N, 478, 2]`` their depth in the camera's frame.

    The depth is that of the tracker's points laid over the mesh by their rigid ones, as the pose sees them, so that an
    open jaw has its own; the other two coordinates make the point project onto its landmark.
    """
    laid = apply(similarity3d(points[:, _RIGID] * (1.0, -1.0, -1.0), mesh[_RIGID]), points * (1.0, -1.0, -1.0))
    depth = apply(pose, laid)[..., 2:]
    return np.concatenate(((seen - 0.5) * depth / view.focal, depth), -1)
