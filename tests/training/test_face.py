"""The personal mesh: which way its vertices look, and its depth in a view."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from talk3d.data.facemesh import CHIN, LIPS, NOSE_TIP, OVAL
from talk3d.models.scene import View
from talk3d.training.face import FaceMesh, depth_error
from tests.training.heads import CENTER, RADII, face_mesh, photograph, views

FRONTAL = views(torch.tensor([0.0]))


@pytest.fixture(scope="module")
def face() -> FaceMesh:
    return FaceMesh(face_mesh())


def seen(shift: float) -> View:
    """The head, so much farther away."""
    picture, matte, depth = photograph(FRONTAL, 64)
    return View(picture, (depth + shift).requires_grad_(), matte)


def test_normals_point_out_of_the_face(face: FaceMesh):
    wanted = normalize((face.positions - CENTER) / RADII.square(), dim=1)
    inner = (face.positions[:, :2] - CENTER[:2]).norm(dim=1) < 0.15
    inner[468:] = False
    assert ((face.normals * wanted).sum(1)[inner] > 0.97).all()
    assert not face.normals[468:].any()


def test_lips_and_outline_do_not_hold_still_and_the_jaw_is_not_rigid(face: FaceMesh):
    assert not face.still[[*LIPS, *OVAL]].any()
    assert face.still[NOSE_TIP]
    assert (face.rigid <= face.still).all()
    low = face.positions[:, 1] < face.positions[CHIN, 1] + 0.02
    assert not face.rigid[low].any()


def test_points_are_spread_over_what_holds_still(face: FaceMesh):
    positions, normals = face.sample(torch.Generator().manual_seed(0), 2000)
    wanted = normalize((positions - CENTER) / RADII.square(), dim=1)
    assert ((normals * wanted).sum(1) > 0.95).float().mean() > 0.95
    on_surface = ((positions - CENTER) / RADII).norm(dim=1)
    assert ((on_surface - 1).abs() < 0.03).float().mean() > 0.95
    lips = face.positions[list(LIPS)]
    assert torch.cdist(positions, lips).amin() > 1e-3


def test_a_depth_within_two_millimetres_is_right(face: FaceMesh):
    points = face.positions[face.still], face.normals[face.still]
    assert depth_error(seen(0.0), FRONTAL, points) < 1e-3
    assert depth_error(seen(0.004), FRONTAL, points) < 1e-3


def test_a_depth_that_is_off_counts_by_what_it_is_off_beyond(face: FaceMesh):
    points = face.positions[face.still], face.normals[face.still]
    view = seen(0.03)
    error = depth_error(view, FRONTAL, points)
    torch.testing.assert_close(error, torch.tensor(0.03 - 0.006), atol=2e-3, rtol=0)
    error.backward()
    assert view.depth.grad.sum() > 0.9  # too far: nearer is better
    torch.testing.assert_close(depth_error(seen(-0.03), FRONTAL, points), error, atol=2e-3, rtol=0)
