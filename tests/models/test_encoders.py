"""Encoders of speech and pose: what a token depends on, and that no number leaves the range it is meant for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from talk3d.models.encoders import TOKENS, AudioEncoder, ConditionEncoder, Conditions, fourier


def conditions(batch: int = 4) -> Conditions:
    return Conditions(torch.rand(batch), torch.randn(batch, 3) * 20, torch.rand(batch, 3, 2) - 0.5)


def changed(encoder: ConditionEncoder, features: Tensor, found: Conditions, other: Conditions) -> set[str]:
    """The tokens that differ."""
    differs = (encoder(features, found) - encoder(features, other)).abs().amax((0, 2)) > 0
    return {name for name, differ in zip(TOKENS, differs.tolist(), strict=True) if differ}


def test_fourier_by_hand():
    found = fourier(torch.tensor([[0.5, 2.0]]), 2)
    angles = [0.5, 2.0], [1.0, 4.0]
    waves = [[wave(angle) for angle in both] for both in angles for wave in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor([[0.5, 2.0, *(number for wave in waves for number in wave)]]))


class TestSpeech:
    @pytest.fixture
    def audio(self) -> AudioEncoder:
        return AudioEncoder(7, width=16).requires_grad_(False)

    def test_consecutive_frames_are_frames_with_their_neighbours(self, audio):
        features = torch.randn(11, 16, 7)
        nothing = torch.zeros(16, 7)
        windows = [
            torch.stack([features[i] if 0 <= i < 11 else nothing for i in range(frame - 4, frame + 4)])
            for frame in range(11)
        ]
        torch.testing.assert_close(audio(features), audio(torch.stack(windows)))

    @pytest.mark.parametrize("frames", [1, 3, 20])
    def test_each_frame_is_encoded_once(self, audio, frames, monkeypatch):
        encoded = []
        encode = audio.encode
        monkeypatch.setattr(audio, "encode", lambda features: encoded.append(len(features)) or encode(features))
        assert audio(torch.randn(frames, 16, 7)).shape == (frames, 16)
        assert encoded == [frames + 7]  # and the zeros before and after

    def test_a_token_hears_four_frames_before_and_three_after(self, audio):
        features = torch.randn(20, 16, 7)
        other = features.clone()
        other[10] += 1
        differs = (audio(features) - audio(other)).abs().amax(1) > 0
        assert differs.nonzero().flatten().tolist() == list(range(7, 15))

    @pytest.mark.parametrize("shape", [(16, 7), (3, 15, 7), (3, 16, 6), (3, 7, 16, 7), (1, 3, 8, 16, 7)])
    def test_bad_input(self, audio, shape):
        with pytest.raises(
            ValueError, match=rf"features must have the shape .*, got {list(shape)}".replace("[", r"\[")
        ):
            audio(torch.zeros(shape))


class TestConditions:
    @pytest.fixture(params=["aligned", "published"])
    def encoder(self, request) -> ConditionEncoder:
        return ConditionEncoder(7, semantics=request.param).requires_grad_(False)

    def test_each_number_has_its_token(self, encoder):
        features, found = torch.randn(4, 16, 7), conditions()
        assert encoder(features, found).shape == (4, 5, 64)
        for token, name in (("blink", "blink"), ("angles", "angles"), ("landmarks", "landmarks")):
            other = found._replace(**{name: getattr(found, name) + 0.1})
            assert changed(encoder, features, found, other) == {token}
        assert (encoder(features, found) - encoder(features + 1, found)).abs().amax((0, 2))[1:].eq(0).all()
        torch.testing.assert_close(encoder(features, found)[:, 2], encoder.null.expand(4, -1))

    def test_windows_of_any_frames(self, encoder):
        features, found = torch.randn(4, 8, 16, 7), conditions()
        torch.testing.assert_close(encoder(features, found)[:, 0], encoder.audio(features))

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("blink", torch.zeros(4, 1), r"blink must have the shape \[4\], got \[4, 1\]"),
            ("angles", torch.zeros(4, 2), r"angles must have the shape \[4, 3\], got \[4, 2\]"),
            ("landmarks", torch.zeros(4, 6), r"landmarks must have the shape \[4, 3, 2\], got \[4, 6\]"),
            ("landmarks", torch.zeros(3, 3, 2), r"landmarks must have the shape \[4, 3, 2\], got \[3, 3, 2\]"),
        ],
    )
    def test_bad_input(self, encoder, name, value, message):
        with pytest.raises(ValueError, match=message):
            encoder(torch.zeros(4, 16, 7), conditions()._replace(**{name: value}))

    def test_bad_semantics(self):
        with pytest.raises(ValueError, match="semantics must be 'aligned' or 'published', got 'fixed'"):
            ConditionEncoder(7, semantics="fixed")


class TestRanges:
    @staticmethod
    def inputs_of(semantics: str, found: Conditions) -> dict[str, Tensor]:
        """What the Fourier encoders are given."""
        encoder, seen = ConditionEncoder(7, semantics=semantics), {}
        for name in Conditions._fields:
            getattr(encoder, name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        encoder(torch.zeros(len(found.blink), 16, 7), found)
        return seen

    def test_published_takes_action_units_and_degrees(self):
        found = conditions()
        seen = self.inputs_of("published", found)
        torch.testing.assert_close(seen["blink"], 2 * found.blink[:, None])
        torch.testing.assert_close(seen["angles"], found.angles)
        torch.testing.assert_close(seen["landmarks"], found.landmarks.flatten(1))

    def test_aligned_is_bounded(self):
        rim = Conditions(torch.tensor([0.0, 1.0]), torch.tensor([[-90.0] * 3, [90.0] * 3]), torch.ones(2, 3, 2))
        for values in self.inputs_of("aligned", rim).values():
            torch.testing.assert_close(values.abs(), torch.ones_like(values))

    def test_a_tracker_s_noise_hardly_moves_an_aligned_token(self):
        """Published encodings alias: noise that nobody sees changes half of their numbers by more than a half."""
        moved = {}
        for semantics in ("aligned", "published"):
            encoder = ConditionEncoder(7, semantics=semantics)
            blink = torch.rand(256)
            seen = [self.inputs_of(semantics, conditions(256)._replace(blink=b)) for b in (blink, blink + 0.005)]
            waves = [fourier(values["blink"], encoder.blink.octaves) for values in seen]
            moved[semantics] = (waves[0] - waves[1]).abs().mean()
        assert moved["aligned"] < 0.05
        assert moved["published"] > 0.3
