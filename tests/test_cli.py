"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from talk3d import cli, info


def test_console_script_is_installed():
    script = Path(sys.executable).with_name("talk3d")
    text = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "info" in text
    assert "demo" in text


def test_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == info.collect()["version"]


@pytest.mark.parametrize("arguments", [[], ["inform"], ["info", "--xml"]])
def test_wrong_use_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, RuntimeError])
def test_failure_is_1_and_a_sentence(error, monkeypatch, capsys):
    monkeypatch.setattr(info, "show", lambda **_: (_ for _ in ()).throw(error("clip.mp4 has no audio")))
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err == "talk3d: clip.mp4 has no audio\n"


def test_interrupt_is_130(monkeypatch, capsys):
    monkeypatch.setattr(info, "show", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(info, "show", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "talk3d", "info", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [["info", "--json"], ["convert", "none.pkl", "--list"], ["fit", "--help"]])
def test_whoever_stops_reading_is_not_told(arguments, tmp_path):
    torch.save({f"layer.{k}": torch.zeros(1) for k in range(999)}, tmp_path / "none.pkl")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as deaf:
        command = [sys.executable, "-m", "talk3d", *arguments]
        done = subprocess.run(command, stdout=deaf, stderr=subprocess.PIPE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        ("evaluate", ["AVATAR DATA", "{train,val,test}", "--lpips PATH"], ["None}|"]),
        ("fit", ["[DATA]", "--run.lpips PATH", "(default: held)"], ["None}|", "``", "Folder of local weights"]),
        ("bench", ["[AVATAR]", "--threads INT"], ["None}|"]),
        ("convert", ["CHECKPOINT"], ["None}|"]),
        ("prepare", ["CLIP"], ["None}|"]),
    ],
)
def test_help_names_what_is_wanted(command, shown, hidden, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert all(text in printed for text in shown)
    assert not any(text in printed for text in hidden)


@pytest.mark.parametrize("out", ["file", "file/deep"])
def test_a_demo_below_a_file_is_a_sentence(out, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--out", str(tmp_path / out)]) == 1
    assert "cannot be made: part of its path is a file" in capsys.readouterr().err
