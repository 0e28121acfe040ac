"""How a head moves: what a clip showed of it, and what is made up where no clip is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from talk3d import cameras

__all__ = ["FPS", "Motion", "imagine", "ping_pong"]

FPS = 25  # frames a second of everything that moves

# tip of the nose and outer corners of the left and the right eye in MediaPipe's canonical face (cm), and how that lies
# in a generator's world
_FACE = torch.tensor([[0.0, -1.127, 7.476], [4.446, 2.664, 3.173], [-4.446, 2.664, 3.173]])
_SCALE, _SHIFT = 0.027, torch.tensor([0.0, 0.020, 0.107])
_SHARE = 0.45  # of an uncropped frame's width that a face crop takes up in a usual talking-head clip

# degrees, seconds and phase of each wave: a listener's small movements, which never repeat together
_YAW = ((5.0, 7.3, 0.0), (2.0, 3.1, 1.0))
_PITCH = ((2.0, 5.7, 2.0), (1.0, 2.3, 0.5))
_ROLL = ((1.5, 9.1, 1.5),)
_BLINK = (0.4, 1.0, 1.0, 0.7, 0.35, 0.1)  # a sixth of a second down and up: eyes close faster than they open
_BLINK_EVERY = 4.1  # seconds, give or take one


_SHAPES = {"cameras": (25,), "angles": (3,), "blink": (), "landmarks": (3, 2), "crops": (2, 3)}  # of a frame


class Motion(NamedTuple):
    """Frames of a head that moves, 25 a second.

    Attributes:
        cameras: The crop's camera, float32 ``[N, 25]``; see :mod:`talk3d.cameras`.
        angles: Pitch, yaw and roll of the head in degrees ``[N, 3]``.
        blink: Mean of both eyes, 0 (open) to 1 (closed) ``[N]``.
        landmarks: Nose tip and outer corners of the left and the right eye in the uncropped frame ``[N, 3, 2]``: from
            its middle, in halves of its width.
        crops: Pixels of the uncropped frame to the crop, whose sides are 1, float64 ``[N, 2, 3]``.
    """

    cameras: Float[Tensor, "frame 25"]
    angles: Float[Tensor, "frame 3"]
    blink: Float[Tensor, " frame"]
    landmarks: Float[Tensor, "frame 3 2"]
    crops: Float[Tensor, "frame 2 3"]

    def damage(self) -> str | None:
        """What is wrong with numbers that come from a file, or None."""
        count = len(self.blink) if self.blink.ndim else 0
        for name, part in self._asdict().items():
            wanted = (count, *_SHAPES[name])
            if not count or tuple(part.shape) != wanted or not part.is_floating_point():
                return f"{name} must be of a floating type and of shape {list(wanted)}, got {list(part.shape)}"
            if not part.isfinite().all():
                return f"{name} has numbers that are not finite"
        if not (torch.linalg.det(self.crops[:, :, :2]).abs() > 0).all():
            return "crops has a matrix that cannot be inverted"
        return None

    def at(self, frames: Sequence[int] | Int[Tensor, " frame"]) -> Motion:
        """Choose frames."""
        return Motion(*(part[torch.as_tensor(frames)] for part in self))


def ping_pong(frames: range, length: int) -> list[int]:
    """Map endless frames onto ``length`` of them, forth and back, so that nothing jumps: 0 1 2 1 0 1 2 ...

    Raises:
        ValueError: If ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}")
    period = max(2 * (length - 1), 1)
    return [min(frame % period, period - frame % period) if length > 1 else 0 for frame in frames]


def imagine(
    frames: range,
    *,
    focal: float,
    radius: float = cameras.RADIUS,
    pivot: tuple[float, float, float] = cameras.FFHQ_PIVOT,
) -> Motion:
    """Make up a quiet motion: slow sway, and blinks every few seconds. A frame depends on its number alone.

    Args:
        frames: Which frames.
        focal: Of the crop's camera; see :func:`talk3d.cameras.intrinsics`.
        radius: Distance of the crop's camera.
        pivot: Where it looks.
    """
    seconds = torch.tensor(list(frames), dtype=torch.float64) / FPS
    yaw, pitch, roll = (_wave(seconds, waves) for waves in (_YAW, _PITCH, _ROLL))
    # crops are upright; the uncropped frame, in which angles and landmarks are measured, sees the head roll
    level, rolled = (cameras.look_at(yaw, pitch, r, radius=radius, pivot=pivot).float() for r in (0.0, roll))
    vectors = cameras.pack(level, cameras.intrinsics(focal))
    points = torch.cat([_FACE * _SCALE + _SHIFT, torch.ones(3, 1)], dim=1)
    seen = torch.linalg.inv(rolled) @ points.T  # [N, 4, 3]
    landmarks = (focal * seen[:, :2] / seen[:, 2:3]).mT * (2 * _SHARE)
    crop = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64).expand(len(frames), 2, 3)
    angles = torch.stack([pitch, yaw, roll], dim=1).float()
    return Motion(vectors, angles, torch.tensor([_closed(frame) for frame in frames]), landmarks, crop)


def _wave(seconds: Tensor, waves: Sequence[tuple[float, float, float]]) -> Tensor:
    parts = [size * torch.sin(2 * math.pi * seconds / period + phase) for size, period, phase in waves]
    return torch.stack(parts).sum(0)


def _closed(frame: int) -> float:
    """How far the eyes are closed in a frame."""
    number = int(frame / (_BLINK_EVERY * FPS))
    # the golden ratio spreads the beginnings without a pattern that is seen
    begin = round((number + 0.25 + 0.5 * (number * 0.618034 % 1)) * _BLINK_EVERY * FPS)
    since = frame - begin
    return _BLINK[since] if 0 <= since < len(_BLINK) else 0.0
