"""The demo: which commands it runs, in which order, and what it does when some of it is there or goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from talk3d import demo
from talk3d.data import synthetic


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the demo with commands that only write down what they were asked; also gives their list."""
    monkeypatch.setattr(synthetic, "cached", lambda **options: synthetic.SyntheticClip(tmp_path / "clip"))
    seen: list[list[str]] = []

    def run(failing: str | None = None) -> int:
        def command(arguments):
            seen.append(list(arguments))
            if arguments[0] == failing:
                return 1
            Path(arguments[arguments.index("--out") + 1]).mkdir()
            return 0

        return demo.run_demo(tmp_path / "out", command)

    return run, seen


def test_it_goes_the_whole_way_and_says_so(run, tmp_path, capsys):
    start, seen = run
    assert start() == 0
    assert [arguments[0] for arguments in seen] == ["prepare", "fit", "render", "evaluate"]
    assert seen[0][1] == str(tmp_path / "clip" / "clip.mp4")
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"$ talk3d {name}" in said for name in ("prepare", "fit", "render", "evaluate"))
    assert "talking.mp4" in said
    assert "next:" in said


def test_the_speech_is_none_of_the_clip_s(run, tmp_path):
    run[0]()
    samples, rate = soundfile.read(tmp_path / "out" / "speech.wav")
    assert rate == 16_000
    assert len(samples) > 8 * rate
    assert str(tmp_path / "out" / "speech.wav") in run[1][2]


def test_what_failed_is_its_exit_code_and_the_next_run_goes_on_from_there(run, tmp_path):
    start, seen = run
    assert start(failing="fit") == 1
    assert [arguments[0] for arguments in seen] == ["prepare", "fit"]
    (tmp_path / "out" / "avatar.fit").mkdir()
    assert start() == 0
    assert [arguments[0] for arguments in seen[2:]] == ["fit", "render", "evaluate"]
    assert "--resume" in seen[2]
    assert "--resume" not in seen[1]
