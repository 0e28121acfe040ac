"""Cameras of a track that may be refined: six degrees of freedom for each frame."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from talk3d import cameras as cams
from talk3d.poses import make_pose
from talk3d.training.precision import full_precision

__all__ = ["CameraTrack", "rotation"]


class CameraTrack(nn.Module):
    """Tracked cameras, each with a small correction that can be learned.

    A correction turns the camera about the world's origin, where the head is, and then moves it; so that turning does
    not also shift the picture.

    Args:
        cameras: Camera vectors ``[N, 25]``.

    Attributes:
        correction: ``[N, 6]``: a rotation vector in radians, then a shift in units of the world; zero at first.
    """

    tracked: Tensor

    def __init__(self, cameras: Float[Tensor, "frame 25"]) -> None:
        super().__init__()
        # what a checkpoint need not hold: it is the dataset's
        self.register_buffer("tracked", cameras.clone(), persistent=False)
        self.correction = nn.Parameter(torch.zeros(len(cameras), 6, device=cameras.device))

    def forward(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch 25"]:
        """Cameras of frames ``[B]``."""
        return self.corrected(index, self.correction[index])

    @full_precision
    def corrected(
        self, index: Int[Tensor, " batch"], correction: Float[Tensor, "batch 6"]
    ) -> Float[Tensor, "batch 25"]:
        """Cameras of frames ``[B]`` with other corrections than their own."""
        poses, intrinsics = cams.unpack(self.tracked[index])
        turn, shift = correction.split(3, dim=1)
        turned = rotation(turn)
        position = (turned @ poses[:, :3, 3:])[..., 0] + shift
        return cams.pack(make_pose(turned @ poses[:, :3, :3], position), intrinsics)


@full_precision
def rotation(vector: Tensor) -> Tensor:
    """Rotation vectors ``[B, 3]`` to matrices ``[B, 3, 3]``."""
    zero = torch.zeros_like(vector[:, 0])
    x, y, z = vector.unbind(1)
    across = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), 1).unflatten(1, (3, 3))
    # Rodrigues' formula; at no angle its length has no slope
    angle = vector.square().sum(1).clamp(min=1e-12).sqrt()[:, None, None] / math.pi
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + torch.sinc(angle) * across + torch.sinc(angle / 2).square() / 2 * across @ across
