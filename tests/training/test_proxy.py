from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from talk3d.training import losses
from talk3d.training.proxy import HeadProxy, fit_parts, fit_proxy, surface
from tests.training.heads import CENTER, RADII, face_mesh, mattes, photograph, views


@pytest.fixture(scope="module")
def proxy() -> HeadProxy:
    return fit_proxy(face_mesh(), mattes(), resolution=49)


def test_the_head_is_inside_and_the_room_is_not(proxy: HeadProxy):
    inside = CENTER + torch.tensor([[0, 0, 0], [0, 0, 0.2], [0.1, 0.1, 0.1], [-0.15, 0, 0], [0, 0.1, -0.1]])
    outside = torch.tensor([[0, 0, 0.4], [0.4, 0, 0], [-0.4, 0.3, 0.1], [0, 0.45, 0], [0.2, 0.2, 0.3]])
    assert (proxy(inside) < -0.01).all()
    assert (proxy(outside) > 0.05).all()


@pytest.mark.parametrize("height", [-0.03, 0.0, 0.03, 0.06])
def test_before_the_face_the_distance_is_that_to_the_mesh(proxy: HeadProxy, height: float):
    direction = normalize(torch.tensor([[0.05, -0.2, 1], [0.15, -0.1, 1], [-0.2, -0.1, 1]]), dim=1)
    found = proxy(CENTER + RADII * direction + height * normalize(direction / RADII, dim=1))
    torch.testing.assert_close(found, torch.full_like(found, height), atol=0.006, rtol=0)


def test_near_the_surface_the_distance_grows_by_one_a_unit(proxy: HeadProxy):
    points = (torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5).requires_grad_()
    distance = proxy(points)
    (slope,) = torch.autograd.grad(distance.sum(), points)
    near = (distance.abs() < 0.03) & (points.abs().amax(1) < 0.45)
    lengths = slope.norm(dim=1)[near]
    assert near.sum() > 500
    assert abs(lengths.median() - 1) < 0.05
    assert ((lengths - 1).abs() < 0.3).float().mean() > 0.9  # edges have no slope


def test_nothing_is_where_no_matte_saw_a_person(proxy: HeadProxy):
    points = torch.rand(5_000, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    solid = points[proxy(points) < -0.02]
    frame = views(torch.tensor([0.0]))
    pixels = losses.project(solid[None], frame)[0]
    _, matte, _ = photograph(frame, 64)
    pixels = pixels[(pixels - 0.5).abs().amax(1) < 0.5]
    assert len(pixels) > 100
    assert matte[0, 0][(64 * pixels[:, 1]).long(), (64 * pixels[:, 0]).long()].mean() > 0.995


def test_parts_grow_to_the_mattes():
    wide = face_mesh() * torch.tensor([0.85, 1, 1])
    slim, full = (fit_parts(mesh, mattes())[1][1, 0] for mesh in (wide, face_mesh()))
    assert abs(full - RADII[0]) < 0.02
    assert abs(slim - RADII[0]) < 0.03  # although the mesh says less


def test_the_surface_is_where_rays_meet_it():
    parts = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.2, 0.2, 0.2]])
    points, normals, pixels = surface(parts, views(torch.tensor([0.0])), 9)
    torch.testing.assert_close(points.norm(dim=1), torch.full((len(points),), 0.2), atol=2e-3, rtol=0)
    torch.testing.assert_close(normals, points / 0.2, atol=2e-2, rtol=0)
    assert 40 in pixels
    assert 0 not in pixels


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"mesh must be \[478, 3\]"):
        fit_proxy(torch.zeros(68, 3), mattes())
    seen = mattes()
    with pytest.raises(ValueError, match="as many cameras"):
        fit_proxy(face_mesh(), seen._replace(cameras=seen.cameras[1:]))
    with pytest.raises(ValueError, match="leave little of the face"):
        fit_proxy(face_mesh(), seen._replace(matte=torch.zeros_like(seen.matte)), resolution=17)
