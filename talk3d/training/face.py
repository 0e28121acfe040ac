"""The personal face mesh as training sees it: which of its vertices hold still, and how deep they are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from talk3d.data.facemesh import CHIN, EYES, LIPS, NOSE_TIP, OVAL
from talk3d.models.scene import View
from talk3d.training import losses

__all__ = ["FaceMesh"]

_SURFACE = 468  # vertices of the face; the rest are irises
_SLACK = 0.006  # 2 mm: how far the mesh may be off
_FACING = 0.5  # cosine below which a pixel sees all kinds of depth
_JAW = 0.5  # share of the way from the chin to the nose in which speech moves the face


class FaceMesh:
    """A personal face mesh at rest.

    Args:
        positions: World coordinates ``[478, 3]``, MediaPipe's vertices.

    Attributes:
        normals: Out of the face ``[478, 3]``, from Delaunay's triangles of its front view; irises have none.
        still: Whether a vertex is neither lip nor lid, nor on the outline ``[478]``.
        rigid: Whether it is above the jaw besides ``[478]``.
    """

    def __init__(self, positions: Float[Tensor, "vertex 3"]) -> None:
        self.positions = positions
        self.normals = _normals(positions)
        moving = [*LIPS, *OVAL, *EYES[0], *EYES[1], *range(_SURFACE, len(positions))]
        self.still = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
        self.still[moving] = False
        chin, nose = positions[CHIN, 1], positions[NOSE_TIP, 1]
        self.rigid = self.still & (positions[:, 1] > chin + _JAW * (nose - chin))

    def to(self, device: torch.device | str) -> FaceMesh:
        """Move it."""
        return FaceMesh(self.positions.to(device))

    def depth_error(self, view: View, camera: Float[Tensor, "1 25"]) -> Tensor:
        """By how much a view's depth is off by more than 2 mm where still vertices are seen: mean over these."""
        where = losses.project(self.positions[None], camera)
        depth = grid_sample(view.depth, (2 * where - 1)[:, None], align_corners=False)[0, 0, 0]
        toward = camera[0, :16].view(4, 4)[:3, 3] - self.positions
        wanted = toward.norm(dim=1)
        facing = (toward * self.normals).sum(1) / wanted
        seen = self.still & (facing > _FACING) & ((where[0] - 0.5).abs() < 0.49).all(1)
        return (((depth - wanted).abs() - _SLACK).clamp(min=0) * seen).sum() / seen.sum().clamp(min=1)


def _normals(positions: Tensor) -> Tensor:
    from scipy.spatial import Delaunay  # scipy takes a second to import

    surface = positions[:_SURFACE]
    triangles = torch.from_numpy(Delaunay(surface[:, :2].cpu().double().numpy()).simplices).long()
    a, b, c = surface[triangles.to(positions.device)].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    across = across * across[:, 2:].sign()
    total = torch.zeros_like(positions)
    for corner in triangles.to(positions.device).unbind(1):
        total.index_add_(0, corner, across)
    return normalize(total, dim=1)
