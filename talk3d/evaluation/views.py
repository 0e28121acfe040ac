"""Cameras that stand still, where the clip has none: the novel views of Talk3D's protocol."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d import cameras
from talk3d.models.scene import SceneConfig

__all__ = ["VIEWS", "View", "novel_views"]

VIEWS = ((-30, -20), (-15, -10), (15, 10), (30, 20))  # yaw and pitch, degrees; published pitch grows downwards


class View(NamedTuple):
    """A camera.

    Attributes:
        title: Yaw and pitch as published.
        yaw: From where it sees the face, degrees, see :mod:`talk3d.cameras`.
        pitch: The same, upwards.
        camera: Camera vector ``[25]``.
    """

    title: str
    yaw: float
    pitch: float
    camera: Float[Tensor, " 25"]


def novel_views(config: SceneConfig, *, published: bool) -> list[View]:
    """The four cameras of Talk3D's protocol.

    Args:
        config: Of the avatar: its frontal camera's focal length, radius and pivot.
        published: Place them by EG3D's formula, as published numbers have them, whose 20 degrees of pitch are 12.8
            around the world's origin. Otherwise by true angles of the line of sight, to the same sides.
    """
    views = []
    for yaw, down in VIEWS:
        place = {"radius": config.radius, "pivot": config.pivot}
        if published:
            h, v = (torch.tensor(math.pi / 2 + math.radians(angle)) for angle in (yaw, down))
            pose = cameras.look_at_eg3d(h, v, **place)  # type: ignore[arg-type]  # mypy mixes the values' types
        else:
            pose = cameras.look_at(float(yaw), float(-down), **place)  # type: ignore[arg-type]  # the same
        seen_yaw, seen_pitch, _ = (round(float(angle), 3) for angle in cameras.angles(pose))
        title = f"({yaw:+d}°, {down:+d}°)"
        views.append(View(title, seen_yaw, seen_pitch, cameras.pack(pose, cameras.intrinsics(config.focal))))
    return views
