"""Targets: sizes, what is kept, and the order of frames."""

from __future__ import annotations

import pytest
import torch

from talk3d.training.targets import Targets, in_turn


def test_sizes_of_picture_and_view(clip):
    target = Targets(clip, picture=16, view=8)([3, 5])
    assert target.index.tolist() == [3, 5]
    for name, channels in (("image", 3), ("matte", 1), ("regions", 4), ("plate", 3)):
        assert getattr(target, name).shape == (2, channels, 16, 16)
        assert getattr(target, f"view_{name}").shape == (2, channels, 8, 8)
    assert target.features.shape == (2, 8, 16, 4)
    assert target.tracked.shape == (2, 478, 2)


def test_a_view_is_the_mean_of_the_picture(clip):
    target = Targets(clip, picture=32, view=8)([3])
    torch.testing.assert_close(target.view_image[0, :, 2, 3], target.image[0, :, 8:12, 12:16].mean((1, 2)))


def test_a_picture_is_the_dataset_s_within_half_a_step_of_a_byte(clip):
    target, sample = Targets(clip, picture=32, view=8)([3]), clip.sample([3])
    for name, step in (("image", 2 / 255), ("plate", 2 / 255), ("matte", 1 / 255), ("regions", 1 / 255)):
        assert (getattr(target, name) - getattr(sample, name)).abs().max() <= step / 2 + 1e-6


def test_a_part_of_the_views_is_that_part_of_the_pictures(clip):
    whole = Targets(clip, picture=32, view=8)([3, 5])
    part = whole.part(2, 1, 4)
    assert torch.equal(part.view_image, whole.view_image[..., 2:6, 1:5])
    assert torch.equal(part.regions, whole.regions[..., 8:24, 4:20])
    assert torch.equal(part.blink, whole.blink)


def test_what_was_decoded_is_kept_and_the_same(clip):
    targets = Targets(clip, picture=32, view=8)
    first = targets([3, 5])
    assert clip.decoded == 2
    again = targets([3, 5])
    assert clip.decoded == 2
    assert all(torch.equal(*pair) for pair in zip(first[:-1], again[:-1], strict=True))
    assert first.frames == again.frames == (3, 5)
    again.image.zero_()
    assert torch.equal(targets([3, 5]).image, first.image)


def test_room_is_bounded(clip):
    targets = Targets(clip, picture=32, view=8, cache=0)
    first = targets([3, 5, 3])
    assert clip.decoded == 3
    assert torch.equal(first.image[0], first.image[2])


def test_crops_must_be_large_enough(clip):
    with pytest.raises(ValueError, match=r"the crops of clip are 32 pixels wide, and the model makes 64: prepare"):
        Targets(clip, picture=64, view=8)


def test_frames_without_a_face_are_left_out(clip):
    clip.valid[[2, 7]] = False
    targets = Targets(clip, picture=32, view=8)
    assert targets.frames("train") == [i for i in range(16) if i not in (2, 7)]
    assert targets.windows("train", 3) == [3, 4, 8, 9, 10, 11, 12, 13]


def test_a_split_that_is_missing_or_empty(clip):
    targets = Targets(clip, picture=32, view=8)
    with pytest.raises(ValueError, match="clip has no split 'dev', only train, val, test"):
        targets.frames("dev")
    clip.valid[17:20] = False
    with pytest.raises(ValueError, match="the split 'val' of clip has no frame with a face"):
        targets.frames("val")
    with pytest.raises(ValueError, match="the split 'test' of clip has no 4 frames in a row"):
        targets.windows("test", 4)


class TestInTurn:
    items = tuple(range(10, 17))

    def test_each_comes_once_before_any_comes_again(self):
        seen = [i for step in range(7) for i in in_turn(self.items, 3, step, 0)]
        assert all(sorted(seen[k : k + 7]) == list(self.items) for k in (0, 7, 14))
        assert seen[:7] != seen[7:14]

    def test_a_step_is_the_same_whatever_came_before(self):
        assert in_turn(self.items, 3, 5, 0) == in_turn(self.items, 3, 5, 0)

    def test_a_seed_is_another_order(self):
        assert in_turn(self.items, 7, 0, 0) != in_turn(self.items, 7, 0, 1)

    def test_more_than_there_are(self):
        assert sorted(in_turn((1, 2), 4, 0, 0)) == [1, 1, 2, 2]
