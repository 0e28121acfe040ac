"""A small avatar on disk, and speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from talk3d import Avatar
from talk3d.motion import imagine

RATE = 16000


def write_speech(path: Path, seconds: float, rate: int = RATE) -> Path:
    """A tone whose loudness changes."""
    t = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * t) * (1 + np.sin(2 * np.pi * 3 * t)) / 2, rate)
    return path


@pytest.fixture
def avatar(make_avatar) -> Avatar:
    """An avatar with a clip of 12 frames behind it, before a plate of 300 x 200 pixels."""
    avatar = make_avatar("aligned", speech=80)
    avatar.identity.decoder.output.bias[0] = 3  # half of the rays meet something
    avatar.facts = {"features": {"name": "logmel", "width": 80, "mean": -2.0, "scale": 1.0}}
    moves = imagine(range(12), focal=avatar.identity.config.focal)
    crop = torch.tensor([[1 / 150, 0, -0.3], [0, 1 / 150, -0.2]], dtype=torch.float64)
    avatar.motion = moves._replace(crops=crop.expand(12, 2, 3).clone())
    avatar.plate = torch.randint(0, 255, (200, 300, 3), dtype=torch.uint8)
    return avatar


@pytest.fixture
def folder(avatar, tmp_path: Path) -> Path:
    avatar.save(tmp_path / "ada")
    return tmp_path / "ada"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_speech(tmp_path / "speech.wav", 0.5)


@pytest.fixture(name="write_speech")
def write_speech_fixture():
    return write_speech
