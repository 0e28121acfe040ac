from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from talk3d.data.transforms import apply, inverse, kabsch, project, similarity, similarity3d

RANDOM = np.random.default_rng(0)


def test_similarity_is_recovered():
    angle, scale = np.radians(25), 1.7
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate((linear, [[3], [-4]]), 1)
    source = RANDOM.normal(size=(5, 30, 2))
    np.testing.assert_allclose(similarity(source, apply(matrix, source)), np.tile(matrix, (5, 1, 1)), atol=1e-12)


def test_similarity_is_least_squares_and_no_mirror():
    source = RANDOM.normal(size=(30, 2))
    fitted = similarity(source, source * (-1, 1))
    assert np.linalg.det(fitted[:, :2]) > 0


def test_similarity_in_space_is_recovered():
    turn = Rotation.random(4, random_state=1).as_matrix()
    source = RANDOM.normal(size=(4, 20, 3))
    target = 0.3 * source @ turn.swapaxes(1, 2) + [1, 2, 3]
    np.testing.assert_allclose(kabsch(source, target), turn, atol=1e-12)
    np.testing.assert_allclose(apply(similarity3d(source, target), source), target, atol=1e-12)


def test_kabsch_is_a_rotation_even_of_a_mirror():
    source = RANDOM.normal(size=(20, 3))
    assert np.linalg.det(kabsch(source, source * (1, 1, -1))) == pytest.approx(1)


def test_inverse_undoes():
    matrix = np.array([[2.0, -1, 5], [1, 2, -3]])
    points = RANDOM.normal(size=(7, 2))
    np.testing.assert_allclose(apply(inverse(matrix), apply(matrix, points)), points, atol=1e-12)


def test_project_has_its_principal_point_in_the_middle():
    np.testing.assert_allclose(project(np.array([[0, 0, 2.0], [0.2, -0.1, 2]]), 4), [[0.5, 0.5], [0.9, 0.3]])
