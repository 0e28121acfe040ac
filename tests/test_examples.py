"""The examples run, each in its quickest form, and do what they say. ``test_triplane_example.py`` has the fourth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from talk3d import Avatar

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str | Path, folder: Path) -> str:
    """Run an example as a user does; returns what it printed."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}  # threads only wait for each other here
    environment.pop("TRITON_INTERPRET", None)  # in which an example's rays take minutes
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_operators_compares_implementations(tmp_path: Path):
    said = run("operators.py", "--quick", folder=tmp_path)
    errors = {line.split()[0]: re.findall(r"\d\.\de-\d\d", line) for line in said.splitlines()}
    assert len(errors["reference"]) == 2
    assert max(map(float, errors["reference"])) < 1e-4


def test_train_makes_an_avatar_of_the_synthetic_clip(tmp_path: Path):
    pytest.importorskip("mediapipe")
    said = run("train.py", tmp_path / "work", "--quick", folder=tmp_path)
    assert "identity: psnr" in said
    avatar = Avatar.load(tmp_path / "work" / "avatar")
    assert avatar.driver is not None
    assert avatar.bake().side == 256


def test_render_writes_a_video_with_sound(make_avatar, tmp_path: Path):
    import av

    avatar = make_avatar("aligned", speech=80)
    avatar.facts = {"features": {"name": "logmel", "width": 80, "mean": -2.0, "scale": 1.0}}
    avatar.save(tmp_path / "ada")
    sound = tmp_path / "clip.wav"
    write_tone(sound, seconds=0.2)
    said = run("render.py", "ada", "talking.mp4", sound, folder=tmp_path)
    assert "talking.mp4: 5 frames of 128 x 128, 0.20 s" in said
    with av.open(str(tmp_path / "talking.mp4")) as video:
        assert {stream.type for stream in video.streams} == {"video", "audio"}
        assert sum(1 for _ in video.decode(video=0)) == 5


def write_tone(path: Path, seconds: float) -> None:
    import numpy as np
    import soundfile

    time = np.arange(round(16000 * seconds)) / 16000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * time), 16000)


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES.glob("*.py") if path.stem != "triplane"], ids=lambda p: p.stem
)
def test_an_example_is_read_in_a_minute(path: Path):
    assert len(path.read_text().splitlines()) < 60
