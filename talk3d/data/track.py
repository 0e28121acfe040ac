"""Where the face is in each picture: MediaPipe's face mesh over a clip, and the cuts in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talk3d.data.facemesh import OVAL, RIGID, VERTICES
from talk3d.data.mediapipe import quiet, start
from talk3d.data.motion import carry
from talk3d.data.video import Pictures, ahead

__all__ = ["FaceTracker", "Track", "track"]

_FACES = 2  # followed at a time: the person, and somebody else
_SIDE = 1280  # pixels to which larger pictures are reduced; a face is read at 192
_NEAR = 0.6  # face widths that a face may move between pictures and still be the same
# a face is cut out as it lay in the picture before, or as the detector sees it, and its landmarks lean with the cut, by
# up to 0.8 pixels of 256. Looked at again, it is cut out as its own landmarks say. Copies of a clip at other rates
# differ in pitch by up to 0.58 degrees with one look at each picture, 0.50 with two, 0.48 with three
_AGAIN = 2
# a cut: pictures differ by 30 of 255 on average, and 4 times as much as those before (a fade and a flash do not)
_CUT, _CUT_RATIO = 30.0, 4.0
_THUMB = (32, 18)
_ROW = VERTICES * 3 + len(RIGID) * 2  # numbers of a face


@dataclass
class Track:
    """What :func:`track` found; landmarks stay on disk.

    Attributes:
        file: float32 ``[N, 2, 478 * 3 + R * 2]``: of each picture and face x and y in its pixels from the upper left
            corner, and depth in the same unit, smaller nearer; then where the rigid points of the picture before are in
            this one. NaN where there is no such face.
        times: Of each picture, seconds ``[N]``.
        cuts: Pictures that begin a shot, other than the first.
        sizes: Width of each face in pixels ``[N, 2]``, 0 where there is none.
        brightness: Mean of each picture, 0 to 255 ``[N]``.
        frame_size: Width and height of a picture.
    """

    file: Path
    times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    cuts: list[int] = field(default_factory=list)
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, _FACES)))
    brightness: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    frame_size: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        """Count pictures."""
        return len(self.times)

    def face(self, start: int, stop: int) -> int:
        """Which face is the person's, from ``start`` to ``stop``: that which covers most, over all pictures."""
        return int((self.sizes[start:stop] ** 2).sum(0).argmax())

    def landmarks(self, face: int, start: int, stop: int) -> NDArray[np.float64]:
        """Read landmarks of a face ``[stop - start, 478, 3]``, NaN where it is not found."""
        return self._read(face, start, stop)[:, : VERTICES * 3].reshape(-1, VERTICES, 3)

    def carried(self, face: int, start: int, stop: int) -> NDArray[np.float64]:
        """Read where optical flow has the rigid points of the picture before ``[stop - start, R, 2]``, or NaN."""
        return self._read(face, start, stop)[:, VERTICES * 3 :].reshape(-1, len(RIGID), 2)

    def _read(self, face: int, start: int, stop: int) -> NDArray[np.float64]:
        with self.file.open("rb") as file:
            file.seek(4 * _FACES * _ROW * start)
            numbers = np.fromfile(file, np.float32, _FACES * _ROW * (stop - start))
        return numbers.reshape(-1, _FACES, _ROW)[:, face].astype(np.float64)


class FaceTracker:
    """MediaPipe's face mesh with refined eyes and lips, following faces from picture to picture.

    Raises:
        ImportError: If MediaPipe is not installed.
    """

    def __init__(self) -> None:
        self._mesh = start(
            lambda solutions: solutions.face_mesh.FaceMesh(
                static_image_mode=False, max_num_faces=_FACES, refine_landmarks=True, min_detection_confidence=0.5
            )
        )
        self._known: list[tuple[NDArray[np.float64], float] | None] = [None] * _FACES  # where each was, how wide

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find faces in the next picture: ``[2, 478, 3]`` as in :class:`Track`."""
        import cv2

        height, width = pixels.shape[:2]
        side, scale = max(height, width), 1.0
        if side > _SIDE:
            scale = _SIDE / side
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # its projection of landmarks that are turned takes pictures to be square
        bottom, right = (max(pixels.shape[:2]) - length for length in pixels.shape[:2])
        if bottom or right:
            pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        faces = self._look(pixels, scale)
        if faces:
            for _ in range(_AGAIN):
                faces = self._look(pixels, scale)
        out = np.full((_FACES, VERTICES, 3), np.nan, np.float32)
        for slot, face in self._assign(faces):
            out[slot] = face
        return out

    def _look(self, pixels: NDArray[np.uint8], scale: float) -> list[NDArray[np.float64]]:
        # it warns when it first finds a face
        silence = quiet() if self._known == [None] * _FACES else nullcontext()
        with silence, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # protobuf's deprecation of what MediaPipe calls
            found = self._mesh.process(pixels).multi_face_landmarks or ()
        return [np.array([(p.x, p.y, p.z) for p in face.landmark]) * len(pixels) / scale for face in found]

    def close(self) -> None:
        """Give its threads back."""
        self._mesh.close()

    def _assign(self, faces: list[NDArray[np.float64]]) -> list[tuple[int, NDArray[np.float64]]]:
        """Give each face the place of the one that it continues."""
        centers = [_center(face) for face in faces]
        widths = [_width(face) for face in faces]
        free, left, assigned = set(range(_FACES)), set(range(len(faces))), []
        pairs = [
            (float(np.linalg.norm(centers[k] - known[0]) / max(known[1], 1e-6)), slot, k)
            for slot, known in enumerate(self._known)
            for k in left
            if known is not None
        ]
        for distance, slot, k in sorted(pairs, key=lambda pair: pair[0]):
            if slot in free and k in left and distance < _NEAR:
                assigned.append((slot, k))
                free.discard(slot)
                left.discard(k)
        for k in sorted(left, key=lambda k: -widths[k]):  # new ones: an unused place first, then the one long empty
            if free:
                slot = min(free, key=lambda slot: (self._known[slot] is not None, slot))
                assigned.append((slot, k))
                free.discard(slot)
        for slot, k in assigned:
            self._known[slot] = centers[k], widths[k]
        return [(slot, faces[k]) for slot, k in assigned]


def track(pictures: Pictures, out: Path, progress: Callable[[int], object] = lambda _: None) -> Track:
    """Track the faces of a clip; memory does not grow with its length.

    Args:
        pictures: The clip.
        out: Where landmarks go.
        progress: Called with the number of pictures done.

    Returns:
        Everything but the landmarks.
    """
    tracker, found = FaceTracker(), Track(out)
    times, sizes, brightness = [], [], []
    cuts, flow = _Cuts(), _Flow()
    try:
        with out.open("wb") as file:
            for picture in ahead(pictures):
                faces = tracker(picture.pixels)
                carried = flow.look(picture.pixels, faces)
                file.write(np.concatenate((faces.reshape(_FACES, -1), carried.reshape(_FACES, -1)), 1).tobytes())
                times.append(picture.time)
                sizes.append([0.0 if np.isnan(face[0, 0]) else _width(face) for face in faces])
                brightness.append(cuts.look(picture.pixels))
                found.frame_size = picture.pixels.shape[1], picture.pixels.shape[0]
                progress(len(times))
    finally:
        tracker.close()
    found.times, found.sizes = np.array(times), np.array(sizes).reshape(-1, _FACES)
    found.brightness, found.cuts = np.array(brightness), cuts.found
    return found


class _Flow:
    """Follows the rigid points of each face from the picture before."""

    def __init__(self) -> None:
        self._before: tuple[NDArray[np.uint8], NDArray[np.float64]] | None = None

    def look(self, pixels: NDArray[np.uint8], faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Look at the next picture, and at where its faces are: ``[2, R, 2]``, NaN where nothing can be followed."""
        import cv2

        scale = min(_SIDE / max(pixels.shape[:2]), 1.0)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        carried = np.full((_FACES, len(RIGID), 2), np.nan, np.float32)
        if self._before is not None and self._before[0].shape == grey.shape:
            before, points = self._before
            for slot in np.flatnonzero(np.isfinite(points[:, 0, 0])):
                carried[slot] = carry(before, grey, points[slot] * scale) / scale
        self._before = grey, faces[:, list(RIGID), :2].astype(np.float64)
        return carried


class _Cuts:
    """Compares each picture with the one before, small and grey."""

    def __init__(self) -> None:
        self.found: list[int] = []
        self._count = 0
        self._before: NDArray[np.float32] | None = None
        self._usual = 0.0  # difference between neighbours lately

    def look(self, pixels: NDArray[np.uint8]) -> float:
        """Look at the next picture; returns its brightness."""
        import cv2

        small = cv2.resize(pixels, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32).mean(2)
        if self._before is not None:
            change = float(np.abs(small - self._before).mean())
            if change > max(_CUT, _CUT_RATIO * self._usual):
                self.found.append(self._count)
            else:
                self._usual += 0.2 * (change - self._usual)
        self._before = small
        self._count += 1
        return float(small.mean())


def _center(face: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(face[list(OVAL), :2].mean(0), np.float64)


def _width(face: NDArray[np.floating[Any]]) -> float:
    """Across the face, from ear to ear or from forehead to chin, whichever is longer."""
    return float(np.linalg.norm(np.ptp(face[list(OVAL), :2], axis=0)) / 2**0.5)
