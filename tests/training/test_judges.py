"""Losses of trained networks: values by hand, gradients that point the right way, and what is there without weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from talk3d.networks import ArcFace, LipSyncExpert
from talk3d.training import judges
from talk3d.training.config import DriverLosses, RunConfig, Term
from talk3d.training.driver import DriverStage
from talk3d.training.judges import Judges
from talk3d.training.kept import Kept
from talk3d.training.loop import generator_of
from talk3d.training.perceptual import Perceptual
from talk3d.training.targets import Targets, over_color
from tests.networks.test_networks import made
from tests.training.conftest import SIZE
from tests.training.test_losses import better_downhill


class Means(nn.Module):
    """In place of a face network: the mean colour as a unit vector."""

    def forward(self, faces: Tensor) -> Tensor:
        assert faces.shape[2:] == (112, 112)
        return nn.functional.normalize(faces.mean((2, 3)), dim=1)


class TestIdentity:
    def test_by_hand(self):
        found, target = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
        found[:, 0, :4], target[:, 0, :4] = 1, 0.5
        found[1, 0, :4], found[1, 1, :4] = 1, 1  # 45 degrees from red
        found[:, 2, 4:], target[:, 1, 4:] = 9, 9  # no face
        face = torch.zeros(2, 1, 8, 8)
        face[:, :, :4] = 1
        expected = (0 + 1 - math.sqrt(0.5)) / 2
        assert judges.identity(Means(), found, judges.recognised(Means(), target, face), face).item() == pytest.approx(
            expected, abs=1e-6
        )

    def test_gradient(self):
        found, target = torch.rand(2, 2, 3, 16, 16) * 2 - 1
        network, _ = made(ArcFace)
        face = torch.ones(2, 1, 16, 16)
        with torch.no_grad():
            wanted = judges.recognised(network, target, face)
        better_downhill(lambda x: judges.identity(network, x, wanted, face), found, 1e-2)
        same = judges.identity(network, target, wanted, face)
        assert same.item() == pytest.approx(0, abs=1e-6)


class TestLipSync:
    def test_by_hand(self):
        heard, seen = torch.tensor([[0.6, 0.8], [1.0, 0.0]]), torch.tensor([[0.8, 0.6], [1.0, 0.0]])
        assert judges.lip_sync(heard, seen).item() == pytest.approx(-math.log(0.96) / 2)
        away = judges.lip_sync(heard, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        assert away.item() == pytest.approx(-math.log(1e-6))

    def test_gradient(self):
        network, _ = made(LipSyncExpert)
        mel, mouths = torch.randn(1, 1, 80, 16), torch.rand(1, 15, 48, 96)
        better_downhill(lambda x: judges.lip_sync(*network(mel, x)), mouths, 1e-3)


class TestMouths:
    def test_a_face_of_96_pixels_is_cut_as_it_is(self):
        pictures = torch.rand(2, 3, 200, 200) * 2 - 1
        boxes = torch.tensor([[10.0, 20, 106, 116], [30, 40, 126, 136]]) / 200
        found = judges.mouths(pictures, boxes)
        assert found.shape == (2, 3, 48, 96)
        expected = torch.stack((pictures[0, :, 68:116, 10:106], pictures[1, :, 88:136, 30:126]))
        torch.testing.assert_close(found, (expected.flip(1) + 1) / 2, rtol=0, atol=2e-5)  # blue first

    def test_boxes_hold_all_points(self):
        points = torch.tensor([[[0.1, 0.5], [0.3, 0.2], [0.2, 0.9]]])
        torch.testing.assert_close(judges.face_boxes(points), torch.tensor([[0.1, 0.2, 0.3, 0.9]]))


def test_a_part_is_pasted_and_gradients_flow_to_it():
    part, whole = torch.rand(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 3, 8, 8)
    made_whole = judges.pasted(part, whole, (3, 1))
    assert torch.equal(made_whole[..., 3:7, 1:5], part)
    assert made_whole.sum() == part.sum()
    made_whole.sum().backward()
    assert torch.equal(part.grad, torch.ones_like(part))
    assert judges.pasted(part, torch.zeros(1, 3, 4, 4), (0, 0)) is part


@pytest.fixture
def speaking(clip, tmp_path):
    random = np.random.default_rng(1)
    soundfile.write(tmp_path / "speech.wav", random.normal(size=24 * 640) * 0.1, 16000)
    clip.speech = tmp_path / "speech.wav"
    return clip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for kind, name in ((ArcFace, "face.pth"), (LipSyncExpert, "lips.pth")):
        torch.save(made(kind)[0].state_dict(), folder / name)
    yield RunConfig(arcface=folder / "face.pth", lipsync=folder / "lips.pth", device="cpu")
    for path in folder.iterdir():
        path.unlink()


def test_without_weights_it_is_said_what_is_used_instead(clip):
    found = Judges(RunConfig(), DriverLosses(), Targets(clip, picture=SIZE, view=8))
    assert not found.knows_faces
    assert not found.hears
    identity, sync = found.notes
    assert identity.startswith("The identity loss is off: it needs the weights of ArcFace IR-SE50, and run.arcface")
    assert sync.startswith("The lip-sync loss is off: it needs the weights of Wav2Lip's expert, and run.lipsync names")
    off = DriverLosses(identity=Term(weight=0.0), sync=Term(weight=0.0))
    assert Judges(RunConfig(), off, Targets(clip, picture=SIZE, view=8)).notes == []


def test_another_file_is_named(clip, files):
    swapped = RunConfig(arcface=files.lipsync)
    with pytest.raises(ValueError, match=r"lips\.pth holds the weights of Wav2Lip's lip-sync expert, not of ArcFace"):
        Judges(swapped, DriverLosses(), Targets(clip, picture=SIZE, view=8))


def test_a_window_that_was_not_changed_is_the_clip_s(speaking, files):
    """Rendered frames that look as the clip does score as the clip does, whichever of five they are."""
    targets = Targets(speaking, picture=SIZE, view=8)
    found = Judges(files, DriverLosses(), targets)
    target = targets([5, 6])
    both = found.lip_sync(target.view_image, target, (0, 0), 2)
    by_hand = [
        judges.lip_sync(
            *found._expert(
                found._mel[:, 80 * first // 25 :][None, None, :, :16],
                judges.mouths(
                    (five := targets(range(first, first + 5))).view_image, judges.face_boxes(five.tracked)
                ).flatten(0, 1)[None],
            )
        )
        for first in (4, 3, 4)
    ]
    torch.testing.assert_close(both, by_hand[0])
    torch.testing.assert_close(
        found.lip_sync(target.view_image, target, (0, 0), 1), (by_hand[1] + by_hand[2]) / 2, rtol=1e-5, atol=1e-6
    )
    part = target.view_image[..., 2:6, 1:7]
    torch.testing.assert_close(found.lip_sync(part, target, (2, 1), 2), both)


def test_windows_without_five_frames_of_training_do_not_count(speaking, files):
    targets = Targets(speaking, picture=SIZE, view=8)
    found = Judges(files, DriverLosses(), targets)
    for frames in ([0, 1], [14, 15]):
        target = targets(frames)
        assert found.lip_sync(target.view_image, target, (0, 0), 2) == 0


def test_a_driver_is_trained_with_them(speaking, files, make_context, make_config):
    losses = replace(DriverLosses(), identity=Term(weight=1.0), sync=Term(weight=1.0))
    driver = replace(make_config().driver, losses=losses, part=0.875, batch=4)
    context = make_context(replace(make_config(), driver=driver, run=files))
    stage = DriverStage(context, Perceptual(), Judges(files, losses, context.targets))
    stage.begin()
    terms = stage.losses(1, generator_of(0, "driver", 1))
    for name in ("identity", "sync"):
        assert terms[name] > 0
        (gradient,) = torch.autograd.grad(terms[name], stage.driver.unet.head.maps, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in stage.judges._expert.parameters())
    late = replace(losses, sync=Term(weight=1.0, start=0.9))
    stage.config = replace(stage.config, losses=late)
    assert "sync" not in stage.losses(1, generator_of(0, "driver", 1))


class TestWhatWasFilmed:
    """It is looked at once, when a frame is seen first."""

    def test_a_face_is_recognised_once(self, speaking, files):
        targets = Targets(speaking, picture=SIZE, view=8)
        found = Judges(files, DriverLosses(), targets)
        plain = targets([5, 6])
        seen = []
        found._face.register_forward_hook(lambda network, given, made: seen.append(len(given[0])))
        first = found.identity(plain.image, (plain, plain), (0, 0), large=True)
        assert seen == [1, 1, 2]  # each frame alone, then what was rendered
        again = found.identity(plain.image, (plain, plain), (0, 0), large=True)
        assert seen == [1, 1, 2, 2]
        assert first == again
        assert first.item() == pytest.approx(0, abs=1e-6)
        found.identity(plain.view_image, (plain, plain), (0, 0), large=False)
        assert seen == [1, 1, 2, 2, 1, 1, 2]  # of the view it is another

    def test_another_background_is_no_error(self, speaking, files):
        """A render that is right over a colour is right, although the frame was recognised over the clip's plate."""
        targets = Targets(speaking, picture=SIZE, view=8)
        found = Judges(files, DriverLosses(), targets)
        plain = targets([5, 6])
        plain = plain._replace(matte=0.5 * plain.matte)
        colored = over_color(plain, torch.tensor([1.0, -1.0, 0.5]))
        assert (colored.image - plain.image).abs().max() > 0.5
        loss = found.identity(colored.image, (colored, plain), (0, 0), large=True)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        wrong = found.identity(plain.image, (colored, plain), (0, 0), large=True)
        assert wrong > 1e-4

    def test_mouths_are_cut_once(self, speaking, files, monkeypatch):
        targets = Targets(speaking, picture=SIZE, view=8)
        found = Judges(files, DriverLosses(), targets)
        target = targets([5, 6])
        asked = []
        call = Targets.__call__
        monkeypatch.setattr(Targets, "__call__", lambda self, frames: asked.extend(frames) or call(self, frames))
        for _ in range(2):
            found.lip_sync(target.view_image, target, (0, 0), 2)
        assert sorted(asked) == [4, 5, 6, 7, 8]


def test_what_is_kept_has_a_bound():
    made = []

    def make(frame: int) -> Tensor:
        made.append(frame)
        return torch.full((4,), float(frame)).expand(8, 4)[0]

    kept = Kept(make, room=2 * 4 * 4)
    assert kept([1, 2, 1]).tolist() == [[1.0] * 4, [2.0] * 4, [1.0] * 4]
    assert made == [1, 2]
    kept([3])  # the least recently used one, 2, leaves
    assert kept([1, 3]).tolist() == [[1.0] * 4, [3.0] * 4]
    assert made == [1, 2, 3]
    kept([2])
    assert made == [1, 2, 3, 2]
    assert all(one.untyped_storage().nbytes() == 16 for one in kept._there.values())
