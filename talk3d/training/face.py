"""The personal face mesh as training sees it: which of its vertices hold still, and how deep they are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from talk3d.data.facemesh import CHIN, EYES, LIPS, NOSE_TIP, OVAL
from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.stage import uniform

__all__ = ["FaceMesh", "depth_error"]

_SURFACE = 468  # vertices of the face; the rest are irises
_SLACK = 0.006  # 2 mm: how far the mesh may be off
_FACING = 0.5  # cosine below which a pixel sees all kinds of depth
_JAW = 0.5  # share of the way from the chin to the nose in which speech moves the face


class FaceMesh:
    """A personal face mesh at rest, with Delaunay's triangles of its front view.

    Args:
        positions: World coordinates ``[478, 3]``, MediaPipe's vertices.

    Attributes:
        triangles: Vertices of each ``[T, 3]``; irises have none.
        normals: Out of the face ``[478, 3]``.
        still: Whether a vertex is neither lip nor lid, nor on the outline ``[478]``.
        rigid: Whether it is above the jaw besides ``[478]``.
    """

    def __init__(self, positions: Float[Tensor, "vertex 3"]) -> None:
        from scipy.spatial import Delaunay  # scipy takes a second to import

        device = positions.device
        flat = positions[:_SURFACE, :2].cpu().double().numpy()
        self.positions = positions
        self.triangles = torch.from_numpy(Delaunay(flat).simplices).long().to(device)
        across = self._across()
        self.normals = torch.zeros_like(positions)
        for corner in self.triangles.unbind(1):
            self.normals.index_add_(0, corner, across)
        self.normals = normalize(self.normals, dim=1)
        self.still = torch.ones(len(positions), dtype=torch.bool, device=device)
        self.still[[*LIPS, *OVAL, *EYES[0], *EYES[1], *range(_SURFACE, len(positions))]] = False
        chin, nose = positions[CHIN, 1], positions[NOSE_TIP, 1]
        self.rigid = self.still & (positions[:, 1] > chin + _JAW * (nose - chin))
        # as likely as they are large
        self._chances = across.norm(dim=1) * self.still[self.triangles].all(1)

    def to(self, device: torch.device | str) -> FaceMesh:
        """Move it."""
        return FaceMesh(self.positions.to(device))

    def sample(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Points ``[count, 3]`` spread over what holds still, and normals: the face is smooth between vertices, too."""
        device = self.positions.device
        chances = self._chances.cumsum(0)
        chosen = torch.searchsorted(chances, chances[-1] * uniform(generator, device, count)).clamp(
            max=len(chances) - 1
        )
        share = uniform(generator, device, count, 2)
        share = torch.where(share.sum(1, keepdim=True) > 1, 1 - share, share)  # the other half of the parallelogram
        weights = torch.cat((1 - share.sum(1, keepdim=True), share), 1)[..., None]
        corners = self.triangles[chosen]
        return (weights * self.positions[corners]).sum(1), normalize((weights * self.normals[corners]).sum(1), dim=1)

    def _across(self) -> Tensor:
        a, b, c = self.positions[self.triangles].unbind(1)
        across = torch.linalg.cross(b - a, c - a)
        return across * across[:, 2:].sign()


def depth_error(view: View, camera: Float[Tensor, "1 25"], points: tuple[Tensor, Tensor]) -> Tensor:
    """By how much a view's depth is off by more than 2 mm where points with normals ``[P, 3]`` are seen: the mean."""
    positions, normals = points
    where = losses.project(positions[None], camera)
    depth = grid_sample(view.depth, (2 * where - 1)[:, None], align_corners=False)[0, 0, 0]
    toward = camera[0, :16].view(4, 4)[:3, 3] - positions
    wanted = toward.norm(dim=1)
    seen = ((toward * normals).sum(1) > _FACING * wanted) & ((where[0] - 0.5).abs() < 0.49).all(1)
    return (((depth - wanted).abs() - _SLACK).clamp(min=0) * seen).sum() / seen.sum().clamp(min=1)
