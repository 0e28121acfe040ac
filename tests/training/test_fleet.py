"""Many people: one that is killed does not keep the others, and goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from talk3d import Avatar, cli
from talk3d.training import fleet as module
from talk3d.training.config_file import write_config
from talk3d.training.fleet import Identity, fit_fleet, read_identities
from tests.training.conftest import tiny_config

# talk3d on the drawn clip; the one who makes "eve" is killed in the driver's fourth step, once
_CHILD = """
import importlib.util, os, signal, sys
from pathlib import Path
from typing import Literal
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
here = Path(sys.argv[1])
conftest, tests = load("conftest", here / "conftest.py"), load("tests", here / "test_fit.py")
from talk3d import cli
from talk3d.models import superresolution
from talk3d.training import driver, fit
import torch
torch.set_num_threads(1)
superresolution.VARIANTS["tiny"] = superresolution._Shape(8, (8, 8), (2, 2))
conftest.settings.Variant = Literal["small", "8xdc", "tiny"]
fit.Dataset = lambda folder: conftest.Clip()
fit._identity_stages = lambda context: [tests.Rest(context)]
out = Path(sys.argv[sys.argv.index("--out") + 1])
stepped = driver.DriverStage.stepped
def killed(stage, step):
    stepped(stage, step)
    if out.name == "eve" and step == 3 and "--resume" not in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
driver.DriverStage.stepped = killed
sys.exit(cli.main(sys.argv[2:]))
"""


def test_one_is_killed_the_others_finish_and_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    command = (sys.executable, "-c", _CHILD, str(Path(__file__).parent))
    write_config(tiny_config(), tmp_path / "settings.toml")
    options = ["--config", str(tmp_path / "settings.toml")]
    said = []

    def run():
        people = [Identity(Path("clip"), tmp_path / name) for name in ("ada", "eve", "bob")]
        return fit_fleet(people, options, table=tmp_path / "table.json", say=said.append, command=command)

    rows = run()
    assert [row["state"] for row in rows] == ["done", "failed", "done"]
    assert rows[1]["note"].startswith("killed by signal 9")
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert not (tmp_path / "eve").exists()
    said.clear()
    rows = run()
    assert [row["state"] for row in rows] == ["done"] * 3
    assert [row["note"] for row in rows] == ["was there", "", "was there"]
    assert said == [f"{tmp_path / 'eve'}: goes on on cpu", f"{tmp_path / 'eve'}: done"]
    ada, eve = (Avatar.load(tmp_path / name).state_dict() for name in ("ada", "eve"))
    assert all(torch.equal(value, eve[name]) for name, value in ada.items())


def test_each_device_has_one_at_a_time(tmp_path, monkeypatch):
    """Of two GPUs each has one process, that sees it alone; the third person waits for the first who is done."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(module, "_is_done", lambda out: out.exists())
    child = "import os, sys, time; from pathlib import Path; time.sleep(0.5)\n"
    child += "Path(sys.argv[sys.argv.index('--out') + 1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    people = [Identity(Path("clip"), tmp_path / name) for name in "abc"]
    rows = fit_fleet(people, [], table=tmp_path / "table.json", command=(sys.executable, "-c", child))
    assert [row["state"] for row in rows] == ["done"] * 3
    assert {row["device"] for row in rows[:2]} == {"cuda:0", "cuda:1"}
    assert [(tmp_path / name).read_text() for name in "ab"] == ["5", "7"]
    assert (tmp_path / "c").read_text() in ("5", "7")


def test_what_failed_is_told(tmp_path):
    child = "import sys; print('talk3d: there is no clip', file=sys.stderr); sys.exit(1)"
    (row,) = fit_fleet(
        [Identity(Path("clip"), tmp_path / "ada")], [], table=tmp_path / "t.json", command=(sys.executable, "-c", child)
    )
    assert row["state"] == "failed"
    assert row["note"].startswith("exit code 1; ")
    assert row["note"].endswith("says: talk3d: there is no clip")


def test_the_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# people\ndata/ada avatars/ada\n\ndata/eve avatars/eve  # again\n")
    assert [(str(one.data), str(one.out)) for one in read_identities(path)] == [
        ("data/ada", "avatars/ada"),
        ("data/eve", "avatars/eve"),
    ]
    for text, message in (
        ("data/ada\n", r"list\.txt, line 1 must be a dataset and an avatar, .* got 'data/ada'"),
        ("a x\nb x\n", r"list\.txt, line 2: x is made twice"),
        ("# nobody\n", r"list\.txt names nobody"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_identities(path)
    with pytest.raises(ValueError, match=r"none\.txt cannot be read"):
        read_identities(tmp_path / "none.txt")


class TestCommandLine:
    def test_everybody_gets_the_settings(self, tmp_path, monkeypatch, capsys):
        seen = {}

        def fit_fleet(identities, options, *, table, say):
            seen.update(people=identities, options=options, table=table)
            return [{**one.row(), "state": "done" if one.out.name == "ada" else "failed"} for one in identities]

        monkeypatch.setattr(module, "fit_fleet", fit_fleet)
        path = tmp_path / "list.txt"
        path.write_text("d/ada a/ada\nd/eve a/eve\n")
        assert cli.main(["fit", "--identities", str(path), "--preset", "demo", "--seed", "4", "--json"]) == 1
        rows = json.loads(capsys.readouterr().out)
        assert [row["state"] for row in rows] == ["done", "failed"]
        assert seen["options"] == ["--config", str(tmp_path / "list.fleet.toml")]
        assert "seed = 4" in (tmp_path / "list.fleet.toml").read_text()

    @pytest.mark.parametrize(
        "wrong", [[], ["data"], ["--out", "ada"], ["data", "--out", "ada", "--identities", "list.txt"]]
    )
    def test_wrong_use(self, wrong, capsys):
        with pytest.raises(SystemExit) as left:
            cli.main(["fit", *wrong])
        assert left.value.code == 2
        assert "fit needs a dataset and --out, or --identities alone" in capsys.readouterr().err
