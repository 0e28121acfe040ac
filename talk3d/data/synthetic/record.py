"""Films a performance: pictures, video, and the truth beside it. Imports numba, hence is imported late."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from talk3d import cameras
from talk3d.data.synthetic.compiled import find_landmarks, render
from talk3d.data.synthetic.motion import CAMERA, FOCAL, OFFSET, RELIEF, Performance
from talk3d.data.synthetic.speech import RATE, Utterance
from talk3d.data.synthetic.truth import LABELS, LANDMARKS, FrameWriter

__all__ = ["SCALE", "SHIFT", "film"]

SCALE, SHIFT = 0.027, (0.0, 0.020, 0.107)  # generator units = SCALE * centimetres of the head's frame + SHIFT
VIEWS = (-45.0, -30.0, 30.0, 45.0)
_HELD_OUT, _VIEWED = 0.1, 12  # share of the clip at its end, and how many of its frames are seen from elsewhere
_CENTER = np.array([0.0, 0.0, 0.0])  # of the head's frame, about which those cameras turn
_CONVENTIONS = {
    "head frame": "centimetres; x to the person's left, y up, z out of the face; outer eye corners near (±4.46, 2.65)",
    "world": "centimetres; axes as the head's frame has them when it faces the camera; the camera does not move",
    "camera": "OpenCV axes; matrices map camera coordinates to the frame that is named; intrinsics in picture units",
    "generator units": f"{SCALE} * (centimetres in the head's frame) + {SHIFT}: cameras [25] are in these",
    "angles": "degrees, talk3d.cameras.angles of the camera in the head's frame: yaw, pitch, roll",
    "depth": "along the optical axis at pixel centres, hundredths of a centimetre, uint16, 0 is background",
    "labels": "what is seen at pixel centres",
    "landmarks_2d": "x and y from 0 to 1 from the upper left corner of the picture",
}


def film(
    folder: Path,
    performance: Performance,
    utterance: Utterance,
    size: int,
    fps: Fraction,
    about: dict[str, Any],
    progress: Callable[[int, int], object],
) -> None:
    """Write ``clip.mp4``, ``speech.wav`` and ``truth/`` into a folder that exists.

    Args:
        folder: Where to.
        performance: What is seen.
        utterance: What is heard, as long as that.
        size: Pixels along a side.
        fps: Frames a second.
        about: What is also said in ``truth.json``.
        progress: Called with the number of pictures that are made, and of all.
    """
    truth = folder / "truth"
    truth.mkdir()
    soundfile.write(folder / "speech.wav", utterance.samples, RATE, subtype="PCM_16")
    motion = _motion(performance)
    np.savez(truth / "motion.npz", **motion)
    record = {**about, "labels": LABELS, "landmarks": LANDMARKS, "frames": len(performance.times), "focal": FOCAL}
    record |= {"size": size, "fps": float(fps), "text": utterance.text, "conventions": _CONVENTIONS}
    record["phonemes"] = list(zip(utterance.phonemes, utterance.starts.tolist(), strict=True))
    (truth / "truth.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plate, jobs = make_plate(size), _view_jobs(motion)
    total = len(performance.times) + len(jobs)
    with ThreadPoolExecutor(_workers()) as pool:
        for done in _film_clip(folder, performance, utterance, plate, fps, pool):
            progress(done, total)
        for done in _film_views(truth / "views.npz", performance, motion, plate, jobs, pool):
            progress(len(performance.times) + done, total)


def make_plate(size: int) -> NDArray[np.float32]:
    """Make the background ``[size, size, 3]``, 0 to 1: a wall out of focus, a window's light, a shelf and a plant."""
    v, u = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    wall = np.array([0.78, 0.75, 0.70]) - 0.16 * v[..., None] + 0.10 * (1 - u[..., None]) * np.array([1, 0.95, 0.8])
    for (cu, cv), (su, sv), color, weight in (
        ((0.13, 0.22), (0.13, 0.20), (1.0, 0.97, 0.88), 0.65),
        ((0.88, 0.30), (0.11, 0.035), (0.50, 0.37, 0.27), 0.75),
        ((0.83, 0.20), (0.035, 0.075), (0.28, 0.40, 0.46), 0.75),
        ((0.93, 0.21), (0.04, 0.065), (0.66, 0.36, 0.27), 0.75),
        ((0.08, 0.62), (0.09, 0.14), (0.30, 0.43, 0.30), 0.65),
        ((0.95, 0.66), (0.12, 0.16), (0.55, 0.53, 0.52), 0.6),
    ):
        inside = ((u - cu) / su) ** 4 + ((v - cv) / sv) ** 4
        wall += (weight / (1 + inside**2))[..., None] * (np.array(color) - wall)
    return wall.astype(np.float32)


def _motion(performance: Performance) -> dict[str, NDArray[Any]]:
    """The arrays of :class:`.truth.Truth` that hold one row a frame."""
    scenes = [performance.scene(frame) for frame in range(len(performance.times))]
    landmarks = np.array([find_landmarks(face, neck) for face, neck, *_ in scenes]).reshape(-1, len(LANDMARKS), 3)
    landmarks[..., 2] = RELIEF * landmarks[..., 2] + OFFSET
    pose, face = performance.head_to_world, performance.face
    cam2head = np.linalg.inv(pose) @ CAMERA
    seen = np.einsum("nij,nlj->nli", pose[:, :3, :3], landmarks) + pose[:, None, :3, 3]
    seen = (seen - CAMERA[:3, 3]) @ CAMERA[:3, :3]
    intrinsics = cameras.intrinsics(torch.tensor(FOCAL, dtype=torch.float64)).numpy()
    count = len(performance.times)
    return {
        "angles": performance.angles,
        "head_to_world": pose,
        "torso_to_world": performance.torso_to_world,
        "cam2world": CAMERA,
        "cam2head": cam2head,
        "intrinsics": intrinsics,
        "cameras": _generator_cameras(cam2head, intrinsics),
        "landmarks": landmarks,
        "landmarks_2d": FOCAL * seen[..., :2] / seen[..., 2:] + 0.5,
        "eye_opening": face[:, 4:6],
        "mouth_opening": face[:, 0],
        "mouth_width": 2 * face[:, 1],
        "mouth_rounding": face[:, 2],
        "blinks": performance.blinks,
        "held_out": np.arange(count - max(round(_HELD_OUT * count), 1), count),
    }


def _generator_cameras(cam2head: NDArray[np.float64], intrinsics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Camera vectors ``[N, 25]`` in generator units of poses ``[N, 4, 4]`` in centimetres."""
    poses = cam2head.copy()
    poses[:, :3, 3] = SCALE * poses[:, :3, 3] + np.array(SHIFT)
    return cameras.pack(torch.from_numpy(poses), torch.from_numpy(intrinsics)).numpy()


def _film_clip(
    folder: Path,
    performance: Performance,
    utterance: Utterance,
    plate: NDArray[np.float32],
    fps: Fraction,
    pool: ThreadPoolExecutor,
) -> Iterator[int]:
    """Write the video and its frames' labels, alpha and depth; yields how many frames there are."""
    writer = FrameWriter(folder / "truth" / "frames.npz")
    writer.add("plate", (plate * 255 + 0.5).astype(np.uint8))
    size, camera = len(plate), _flat(CAMERA)

    def draw(frame: int) -> tuple[NDArray[Any], ...]:
        return render(camera, FOCAL, performance.scene(frame), plate)

    with av.open(str(folder / "clip.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "fast"})
        video.width, video.height, video.pix_fmt = size, size, "yuv420p"
        video.codec_context.thread_count = 1  # x264's result depends on it
        audio = file.add_stream("aac", rate=RATE, layout="mono")
        audio.bit_rate = 96_000
        for frame, (color, alpha, labels, depth) in enumerate(_ordered(draw, range(len(performance.times)), pool)):
            file.mux(video.encode(av.VideoFrame.from_ndarray(color, format="rgb24")))
            for name, array in (("alpha", alpha), ("labels", labels), ("depth", depth)):
                writer.add(f"{name}/{frame:06d}", array)
            yield frame + 1
        file.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(utterance.samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.time_base = RATE, Fraction(1, RATE)
        sound.pts = 0  # else the encoder's delay of 1024 samples goes unsaid, and the sound is late by it
        file.mux(audio.encode(sound))
        file.mux(audio.encode(None))
    writer.close()


def _film_views(
    path: Path,
    performance: Performance,
    motion: dict[str, NDArray[Any]],
    plate: NDArray[np.float32],
    jobs: list[tuple[int, float]],
    pool: ThreadPoolExecutor,
) -> Iterator[int]:
    """Write frames as cameras see them that turned about the head; yields how many there are."""
    poses = np.array([_orbit(motion["cam2head"][frame], yaw) for frame, yaw in jobs])

    def draw(index: int) -> tuple[NDArray[Any], ...]:
        frame = jobs[index][0]
        in_world = _flat(performance.head_to_world[frame] @ poses[index])
        return render(in_world, FOCAL, performance.scene(frame), plate)

    writer = FrameWriter(path)
    writer.add("frame", np.array([frame for frame, _ in jobs]))
    writer.add("yaw", np.array([yaw for _, yaw in jobs]))
    writer.add("camera", _generator_cameras(poses, motion["intrinsics"]))
    for index, pixels in enumerate(_ordered(draw, range(len(jobs)), pool)):
        for name, array in zip(("image", "alpha", "labels", "depth"), pixels, strict=True):
            writer.add(f"{name}/{index:03d}", array)
        yield index + 1
    writer.close()


def _view_jobs(motion: dict[str, NDArray[Any]]) -> list[tuple[int, float]]:
    """Frames of the last tenth, and by how much cameras are turned that see them."""
    held_out = motion["held_out"]
    chosen = held_out[np.unique(np.linspace(0, len(held_out) - 1, _VIEWED).round().astype(int))]
    return [(int(frame), yaw) for frame in chosen for yaw in VIEWS]


def _orbit(pose: NDArray[np.float64], yaw: float) -> NDArray[np.float64]:
    """Turn a camera about the vertical axis of the frame that it is given in."""
    angle, turn = np.radians(yaw), np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(angle)
    turn[0, 2], turn[2, 0] = np.sin(angle), -np.sin(angle)
    turn[:3, 3] = _CENTER - turn[:3, :3] @ _CENTER
    return turn @ pose


def _flat(pose: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(pose[:3].ravel().tolist())


def _workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ordered(draw: Callable[[int], Any], jobs: range, pool: ThreadPoolExecutor) -> Iterator[Any]:
    """Do jobs on all cores (numba lets go of the interpreter) and yield results in order, a few in flight."""
    flight: deque[Future[Any]] = deque()
    for job in jobs:
        flight.append(pool.submit(draw, job))
        if len(flight) > 2 * _workers():
            yield flight.popleft().result()
    while flight:
        yield flight.popleft().result()
