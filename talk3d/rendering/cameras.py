"""Where the camera is: ``track``, ``orbit:30,15``, ``fixed:20,0``, or a JSON file with keyframes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from talk3d import cameras
from talk3d.models.scene import SceneConfig
from talk3d.motion import FPS, Motion

__all__ = ["CameraPath", "camera_path"]

CameraPath = Callable[[range, Motion], Tensor]
"""Frames, and how the head moves in them, to camera vectors ``[N, 25]``."""

_TURN = 4.8  # seconds: the published orbit


def camera_path(spec: str, config: SceneConfig) -> CameraPath:
    """Read a camera as the command line names it.

    - ``track``: as in the clip.
    - ``orbit`` or ``orbit:YAW,PITCH``: around the frontal view in 4.8 s, by default by 30 and 15 degrees.
    - ``fixed:YAW,PITCH``: one view.
    - a ``.json`` file: ``{"keyframes": [{"time": 0, "yaw": -20, "pitch": 0}, {"time": 2.5, "yaw": 20, "pitch": 5}]}``,
      seconds and degrees, with smooth motion between and standstill before and after; or ``{"cameras": [[...], ...]}``,
      25 numbers for each frame, gone through again and again.

    Angles are those of :func:`talk3d.cameras.look_at`. What the head does, and the tokens that say so, is the clip's
    motion whatever the camera: a turned view shows torso and hair as they are in the clip's frames.

    Raises:
        ValueError: If it is none of these, or the file is damaged or has numbers that are not finite.
    """
    kind, _, rest = spec.partition(":")
    if spec == "track":
        return lambda frames, motion: motion.cameras
    if spec.lower().endswith(".json"):
        return _from_file(Path(spec), config)
    if kind == "fixed":
        vector = config.camera(*_pair(spec, rest))
        return lambda frames, motion: vector.expand(len(frames), -1)
    if kind == "orbit":
        yaw, pitch = _pair(spec, rest) if rest else (30.0, 15.0)

        def orbit(frames: range, motion: Motion) -> Tensor:
            phase = torch.tensor(list(frames), dtype=torch.float64) * (2 * math.pi / (_TURN * FPS))
            return _look(yaw * phase.sin(), pitch * phase.cos(), torch.zeros_like(phase), config)

        return orbit
    raise ValueError(f"a camera is track, orbit, orbit:YAW,PITCH, fixed:YAW,PITCH or a .json file, not {spec!r}")


def _pair(spec: str, text: str) -> tuple[float, float]:
    try:
        yaw, pitch = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{spec!r} must have two numbers after the colon: yaw and pitch in degrees") from None
    if not (math.isfinite(yaw) and math.isfinite(pitch)):
        raise ValueError(f"{spec!r}: yaw and pitch must be finite")
    return yaw, pitch


def _from_file(path: Path, config: SceneConfig) -> CameraPath:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (RecursionError, ValueError):
        raise ValueError(f"{path} is not JSON") from None
    if isinstance(found, dict) and "cameras" in found:
        vectors = _numbers(path, "cameras", found["cameras"], width=25)
        return lambda frames, motion: vectors[[frame % len(vectors) for frame in frames]].float()
    if not isinstance(found, dict) or not isinstance(found.get("keyframes"), list):
        raise ValueError(f"{path} has neither keyframes nor cameras")
    if not all(isinstance(key, dict) for key in found["keyframes"]):
        raise ValueError(f"{path}: each of its keyframes must be an object with time, yaw, pitch")
    rows = [[key.get(name, 0.0) for name in ("time", "yaw", "pitch", "roll")] for key in found["keyframes"]]
    times, *turns = _numbers(path, "keyframes", rows, width=4).T.numpy()
    if (np.diff(times) <= 0).any():
        raise ValueError(f"{path}: the times of its keyframes must grow")

    def keyed(frames: range, motion: Motion) -> Tensor:
        from scipy.interpolate import PchipInterpolator  # takes a second to import

        seconds = np.clip(np.array(frames) / FPS, times[0], times[-1])
        yaw, pitch, roll = (
            torch.from_numpy(PchipInterpolator(times, turn)(seconds) if len(times) > 1 else turn.repeat(len(frames)))
            for turn in turns
        )
        return _look(yaw, pitch, roll, config)

    return keyed


def _numbers(path: Path, name: str, rows: object, width: int) -> Float[Tensor, "row width"]:
    try:
        found = torch.tensor(rows, dtype=torch.float64)
    except (OverflowError, TypeError, ValueError, RuntimeError):
        raise ValueError(f"{path}: its {name} are not numbers") from None
    if found.ndim != 2 or found.shape[1] != width or not len(found):
        raise ValueError(f"{path}: its {name} must be rows of {width} numbers")
    if not found.float().isfinite().all():
        raise ValueError(f"{path}: its {name} have a number that is not finite")
    return found


def _look(yaw: Tensor, pitch: Tensor, roll: Tensor, config: SceneConfig) -> Tensor:
    poses = cameras.look_at(yaw, pitch, roll, radius=config.radius, pivot=config.pivot)
    return cameras.pack(poses.float(), cameras.intrinsics(config.focal))
