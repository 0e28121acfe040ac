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
from talk3d.data.head import View, fit_mesh, pnp, shifts, to_crop, turns, world_to_camera
from talk3d.data.motion import fuse
from talk3d.data.rows import PIECE, RowWriter
from talk3d.data.shots import Shot
from talk3d.data.smooth import reach, smooth
from talk3d.data.track import Track
from talk3d.data.transforms import apply, project, similarity3d
from talk3d.data.video import FPS

__all__ = ["Analysis", "analyze"]

Array = NDArray[np.float64]
_RIGID = list(RIGID)

LIVELY = 0.6  # width of the smoothing of landmarks in frames: lips are quick
# error of optical flow from frame to frame, over the tracker's: where the head is still, and for each pixel it moves
_STILL, _DRIFT = 0.002, 0.01
# the same of rotations, in radians, and the tracker's own error about the head's x, y and z. Chosen on the synthetic
# clip: about the vertical axis optical flow is nearer to the truth, about the other two the tracker. They are larger
# than a single frame's error, because the tracker errs in the same way for many frames. The second is between two
# measures that disagree: with 0.2 the rotation of the head is nearer to the truth (mean error 0.6 degrees, now 1.15),
# with less the line of sight of the crop (1.6, now 1.2), and the last frames of a shot that ends in a swift turn
_STILL_TURN, _DRIFT_TURN, _TURN = 1e-4, 1e-3, (0.04, 0.13, 0.03)
_TURN_ROUNDS = 3
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
        face: Nose tip, left and right eye's outer corner in the uncropped frame, from its middle, in halves of its
            width ``[N, 3, 2]``.
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


def analyze(track: Track, shot: Shot, view: View, size: int, folder: Path, *, cropped: bool = False) -> Analysis:
    """Compute a shot's geometry, and write ``landmarks.npy`` and ``points.npy``.

    Args:
        track: Where the tracker found faces.
        shot: Which frames, which face.
        view: The camera of a frontal crop.
        size: Side of the crops in pixels.
        folder: Where to write.
        cropped: Whether pictures are crops already: they are only brought to size.
    """
    raw = _Landmarks(track, shot)
    times = FPS * track.times[shot.start : shot.stop]
    trust = np.where(shot.valid, 1.0, _INTERPOLATED)
    known = np.flatnonzero(shot.valid)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), _MESH_FRAMES)).round().astype(int)]
    mesh, mesh_error = fit_mesh(np.concatenate([raw.read(i, i + 1) for i in chosen]), view)

    crops = _steady_crops(raw, mesh, view, trust, cropped)
    poses, error = _steady_poses(raw, mesh, view, trust, crops)
    usual = float(np.median(error[shot.valid]))
    valid = shot.valid & (error < max(_LOST, _LOST_RATIO * usual))

    width, height = track.frame_size
    half, count = reach(LIVELY), len(times)
    apertures = []
    with (
        RowWriter(folder / "landmarks.npy", (count, VERTICES, 2)) as landmarks,
        RowWriter(folder / "points.npy", (count, VERTICES, 3)) as space,
    ):
        for start, stop in raw.pieces():
            first, last = max(start - half, 0), min(stop + half, count)
            found = raw.read(first, last)
            apertures.append(aperture(found[start - first : stop - first]))
            points = smooth(found, times[first:last], LIVELY, trust[first:last])[start - first : stop - first]
            seen = apply(crops[start:stop], points[..., :2])
            landmarks.append(seen)
            space.append(_lift(seen, points, mesh, poses[start:stop], view))

    closed, open_level = blink(np.concatenate(apertures), valid)
    cam2world = world_to_camera(poses)
    yaw, pitch, roll = (angle.numpy() for angle in cameras.angles(torch.from_numpy(cam2world)))
    turned = np.degrees(np.arctan2(crops[:, 1, 0], crops[:, 0, 0]))  # clockwise, of the frame on its way to the crop
    roll = (roll + turned + 180) % 360 - 180
    return Analysis(
        mesh=mesh,
        crops=size * crops,
        cam2world=cam2world,
        angles=np.stack((pitch, yaw, roll), 1),
        blink=closed[:, ::-1],
        face=_steady_face(raw, trust, crops) * 2 / width - (1.0, height / width),
        valid=valid,
        tracking={
            "smoothing_frames": LIVELY,
            "mesh_error_pixels": round(size * mesh_error, 3),
            "pose_error_pixels": round(size * usual, 3),
            "open_eye_right": round(float(open_level[0]), 4),
            "open_eye_left": round(float(open_level[1]), 4),
            "crop_scale": round(float(np.median(scale(size * crops))), 4),
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

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""
        return self._track.frame_size

    def rigid(self, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Rigid points of frames, of the frames before, and where these are now, ``[stop - start, R, 2]`` each."""
        points = self.read(max(start - 1, 0), stop)[:, _RIGID, :2]
        before = points[: stop - start] if start else np.concatenate((points[:1], points[:-1]))
        first = self._shot.start
        carried = self._track.carried(self._shot.face, first + start, first + stop)
        if not start:
            carried[0] = np.nan
        return points[-(stop - start) :], before, carried

    def motion(self, crops: Array) -> Array:
        """By how many pixels of a crop of 512 points move to the next frame, on average ``[N - 1]``."""
        parts = [
            512 * np.linalg.norm(apply(crops[start:stop], carried) - apply(crops[start:stop], before), axis=-1).mean(1)
            for start, stop in self.pieces()
            for _, before, carried in [self.rigid(start, stop)]
        ]
        return np.nan_to_num(np.concatenate(parts)[1:], nan=1e3)

    def read(self, start: int, stop: int) -> Array:
        """``[stop - start, 478, 3]``."""
        first = self._shot.start
        found = self._track.landmarks(self._shot.face, first + start, first + stop)
        for n in np.flatnonzero(np.isnan(found[:, 0, 0])):
            before, after = self._before[start + n], self._after[start + n]
            a, b = (self._track.landmarks(self._shot.face, first + k, first + k + 1)[0] for k in (before, after))
            found[n] = a + (b - a) * (start + n - before) / max(after - before, 1)
        return found


def _steady_crops(raw: _Landmarks, mesh: Array, view: View, trust: Array, cropped: bool) -> Array:
    """Align each frame ``[N, 2, 3]``, its crop's sides being 1, and let optical flow steady that."""
    if cropped:
        width, height = raw.frame_size
        return np.tile(np.array([[1 / width, 0, 0], [0, 1 / height, 0]]), (len(trust), 1, 1))
    aligned, steps = [], []
    for start, stop in raw.pieces():
        rigid, before, carried = raw.rigid(start, stop)
        aligned.append(to_crop(rigid, mesh, view))
        steps.append(to_crop(carried, mesh, view) - to_crop(before, mesh, view))
    absolute = np.concatenate(aligned)
    step = np.concatenate(steps)[1:]
    motion = raw.motion(absolute)
    flat = fuse(absolute.reshape(-1, 6), step.reshape(-1, 6), trust, 1 / (_STILL + _DRIFT * motion))
    return flat.reshape(-1, 2, 3)


def _steady_poses(raw: _Landmarks, mesh: Array, view: View, trust: Array, crops: Array) -> tuple[Array, Array]:
    """Find poses ``[N, 3, 4]``, world to camera, and the error of each frame's rigid points, the crop's sides being 1.

    Rotations are the tracker's, steadied by those between pictures, which come from PnP of the points that optical flow
    carried. The translation is then a linear problem, steadied likewise.
    """
    from scipy.spatial.transform import Rotation

    count = len(crops)
    absolute, between = np.empty((count, 3, 3)), np.full((count, 3, 3), np.nan)
    for start, stop in raw.pieces():
        points = raw.read(start, stop)
        turned = points.copy()
        turned[..., :2] = apply(crops[start:stop], points[..., :2])
        turned[..., 2] *= scale(crops[start:stop])[:, None]
        absolute[start:stop] = turns(mesh, turned)
        _, before, carried = raw.rigid(start, stop)
        known = start + np.flatnonzero(np.isfinite(carried[:, 0, 0]))
        if len(known):
            first = pnp(mesh, apply(crops[known - 1], before[known - start]), absolute[known - 1], view)
            then = pnp(mesh, apply(crops[known], carried[known - start]), absolute[known - 1], view)
            between[known] = then[:, :, :3] @ first[:, :, :3].swapaxes(1, 2)

    sure = 1 / (_STILL_TURN + _DRIFT_TURN * raw.motion(crops))
    said = Rotation.from_matrix(absolute)
    middle = said.mean(weights=trust)
    told = np.isfinite(between[1:, 0, 0])
    step = Rotation.from_matrix(np.where(told[:, None, None], between[1:], np.eye(3)))
    vectors = (middle.inv() * said).as_rotvec()
    rotations = said
    for _ in range(_TURN_ROUNDS):  # steps are along a curved space, and depend on where they are taken
        here = (middle.inv() * rotations).as_rotvec()
        steps = (middle.inv() * (step * rotations[:-1])).as_rotvec() - here[:-1]
        steps[~told] = np.nan
        axes = [fuse(vectors[:, k : k + 1], steps[:, k : k + 1], trust, _TURN[k] * sure) for k in range(3)]
        rotations = middle * Rotation.from_rotvec(np.concatenate(axes, 1))
    turned = rotations.as_matrix()

    shift, steps, error = np.empty((count, 3)), np.empty((count, 3)), np.empty(count)
    for start, stop in raw.pieces():
        rigid, before, carried = raw.rigid(start, stop)
        seen, at = apply(crops[start:stop], rigid), slice(start, stop)
        back = np.maximum(np.arange(start, stop) - 1, 0)
        shift[at] = shifts(mesh, turned[at], seen, view)
        steps[at] = shifts(mesh, turned[at], apply(crops[at], carried), view)
        steps[at] -= shifts(mesh, turned[back], apply(crops[back], before), view)
        pose = np.concatenate((turned[at], shift[at, :, None]), 2)
        distance = project(apply(pose, mesh[_RIGID]), view.focal) - seen
        error[at] = np.sqrt((distance**2).sum(-1).mean(-1))
    shift = fuse(shift, steps[1:], trust, _TURN[1] * sure)
    return np.concatenate((turned, shift[..., None]), 2), error


def _steady_face(raw: _Landmarks, trust: Array, crops: Array) -> Array:
    """Nose tip, left and right eye's outer corner in source pixels ``[N, 3, 2]``, steadied by optical flow."""
    chosen = [_RIGID.index(vertex) for vertex in (NOSE_TIP, EYE_CORNERS[1], EYE_CORNERS[0])]
    pieces = [raw.rigid(start, stop) for start, stop in raw.pieces()]
    absolute = np.concatenate([rigid[:, chosen] for rigid, _, _ in pieces])
    steps = np.concatenate([(carried - before)[:, chosen] for _, before, carried in pieces])[1:]
    ratio = 1 / (_STILL + _DRIFT * raw.motion(crops))
    return fuse(absolute.reshape(-1, 6), steps.reshape(-1, 6), trust, ratio).reshape(-1, 3, 2)


def _lift(seen: Array, points: Array, mesh: Array, pose: Array, view: View) -> Array:
    """Give points in the crop ``[N, 478, 2]`` their depth in the camera's frame.

    The depth is that of the tracker's points laid over the mesh by their rigid ones, as the pose sees them, so that an
    open jaw has its own; the other two coordinates make the point project onto its landmark.
    """
    laid = apply(similarity3d(points[:, _RIGID] * (1.0, -1.0, -1.0), mesh[_RIGID]), points * (1.0, -1.0, -1.0))
    depth = apply(pose, laid)[..., 2:]
    return np.concatenate(((seen - 0.5) * depth / view.focal, depth), -1)
