"""How the head moves: pose, blinks, gaze and breath, frame by frame; no picture yet.

Frames and units are those of the package's docstring: centimetres, degrees, y up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from talk3d import cameras
from talk3d.data.synthetic.speech import Utterance, mouth

__all__ = ["CAMERA", "FOCAL", "LIMITS", "Performance", "Track", "perform"]

Array = NDArray[np.float64]
Track = Literal["talk", "wide", "still"]

# largest yaw, pitch and roll, degrees
LIMITS: dict[str, tuple[float, float, float]] = {"talk": (15, 10, 4), "wide": (30, 20, 5), "still": (5, 5, 1.5)}
FOCAL = 2.7  # picture widths: at 100 cm, 37 cm are seen
CAMERA = np.array([[1.0, 0, 0, 0], [0, -1, 0, -1.5], [0, 0, -1, 100], [0, 0, 0, 1]])  # cam2world, for every frame
CAMERA.flags.writeable = False

# the head is drawn flatter than it is: point X of the head's frame is drawn at (X - (0, 0, OFFSET)) / (1, 1, RELIEF).
# Trackers of faces expect a deep relief, and take a flatter face for one that turns less.
RELIEF, OFFSET = 1.2, -0.6

_PIVOT = np.array([0.0, -7.0, -4.0])  # the head turns about the top of the neck
_NECK = np.array([0.0, -18.0, -5.5])  # where the neck leaves the torso
_SPEED = 58.0  # degrees a second, the fastest
_OPEN = 1.8  # centimetres between the lips at opening 1
_BLINK = 0.07, 0.06, 0.14  # seconds to close, to stay closed, to open
# keys of yaw, pitch and roll in shares of the limits: all extremes within the first ten seconds
_KEYS = ((0, 0, 0), (1, 0.2, 0.5), (-1, -0.3, -1), (0.2, 1, 0), (-0.4, -1, 0.3), (0.6, -0.2, 1), (-0.7, 0.5, -0.4))


@dataclass(frozen=True)
class Performance:
    """What the head does in N frames.

    Attributes:
        times: Seconds ``[N]``.
        angles: Yaw, pitch and roll of the camera in the head's frame, degrees ``[N, 3]``.
        head_to_world: ``[N, 4, 4]``.
        torso_to_world: ``[N, 4, 4]``.
        face: What :mod:`.head` calls the face of the moment ``[N, 9]``.
        blinks: First and last frame, and the middle in seconds, of each blink ``[B, 3]``.
    """

    times: Array
    angles: Array
    head_to_world: Array
    torso_to_world: Array
    face: Array
    blinks: Array

    def scene(self, frame: int) -> tuple[tuple[float, ...], ...]:
        """Face, neck, world to head and world to torso of a frame, as :func:`.picture.render` takes them."""
        to_head, to_torso = (np.linalg.inv(pose[frame]) for pose in (self.head_to_world, self.torso_to_world))
        to_head[2] = (to_head[2] - [0, 0, 0, OFFSET]) / RELIEF
        neck = to_head[:3, :3] @ _NECK + to_head[:3, 3]
        return tuple(tuple(part.ravel().tolist()) for part in (self.face[frame], neck, to_head[:3], to_torso[:3]))


def perform(track: Track, utterance: Utterance, fps: float) -> Performance:
    """Act out an utterance.

    Args:
        track: How far the head turns: :data:`LIMITS`.
        utterance: What is said, and for how long.
        fps: Frames a second.

    Returns:
        As many frames as fit.
    """
    assert track in get_args(Track)
    times = np.arange(round(utterance.seconds * fps)) / fps
    turns = _turns(track, times)
    angles = turns * np.array(LIMITS[track])
    opening, width = mouth(utterance, times)
    lids, blinks = _blinks(times)
    face = np.zeros((len(times), 9))
    # lips that part at all part by some millimetres
    face[:, 0] = _OPEN * opening**0.65 * (1 - 0.35 * np.clip(-width, 0, 1))
    face[:, 1] = 2.45 + np.where(width > 0, 0.3, 0.85) * width
    face[:, 2] = np.clip(-width, 0, 1)
    face[:, 3] = 0.85 * face[:, 0]
    face[:, 4] = face[:, 5] = lids
    # the eyes keep to the camera half-way; lids follow a look down
    face[:, 6], face[:, 7] = 0.006 * angles[:, 0], np.clip(0.006 * angles[:, 1], -0.12, 0.12)
    face[:, 8] = 0.12 * _blurred_random(times, seed=5)
    to_world = _place(angles, times)
    sway = np.tile(np.eye(4), (len(times), 1, 1))
    yaw = np.radians(-0.06 * angles[:, 0])
    sway[:, 0, 0] = sway[:, 2, 2] = np.cos(yaw)
    sway[:, 0, 2], sway[:, 2, 0] = np.sin(yaw), -np.sin(yaw)
    sway[:, 1, 3] = 0.12 * np.sin(2 * np.pi * times / 4.1)  # breath
    return Performance(times, angles, to_world, sway, face, blinks)


def _turns(track: Track, times: Array) -> Array:
    """Yaw, pitch and roll in shares of the limits: swift and slow turns between which the head rests for a second."""
    limits, random = np.array(LIMITS[track], float), np.random.default_rng(7)
    end = times[-1] if len(times) else 0.0
    now, at = 0.8, np.zeros(3)
    knots = [(0.0, at), (now, at)]
    count = 1
    while now < end:
        key = _KEYS[count] if count < len(_KEYS) else random.uniform(-1, 1, 3)
        target = np.array(key, float)
        pace = 1.0 if count % 3 == 2 else random.uniform(0.35, 0.8)
        # the fastest moment of a turn is 1.875 times its mean
        took = max(1.875 * float(np.linalg.norm((target - at) * limits)) / (_SPEED * pace), 0.3)
        now, at = now + took, target
        knots.append((now, at))
        if count % 2 == 0:
            now += random.uniform(0.9, 1.3)
            knots.append((now, at))
        count += 1
    out = np.empty((len(times), 3))
    starts = np.array([time for time, _ in knots])
    for i, time in enumerate(times):
        k = min(int(np.searchsorted(starts, time, side="right")) - 1, len(knots) - 2)
        (t0, a), (t1, b) = knots[k], knots[k + 1]
        s = min((time - t0) / (t1 - t0), 1.0)
        out[i] = a + (b - a) * s**3 * (10 - 15 * s + 6 * s * s)  # least jerk
    return out


def _place(angles: Array, times: Array) -> Array:
    """Poses head to world ``[N, 4, 4]`` in which the camera sees the head under these angles."""
    yaw, pitch, roll = torch.from_numpy(angles).unbind(1)
    seen = cameras.look_at(yaw, pitch, roll).numpy()[:, :3, :3]  # axes of the camera in the head's frame
    pose = np.tile(np.eye(4), (len(times), 1, 1))
    pose[:, :3, :3] = CAMERA[:3, :3] @ seen.transpose(0, 2, 1)
    # leaning goes with turning, so that a head at rest rests
    lean = np.stack([-0.05 * angles[:, 0], 0.01 * np.abs(angles[:, 0]), -0.06 * angles[:, 1]], axis=1)
    pose[:, :3, 3] = _PIVOT + lean - pose[:, :3, :3] @ _PIVOT
    return pose


def _blinks(times: Array) -> tuple[Array, Array]:
    """How far the eyes are open, 0 to 1, and the blinks as of :class:`Performance`."""
    random, close, stay, part = np.random.default_rng(11), *_BLINK
    lids, blinks, begin = np.ones(len(times)), [], 1.1
    while len(times) and begin + sum(_BLINK) < times[-1]:
        t = times - begin
        shut = np.clip(np.minimum(t / close, 1 - (t - close - stay) / part), 0, 1)
        lids = np.minimum(lids, 1 - shut * shut * (3 - 2 * shut))
        inside = np.flatnonzero(shut > 0.5)
        if len(inside):  # at few frames a second, no frame may show it
            blinks.append((inside[0], inside[-1], begin + close + stay / 2))
        begin += random.uniform(1.6, 3.8)
    return lids, np.array(blinks, float).reshape(-1, 3)


def _blurred_random(times: Array, seed: int) -> Array:
    """Slow random waves, -1 to 1 or so."""
    random = np.random.default_rng(seed)
    periods, phases = random.uniform(2.5, 7, 4), random.uniform(0, 2 * np.pi, 4)
    return np.sin(2 * np.pi * times[:, None] / periods + phases).mean(1) * 1.5
