"""``talk3d export``: a mesh and pictures of an avatar's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from talk3d import Avatar, cli
from talk3d.export import view_sheet


@pytest.fixture
def ball(make_avatar) -> Avatar:
    """An avatar whose density crosses 10 on the sphere of radius 0.25, by planes that hold squared distances."""
    avatar = make_avatar(None)
    identity = avatar.identity
    side = identity.config.plane_resolution
    steps = (torch.arange(side) + 0.5) / side - 0.5
    square = steps.square()
    # over the planes (x, y), (x, z) and (z, y), each coordinate is counted twice
    identity.planes.zero_()
    identity.planes[0, :, 0] = (square[:, None] + square) / 2
    decoder = identity.decoder
    for layer in (decoder.hidden, decoder.output):
        layer.weight.zero_()
        layer.bias.zero_()
    # density = 10 + 200 / 3 (0.25^2 - r^2); softplus is linear about 30
    decoder.hidden.weight[0, 0] = 200 * 32**0.5
    decoder.hidden.bias[0] = 30
    decoder.output.weight[0, 0] = -(64**0.5)
    decoder.output.bias[0] = 10 + 200 / 3 * 0.25**2 + 30
    return avatar


def test_mesh(ball, tmp_path: Path, capsys):
    ball.save(tmp_path / "ball")
    mesh = tmp_path / "ball.ply"
    assert cli.main(["export", str(tmp_path / "ball"), "--mesh", str(mesh), "--resolution", "32"]) == 0
    found = trimesh.load(mesh)
    assert f"{len(found.vertices)} vertices" in capsys.readouterr().out
    assert found.is_watertight
    radius = np.linalg.norm(found.vertices, axis=1)
    assert abs(radius - 0.25).max() < 0.02  # planes of 16 texels


def test_views(ball, tmp_path: Path):
    ball.save(tmp_path / "ball")
    path = tmp_path / "views.png"
    assert cli.main(["export", str(tmp_path / "ball"), "--views", str(path), "--yaws", "-20", "20"]) == 0
    picture = np.asarray(Image.open(path))
    assert picture.shape == (2 * 128, 3 * 128, 3)
    # the ball is nearer than what is behind it, and its middle looks at the camera
    depth, normals = picture[:128, 128:256, 0], picture[:128, 256:]
    assert depth[64, 64] > depth[2, 2]
    toward = normals[64, 64] / 127.5 - 1
    assert toward @ [np.sin(np.radians(-20)), 0, np.cos(np.radians(-20))] > 0.9


def test_nothing_to_write_is_wrong_use(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(tmp_path)])
    assert stop.value.code == 2
    assert "--mesh or --views" in capsys.readouterr().err


def test_what_is_no_avatar_is_said(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path / "none"), "--mesh", str(tmp_path / "a.ply")]) == 1
    assert "none does not exist; it should be a folder of weights" in capsys.readouterr().err
    assert not (tmp_path / "a.ply").exists()


def test_an_unknown_ending_leaves_nothing(ball, tmp_path, capsys):
    ball.save(tmp_path / "ball")
    assert cli.main(["export", str(tmp_path / "ball"), "--mesh", str(tmp_path / "a.stl"), "--resolution", "16"]) == 1
    assert ".stl" in capsys.readouterr().err
    assert not list(tmp_path.glob("*a.stl"))


def test_a_sheet_has_a_row_for_each_yaw(make_avatar):
    assert view_sheet(make_avatar("aligned"), yaws=(0.0,)).shape == (128, 3 * 128, 3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--views", "views.png", "--yaws"], "yaws must be one angle or more"),
        (["--views", "views.png", "--yaws", "nan"], "yaws must be one angle or more"),
        (["--views", "views.jpg"], "views.jpg can be written as .png, not .jpg"),
        (["--views", "none/views.png"], "none is no folder"),
        (["--views", "folder.png"], "folder.png is a folder; name a file"),
        (["--mesh", "none/a.ply"], "none is no folder"),
        (["--mesh", "a.ply", "--latent", "none"], "goes with a generator"),
    ],
)
def test_what_cannot_be_written_is_a_sentence(arguments, reason, make_avatar, tmp_path, monkeypatch, capsys):
    make_avatar("aligned").save(tmp_path / "ada")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "ada", *arguments]) == 1
    assert reason in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"ada", "folder.png"}
