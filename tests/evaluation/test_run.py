"""An avatar against a tiny clip, and what is said where something cannot be measured."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from talk3d import Avatar, cameras
from talk3d.data.dataset import Dataset
from talk3d.evaluation import Options, evaluate, run
from talk3d.evaluation.inputs import speech_of
from talk3d.evaluation.playback import Playback, Rendered
from talk3d.evaluation.views import VIEWS, novel_views
from talk3d.models import Conditions
from talk3d.motion import Motion

TEST = range(8, 40)


def numbers(found):
    return {(m.metric, m.region): m for m in found.report.measured}


@pytest.fixture
def true_frames(monkeypatch, clip):
    """Makes ours of the true frames, late by so many; what is before the first is black."""
    dataset = Dataset(clip)

    def late(by: int = 0) -> None:
        def call(self, sample, tokens, camera=None):
            shown = [dataset.picture(i - by) * np.uint8(i - by >= TEST.start) for i in sample.index.tolist()]
            side = torch.ones(len(shown), 4, 4)
            return Rendered(torch.from_numpy(np.stack(shown)), side, side)

        monkeypatch.setattr(Playback, "__call__", call)

    return late


def test_the_true_frames_are_perfect(rest, clip, tracker, true_frames):
    true_frames()
    found = numbers(evaluate(rest, clip, Options(views=False)))
    for region in ("whole", "face", "mouth", "torso"):
        assert found["psnr_global", region].value == found["psnr_frames", region].value == math.inf
        assert found["ssim", region].value == pytest.approx(1)
        assert found["mae", region].value == 0
        assert found["ssim", region].frames == 32
    assert found["lmd_mediapipe", ""].value == 0
    assert found["mouth_correlation", ""].value == pytest.approx(1)
    assert found["mouth_lag", ""].value == 0
    assert found["faces", ""].value == found["faces_truth", ""].value == 100
    # the lids of this tracker's faces never move
    assert found["eye_correlation", ""].reason == "it is not defined, for nothing moves"


def test_a_late_mouth_is_late(rest, clip, tracker, true_frames):
    true_frames(1)
    found = evaluate(rest, clip, Options(views=False))
    ours, truth = (found.report.curves[f"mouth_{name}"] for name in ("ours", "truth"))
    assert truth == pytest.approx([(5 * i + 5) / 100 for i in TEST], abs=0.05)  # pictures are compressed
    assert math.isnan(ours[0])
    assert ours[1:] == truth[:-1]
    assert numbers(found)["mouth_correlation", ""].frames == 31
    assert numbers(found)["mouth_error", ""].value == pytest.approx(0.05, abs=0.01)


def test_the_floor_is_the_mean_training_frame(rest, clip, tracker, true_frames):
    true_frames()
    found = numbers(evaluate(rest, clip, Options(views=False)))
    dataset = Dataset(clip)
    mean = np.mean([dataset.picture(i) for i in range(6)], 0).round()
    expected = np.mean([abs(mean - dataset.picture(i)).mean() for i in TEST])
    assert found["mae", "whole"].floor == pytest.approx(expected, rel=1e-4)
    # its mouth has the redness of frame 2.5 all the time; pictures are compressed
    assert found["mouth_error", ""].floor == pytest.approx(5 * (23.5 - 2.5) / 100, abs=0.05)


def test_frames_are_those_that_the_avatar_renders(folder, clip):
    found = evaluate(folder, clip, Options(views=False, frames=2))
    assert [shown.frame for shown in found.shown] == [8, 9]
    avatar, sample = Avatar.load(folder), Dataset(clip).sample([9])
    baked = avatar.bake()
    tokens = baked.tokens(sample.features, Conditions(sample.blink, sample.angles, sample.landmarks))
    made = baked.frames(tokens, sample.camera)
    behind = torch.nn.functional.interpolate(sample.plate, (128, 128), mode="nearest")  # it has one colour
    expected = baked.compose(made, behind).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(expected, (32, 32), mode="bicubic", antialias=True).clamp(0, 255)
    assert abs(found.shown[1].ours - expected[0].permute(1, 2, 0).numpy()).max() <= 1
    np.testing.assert_array_equal(found.shown[1].depth, made.view.depth[0, 0].numpy())
    maps, planes = found.attention
    assert maps.shape[1:3] == (5, 3)
    torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
    torch.testing.assert_close(planes, avatar.identity.planes[0])
    assert any("background" in note for note in found.report.notes)
    assert any("128 x 128 were resized" in note for note in found.report.notes)


def test_an_avatar_may_say_that_it_needs_the_background(make_avatar, clip, tmp_path):
    avatar = make_avatar(None)
    for name, facts in (("alone", {"background": "plate"}), ("filled", {})):
        avatar.facts = facts
        avatar.save(tmp_path / name)
    alone, filled = (evaluate(tmp_path / name, clip, Options(views=False, frames=1)) for name in ("alone", "filled"))
    assert "background" in " ".join(alone.report.notes)
    assert "background" not in " ".join(filled.report.notes)
    assert (alone.shown[0].ours != filled.shown[0].ours).any()


def test_batches_change_nothing(rest, clip, tracker):
    one, four = (evaluate(rest, clip, Options(views=False, frames=6, batch=batch)) for batch in (1, 4))
    for a, b in zip(one.report.measured, four.report.measured, strict=True):
        assert (a.metric, a.frames, a.reason) == (b.metric, b.frames, b.reason)
        assert (a.value is None) == (b.value is None)
        assert a.value is None or a.value == pytest.approx(b.value, rel=1e-3)
    assert one.attention is None
    assert any("at rest" in note for note in one.report.notes)


def test_without_a_tracker_what_needs_it_is_not_measured(rest, clip):
    found = evaluate(rest, clip, Options(frames=1))
    reasons = {m.metric: m.reason for m in found.report.measured}
    for metric in ("faces", "lmd_mediapipe", "mouth_correlation", "mouth_lag", "eye_correlation", "eye_error"):
        assert reasons[metric] == "tracking needs MediaPipe: pip install 'talk3d[prepare]'"
    for view in found.report.views:
        assert {m.metric for m in view.measured if m.reason is None} == {"person"}


def test_a_metric_without_weights_is_not_measured(rest, clip):
    found = evaluate(rest, clip, Options(frames=1))
    for metric in ("fid", "LMD", "AUE", "Sync (LSE-C, LSE-D)", "IDSIM"):
        number = numbers(found)[metric, ""]
        assert number.value is None
        assert "needs" in number.reason
    for view in found.report.views:
        assert {"fid", "Sync (LSE-C, LSE-D)", "IDSIM"} <= {m.metric for m in view.measured if m.reason}


class Seen(torch.nn.Module):
    """In place of SyncNet and CurricularFace."""

    def sound(self, cepstra):
        return cepstra[:, 0, :4, 0]

    def lips(self, pictures):
        return pictures.mean((2, 3, 4)) @ torch.ones(3, 4)

    def forward(self, faces):
        return torch.nn.functional.normalize(faces.mean((2, 3)), dim=1)


def test_networks_that_judge(rest, clip, tracker, true_frames, monkeypatch):
    read = []
    monkeypatch.setattr(run, "load_network", lambda kind, path: read.append((kind.__name__, path.name)) or Seen())
    true_frames()
    options = Options(syncnet=Path("s.model"), curricularface=Path("c.pth"))
    found = evaluate(rest, clip, options)
    assert read == [("SyncNet", "s.model"), ("CurricularFace", "c.pth")]
    measured = numbers(found)
    assert measured["idsim", ""].value == pytest.approx(1)
    assert measured["idsim", ""].frames == 32
    assert measured["lse_d", ""].value > 0
    assert measured["lse_c", ""].frames == 27  # windows: 32 frames less five, as published
    for view in found.report.views:
        assert {"lse_c", "lse_d", "idsim"} <= {m.metric for m in view.measured if m.reason is None}
    assert not {"Sync (LSE-C, LSE-D)", "IDSIM"} & {m.metric for m in found.report.measured}


def test_networks_that_judge_need_a_tracker_and_enough_frames(rest, clip, tracker, true_frames, monkeypatch):
    monkeypatch.setattr(run, "load_network", lambda kind, path: Seen())
    true_frames()
    options = Options(syncnet=Path("s.model"), curricularface=Path("c.pth"), views=False, frames=10)
    few = numbers(evaluate(rest, clip, options))
    assert "it needs 25 windows" in few["Sync (LSE-C, LSE-D)", ""].reason
    assert few["idsim", ""].frames == 10
    with monkeypatch.context() as patch:
        patch.setattr(run, "FaceReader", _raise_import_error)
        blind = numbers(evaluate(rest, clip, options))
    for metric in ("Sync (LSE-C, LSE-D)", "IDSIM"):
        assert blind[metric, ""].reason == "there is no tracker"


def _raise_import_error():
    raise ImportError("there is no tracker")


def test_frames_without_a_face_are_left_out(rest, tmp_path, tracker, write_clip):
    clip = write_clip(tmp_path / "holes", invalid=(8, 11))
    report = evaluate(rest, clip, Options(views=False, batch=8)).report
    assert report.frames == 30
    assert "2 frames were left out" in " ".join(report.notes)
    assert [math.isnan(value) for value in report.curves["mouth_truth"]] == [i in (8, 11) for i in TEST]


@pytest.mark.parametrize("published", [True, False])
def test_novel_views_are_the_published_ones(make_avatar, published):
    config = make_avatar(None).identity.config
    for view, (yaw, down) in zip(novel_views(config, published=published), VIEWS, strict=True):
        pose, _ = cameras.unpack(view.camera)
        if published:
            h, v = math.radians(90 + yaw), math.radians(90 + down)
            expected = cameras.look_at_eg3d(h, v, radius=config.radius, pivot=config.pivot)
        else:
            expected = cameras.look_at(yaw, -down, radius=config.radius, pivot=config.pivot)
            assert (view.yaw, view.pitch) == (pytest.approx(yaw), pytest.approx(-down))
        torch.testing.assert_close(pose, expected)
        assert (view.yaw > 0) == (yaw > 0)
        assert (view.pitch > 0) == (down < 0)


def test_a_published_driver_has_published_views(make_avatar, tmp_path, clip):
    make_avatar("published", speech=7).save(tmp_path / "published")
    report = evaluate(tmp_path / "published", clip, Options(frames=1)).report
    assert "Novel views are placed by EG3D's formula, as published." in report.notes
    assert report.views[0].pitch < 17  # of 20
    assert "does not say which speech features" in " ".join(report.notes)


class TestInputs:
    def test_another_camera(self, avatar, clip, tmp_path):
        avatar.identity.config = dataclasses.replace(avatar.identity.config, focal=3.6)
        avatar.save(tmp_path / "wide")
        with pytest.raises(ValueError, match=r"focal length 4\.265, .* the avatar was made for 3\.6"):
            evaluate(tmp_path / "wide", clip)

    @pytest.mark.parametrize("change", [{"name": "hubert"}, {"model": "facebook/other"}, {"width": 9}])
    def test_other_features(self, folder, clip, tmp_path, write_clip, change):
        features = dataclasses.replace(Dataset(clip).features_info, **change)
        clip = write_clip(tmp_path / "other", features=features)
        with pytest.raises(ValueError, match="prepare the clip with the same --features"):
            evaluate(folder, clip)

    def test_features_of_another_clip_are_brought_back(self, avatar, clip, tmp_path, write_clip):
        features = dataclasses.replace(Dataset(clip).features_info, mean=-1.0, scale=3.0)
        speech, notes = speech_of(avatar, Dataset(write_clip(tmp_path / "other", features=features)))
        given = torch.tensor([[0.5] * 7, [0.0] * 7])  # the second is beyond the clip's end
        expected = (0.5 * 3.0 - 1.0 + 2.0) / 1.5
        torch.testing.assert_close(speech(given), torch.tensor([[expected] * 7, [0.0] * 7]))
        assert "brought to the avatar's mean" in notes[0]

    def test_no_such_split(self, rest, clip):
        with pytest.raises(ValueError, match=r"no split 'tests'; it has train, val, test"):
            evaluate(rest, clip, Options(split="tests"))

    def test_no_dataset(self, rest, tmp_path):
        with pytest.raises(ValueError, match="is no dataset"):
            evaluate(rest, tmp_path)

    def test_no_face_at_all(self, rest, tmp_path, write_clip):
        clip = write_clip(tmp_path / "blind", invalid=tuple(TEST))
        with pytest.raises(ValueError, match="has no frame with a face"):
            evaluate(rest, clip)

    @pytest.mark.parametrize("wrong", [{"frames": 0}, {"batch": 0}])
    def test_counts_must_be_positive(self, wrong):
        with pytest.raises(ValueError, match="must be positive"):
            Options(**wrong)


def test_cameras_of_an_avatar_s_own_clip_are_the_refined_ones(rest, clip):
    avatar, dataset = Avatar.load(rest), Dataset(clip)
    turned = cameras.pack(cameras.look_at(torch.full((40,), 9.0), 0.0), cameras.intrinsics(cameras.FFHQ_FOCAL)).float()
    nothing = torch.zeros(40, 6)
    avatar.motion = Motion(turned, nothing[:, :3], nothing[:, 0], nothing.view(40, 3, 2), nothing.view(40, 2, 3))
    for source, expected in (({"name": "another.mp4"}, dataset.cameras), (dataset.meta.source, turned)):
        avatar.facts = {"source": source}
        playback = Playback(avatar, dataset, dtype=torch.float32, batch=2)
        found = playback.sample([8, 9]).camera
        torch.testing.assert_close(found, torch.as_tensor(expected)[[8, 9]].float())
        assert any("refined" in note for note in playback.notes) is (source == dataset.meta.source)
