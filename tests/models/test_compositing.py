"""The person over a plate."""

from __future__ import annotations

import pytest
import torch

from talk3d.models.compositing import composite


def test_half_of_what_is_seen_is_the_plate_where_half_is_opaque():
    # premultiplied: half-opaque grey 0.5 is 0.25, and 2 * 0.25 - 1 = -0.5; over white that is 0.25 + 0.5 = 0.75
    found = composite(torch.full((1, 3, 2, 2), -0.5), torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(found, torch.full((1, 3, 2, 2), 0.5))


def test_nothing_is_the_plate_and_what_is_opaque_hides_it():
    plate = torch.rand(2, 3, 4, 4) * 2 - 1
    torch.testing.assert_close(composite(torch.full_like(plate, -1), torch.zeros(2, 1, 4, 4), plate), plate)
    picture = torch.rand(2, 3, 4, 4) * 2 - 1
    torch.testing.assert_close(composite(picture, torch.ones(2, 1, 4, 4), plate), picture)


def test_a_plate_of_another_size_is_refused():
    picture, weight = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 2, 2)
    torch.testing.assert_close(composite(picture, weight, torch.ones(1, 3, 1, 1)), torch.full_like(picture, 2.0))
    with pytest.raises(ValueError, match=r"plate \[1, 3, 2, 4\] must have the height and width of picture \[2, 3, 4"):
        composite(picture, weight, torch.ones(1, 3, 2, 4))


def test_a_small_opacity_is_enlarged():
    weight = torch.tensor([[[[0.0, 1.0]]]]).expand(1, 1, 2, 2)
    found = composite(torch.full((1, 1, 4, 4), -1.0), weight, torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([1.0, 0.5, -0.5, -1.0]))
