"""Faces are aligned by five points, and compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from talk3d.evaluation.likeness import TEMPLATE, Likeness, align


def test_a_face_that_is_aligned_stays_as_it_is():
    picture = torch.randint(0, 256, (112, 112, 3), dtype=torch.uint8)
    found = align(picture, TEMPLATE)
    expected = picture.permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_turned_scaled_and_shifted():
    """A picture in which brightness is a plane: after alignment it is the plane in the template's coordinates."""
    angle, scale, shift = 0.3, 1.7, np.array([40.0, 25.0])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ rotation.T + shift
    y, x = np.mgrid[:300, :300]
    picture = torch.from_numpy(np.stack((x * 0.5, y * 0.5, 0 * x), -1).round().astype(np.uint8))
    found = (align(picture, points) + 1) * 127.5
    row, column = np.mgrid[:112, :112]
    where = np.stack((column, row), -1) @ rotation.T + shift
    inside = ((where > 1) & (where < 298)).all(-1)
    assert inside.mean() > 0.7
    assert abs(found[0].numpy() - where[..., 0] * 0.5)[inside].max() < 0.6
    assert abs(found[1].numpy() - where[..., 1] * 0.5)[inside].max() < 0.6
    outside = ((where < -1) | (where > 300)).any(-1)
    assert (found[:, torch.from_numpy(outside)] == 0).all()  # black


def test_faces_that_are_not_there():
    class Mean(nn.Module):
        def forward(self, faces):
            assert faces.shape[1:] == (3, 112, 112)
            return nn.functional.normalize(faces.mean((2, 3)), dim=1)

    picture = torch.randint(0, 256, (112, 112, 3), dtype=torch.uint8)
    likeness = Likeness(Mean(), torch.device("cpu"))
    one, none, two = likeness([picture] * 3, [TEMPLATE, None, TEMPLATE])
    assert none is None
    assert torch.equal(one, two)
    assert likeness([picture], [None]) == [None]
