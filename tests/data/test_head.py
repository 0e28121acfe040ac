"""A made-up face of 478 points, turned and projected exactly: the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from talk3d import cameras
from talk3d.data.facemesh import RIGID, VERTICES, anchors
from talk3d.data.head import fit_mesh, place, pnp, shifts, to_crop, turns, world_to_camera
from talk3d.data.prepare import CAMERAS
from talk3d.data.transforms import apply, project

VIEW = CAMERAS["ffhq"]


def face() -> np.ndarray:
    """Points on half an ellipsoid in the world, the anchors among them where they belong."""
    random = np.random.default_rng(0)
    side = random.normal(size=(VERTICES, 3))
    side[:, 2] = np.abs(side[:, 2])
    points = side / np.linalg.norm(side, axis=1, keepdims=True) * (0.2, 0.27, 0.15) + (0, 0.02, 0.1)
    vertices, places = anchors()
    points[vertices] = places
    return points


FACE = face()
YAW, PITCH, ROLL = np.random.default_rng(1).uniform(-1, 1, (3, 40)) * np.array([[30], [20], [8]])


def look() -> np.ndarray:
    """World to camera ``[40, 3, 4]``."""
    to_world = cameras.look_at(*map(torch.from_numpy, (YAW, PITCH, ROLL))).numpy()
    return np.linalg.inv(to_world)[:, :3]


def tracked() -> np.ndarray:
    """What a perfect tracker would say of pictures of 640 pixels: x, y and depth in pixels."""
    seen = apply(look(), FACE)
    pixels = 640 * project(seen, 2.0)
    depth = 640 * 2.0 * (seen[..., 2:] - seen[..., 2:].mean(1, keepdims=True)) / seen[..., 2:].mean(1, keepdims=True)
    return np.concatenate((pixels, depth), 2)


def test_the_frontal_camera_is_that_of_cameras():
    for view in CAMERAS.values():
        expected = np.linalg.inv(cameras.look_at(0.0, 0.0, pivot=view.pivot, radius=view.radius).double().numpy())[:3]
        np.testing.assert_allclose(view.pose(), expected, atol=1e-6)


def test_place_undoes_any_similarity():
    turn = Rotation.from_euler("xyz", (20, -30, 10), degrees=True).as_matrix()
    np.testing.assert_allclose(place(3 * FACE @ turn.T + (5, 6, 7)), FACE, atol=1e-9)


def test_pnp_finds_exact_poses():
    seen = project(apply(look(), FACE), VIEW.focal)[:, list(RIGID)]
    found = pnp(FACE, seen, np.tile(np.diag([1.0, -1, -1]), (40, 1, 1)), VIEW)
    np.testing.assert_allclose(found, look(), atol=1e-4)


def test_shifts_finds_exact_translations():
    seen = project(apply(look(), FACE), VIEW.focal)[:, list(RIGID)]
    found = shifts(FACE, look()[:, :, :3], seen, VIEW)
    np.testing.assert_allclose(found, look()[:, :, 3], atol=1e-9)


def test_turns_are_those_of_the_points_in_space():
    # the tracker's camera is far away: what perspective adds is small
    found = Rotation.from_matrix(turns(FACE, tracked()) @ look()[:, :, :3].swapaxes(1, 2)).magnitude()
    assert np.degrees(found).max() < 3


def test_a_world_to_camera_pose_is_inverted():
    to_world = world_to_camera(look())
    np.testing.assert_allclose(to_world, cameras.look_at(*map(torch.from_numpy, (YAW, PITCH, ROLL))).numpy(), atol=1e-9)


def test_crops_put_the_face_where_the_frontal_camera_sees_it():
    front = 640 * VIEW.template(FACE)[None] * 0.4 + 100
    matrix = to_crop(front[:, list(RIGID)], FACE, VIEW)
    np.testing.assert_allclose(apply(matrix, front)[0], VIEW.template(FACE), atol=1e-9)


def test_the_personal_mesh_is_found():
    mesh, error = fit_mesh(tracked(), VIEW)
    assert error < 2 / 512
    assert np.sqrt(((mesh - FACE) ** 2).sum(1).mean()) < 0.006  # two millimetres
    middle = (mesh[33] + mesh[263]) / 2
    assert np.linalg.norm(mesh[33] - mesh[263]) == pytest.approx(0.027 * 8.892, abs=1e-4)
    np.testing.assert_allclose(middle, [0, 0.0919, 0.1927], atol=1e-3)
