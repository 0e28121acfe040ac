"""Meshes against shapes whose surface is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from talk3d.geometry import Mesh, extract_mesh, write_mesh

RADIUS, CENTER = 0.2, torch.tensor([0.03, -0.02, 0.05])


def ball(points: Tensor) -> tuple[Tensor, Tensor]:
    """A ball whose raw density is 10 at its surface, coloured by where it is."""
    return 10 + 100 * (RADIUS - (points - CENTER).norm(dim=1)), points + 0.5


def slab(points: Tensor) -> tuple[Tensor, Tensor]:
    """Solid everywhere below y = 0, out of the box too."""
    return 10 - 100 * points[:, 1], torch.full_like(points, 0.5)


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return (a * b.cross(c, dim=1)).sum().item() / 6


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_mesh(ball, box_warp=1.0, resolution=64)


def test_surface_is_where_the_density_crosses_the_level(mesh: Mesh):
    distance = (mesh.vertices - CENTER).norm(dim=1)
    assert (distance - RADIUS).abs().max() < 1e-3  # the field is almost linear across a cell of 1/63
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)  # positive: the faces look outwards


def test_another_level_is_another_surface():
    lower = extract_mesh(ball, box_warp=1.0, resolution=64, level=5.0)
    assert (lower.vertices - CENTER).norm(dim=1).mean() == pytest.approx(RADIUS + 0.05, abs=1e-3)


def test_axes_and_world_units():
    def blob(points: Tensor) -> tuple[Tensor, Tensor]:
        return 20 - 100 * ((points - torch.tensor([0.3, 0.1, -0.2])) / torch.tensor([1, 2, 3])).norm(dim=1), points

    found = extract_mesh(blob, box_warp=1.6, resolution=80, border=0.0).vertices
    low, high = found.amin(0), found.amax(0)
    assert torch.allclose((low + high) / 2, torch.tensor([0.3, 0.1, -0.2]), atol=2e-3)
    assert torch.allclose(high - low, 0.2 * torch.tensor([1.0, 2, 3]), atol=4e-3)


def test_colors_are_of_the_vertices(mesh: Mesh):
    assert torch.equal(mesh.colors, ((mesh.vertices + 0.5).clamp(0, 1) * 255).round().to(torch.uint8))


def test_border_is_empty_and_closes_the_surface():
    cut = extract_mesh(slab, box_warp=2.0, resolution=65, border=8 / 65)
    inside = 1 - 8 / 32  # of half a side
    cell = 2 / 64
    assert cut.vertices.abs().amax() < inside + cell
    assert cut.vertices[:, 1].max().item() == pytest.approx(0, abs=1e-3)
    expected = (2 * inside) ** 2 * inside
    assert expected < volume(cut) < (2 * inside + 2 * cell) ** 2 * (inside + cell)


def test_many_points_are_asked_for_in_parts(monkeypatch):
    whole = extract_mesh(ball, box_warp=1.0, resolution=32)
    asked: list[int] = []

    def watched(points: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        return ball(points)

    monkeypatch.setattr("talk3d.geometry.POINTS", 1000)
    parts = extract_mesh(watched, box_warp=1.0, resolution=32)
    assert max(asked) <= 1000
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_without_a_surface():
    with pytest.raises(ValueError, match=r"no surface: the density reaches 2[0-9.]*, below level 100"):
        extract_mesh(ball, box_warp=1.0, resolution=16, level=100.0)


@pytest.mark.parametrize("wrong", [{"box_warp": 0.0}, {"border": -0.1}, {"border": 0.5}, {"resolution": 1}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="box_warp must be positive"):
        extract_mesh(ball, **{"box_warp": 1.0, "resolution": 16} | wrong)


@pytest.mark.parametrize("ending", ["ply", "obj", "glb", "PLY"])
def test_files_can_be_read_back(mesh: Mesh, ending: str, tmp_path: Path):
    import trimesh

    write_mesh(mesh, tmp_path / f"head.{ending}")
    found = trimesh.load(tmp_path / f"head.{ending}", force="mesh", process=False)
    assert torch.allclose(torch.tensor(found.vertices).float(), mesh.vertices, atol=1e-6)
    assert torch.equal(torch.tensor(found.faces), mesh.faces)
    assert torch.equal(torch.tensor(found.visual.vertex_colors[:, :3]), mesh.colors)


def test_unknown_ending(mesh: Mesh, tmp_path: Path):
    with pytest.raises(ValueError, match=r"head.stl can be written as .*, not .stl"):
        write_mesh(mesh, tmp_path / "head.stl")
    assert not list(tmp_path.iterdir())
