"""The whole of ``talk3d fit``: an avatar that renders, the same after a kill, and sentences for what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from talk3d import Avatar, cli
from talk3d.models.encoders import Conditions
from talk3d.training import fit as module
from talk3d.training.config import FitConfig
from talk3d.training.config_file import CONFIG, read_config, run_folder
from talk3d.training.loop import Interrupted
from talk3d.training.stage import StageContext


class Rest:
    """In place of the stages that make a person at rest: a few steps on the planes."""

    name, steps = "identity", 2

    def __init__(self, context: StageContext) -> None:
        self.context = context

    def begin(self) -> None:
        self.context.identity.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"identity": self.context.identity}

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.context.identity.planes, self.context.identity.decoder.output.bias], lr=0.5)

    def rate(self, step: int) -> float:
        return 1.0

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        identity = self.context.identity
        wanted = torch.randn(identity.planes.shape, generator=generator)
        return {"planes": (identity.planes - wanted).square().mean() - identity.decoder.output.bias[0]}

    def batch(self) -> str:
        return "no frame"

    def stepped(self, step: int) -> None: ...

    def measure(self) -> dict[str, float]:
        return {}

    def preview(self) -> dict[str, Tensor]:
        return {}


def weights(folder: Path) -> dict[str, Tensor]:
    avatar = Avatar.load(folder)
    return avatar.state_dict()


def equal(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture
def run(clip, make_config, monkeypatch):
    monkeypatch.setattr(module, "Dataset", lambda folder: clip)

    def run(out: Path, settings: FitConfig | None = None, **options: Any) -> dict[str, Any]:
        settings = settings or make_config()
        return module.fit(Path("clip"), out, settings, quiet=True, identity_stages=lambda c: [Rest(c)], **options)

    return run


def test_an_avatar_is_made(run, tmp_path, make_config, clip):
    result = run(tmp_path / "ada")
    assert json.loads(json.dumps(result))["avatar"] == str(tmp_path / "ada")
    assert result["device"] == "cpu"
    assert "face PSNR" in result["figures"]["driver"]
    avatar = Avatar.load(tmp_path / "ada")
    features = torch.from_numpy(clip.features[:3])
    conditions = Conditions(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 3, 2))
    baked = avatar.bake()
    image = baked.frames(baked.tokens(features, conditions), torch.from_numpy(clip.cameras[:3])).image
    assert image.shape == (3, 3, 32, 32)
    assert image.isfinite().all()
    facts = avatar.facts
    assert facts["fps"] == 25.0
    assert facts["features"] == {"name": "logmel", "width": 4, "mean": 0.0, "scale": 1.0, "model": None}
    assert facts["background"] == "plate"
    assert facts["source"] == {"name": "clip"}
    assert facts["crop"]["focal"] == 4.2647
    assert facts["training"]["config"]["driver"]["steps"] == 6
    folder = run_folder(tmp_path / "ada")
    assert read_config(folder / CONFIG) == make_config()
    assert {path.name for path in (folder / "previews").iterdir()} >= {
        "driver_000006_frames.png",
        "driver_000006_turned.png",
    }
    assert list((folder / "tensorboard").iterdir())


def test_two_runs_give_the_same_numbers_and_another_seed_others(run, tmp_path, make_config):
    for name in ("ada", "eve"):
        run(tmp_path / name)
    assert equal(tmp_path / "ada", tmp_path / "eve")
    run(tmp_path / "bob", replace(make_config(), seed=1))
    assert not equal(tmp_path / "ada", tmp_path / "bob")


# runs in another process, until it is killed
_CHILD = """
import importlib.util, sys, time
from pathlib import Path
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
here, out = Path(sys.argv[1]), Path(sys.argv[2])
conftest, tests = load("conftest", here / "conftest.py"), load("tests", here / "test_fit.py")
from talk3d.models import superresolution
from talk3d.training import fit, loop
import torch
torch.set_num_threads(1)
superresolution.VARIANTS["tiny"] = superresolution._Shape(8, (8, 8), (2, 2))
fit.Dataset = lambda folder: conftest.Clip()
step = loop._step
def slow(stage, number, *rest):
    print(stage.name, number, flush=True)
    found = step(stage, number, *rest)
    time.sleep(0.05)
    return found
loop._step = slow
fit.fit(Path("clip"), out, conftest.tiny_config(), quiet=True, identity_stages=lambda c: [tests.Rest(c)])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_that_is_killed_at_a_random_step_and_resumed_ends_with_the_same_weights(run, tmp_path):
    step = int.from_bytes(os.urandom(1), "little") % 6
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(tmp_path / "ada")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout or ():
            if line == f"driver {step}\n":
                time.sleep(int.from_bytes(os.urandom(1), "little") / 256 * 0.1)  # anywhere in the step, or after it
                child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "ada").exists()
    run(tmp_path / "ada", resume=True)
    run(tmp_path / "eve")
    assert equal(tmp_path / "ada", tmp_path / "eve"), f"killed in step {step}"


def test_ctrl_c_says_how_to_go_on(run, tmp_path, monkeypatch):
    stepped = module.DriverStage.stepped

    def interrupt(stage, step):
        stepped(stage, step)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module.DriverStage, "stepped", interrupt)
    with pytest.raises(Interrupted, match=r"stopped after step 4 of 6 .* talk3d fit clip --out .*ada --resume$"):
        run(tmp_path / "ada")
    monkeypatch.undo()


def test_what_cannot_be_begun(run, tmp_path, make_config):
    with pytest.raises(ValueError, match=r"there is nothing to resume: .*ada.fit has no run.json"):
        run(tmp_path / "ada", resume=True)
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "file").touch()
    with pytest.raises(ValueError, match=r"ada exists already"):
        run(tmp_path / "ada")
    (tmp_path / "below").touch()
    for out in (tmp_path / "below" / "ada", tmp_path / "below" / "deep" / "ada"):
        with pytest.raises(ValueError, match=r"ada cannot be made: part of its path is a file"):
            run(out)
    (tmp_path / "bob.fit").touch()
    with pytest.raises(ValueError, match=r"bob.fit is a file, and should be the folder of the run"):
        run(tmp_path / "bob")
    run(tmp_path / "eve")
    with pytest.raises(ValueError, match=r"eve exists already"):
        run(tmp_path / "eve")


def test_what_cannot_be_resumed(run, tmp_path, make_config, clip):
    run(tmp_path / "ada")
    (tmp_path / "ada").rename(tmp_path / "done")
    with pytest.raises(ValueError, match=r"ada.fit holds a run that is not finished: add --resume"):
        run(tmp_path / "ada")
    other = replace(make_config(), seed=4)
    with pytest.raises(ValueError, match=r"ada.fit was begun with other settings: seed; leave them out"):
        run(tmp_path / "ada", other, resume=True)
    about = (tmp_path / "ada.fit" / "run.json").read_text()
    for damage in ("", "[1]", about[:-9]):
        (tmp_path / "ada.fit" / "run.json").write_text(damage)
        with pytest.raises(ValueError, match=r"ada.fit/run.json is damaged: it does not describe a run"):
            run(tmp_path / "ada", resume=True)
    (tmp_path / "ada.fit" / "run.json").write_text(about)
    clip.meta.source["name"] = "another"
    try:
        with pytest.raises(ValueError, match=r"ada.fit is a run on another dataset than clip"):
            run(tmp_path / "ada", resume=True)
    finally:
        clip.meta.source["name"] = "clip"
    rerun = replace(make_config(), run=replace(make_config().run, log_every=3))
    run(tmp_path / "ada", rerun, resume=True)  # what changes no number may be another
    assert equal(tmp_path / "ada", tmp_path / "done")


def test_no_gpu(run, tmp_path, make_config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = replace(make_config(), run=replace(make_config().run, device="cuda"))
    with pytest.raises(ValueError, match=r"run.device is cuda, and there is no GPU"):
        run(tmp_path / "ada", settings)


class TestCommandLine:
    def test_no_dataset(self, tmp_path, capsys):
        assert cli.main(["fit", str(tmp_path), "--out", str(tmp_path / "ada")]) == 1
        assert capsys.readouterr().err == (
            f"talk3d: {tmp_path} is no dataset: it has no meta.json; talk3d prepare makes one\n"
        )

    def test_a_dataset_of_another_version(self, tmp_path, capsys):
        (tmp_path / "meta.json").write_text(json.dumps({"format": "talk3d dataset", "version": 99}))
        assert cli.main(["fit", str(tmp_path), "--out", str(tmp_path / "ada")]) == 1
        assert "has version 99, and this talk3d reads" in capsys.readouterr().err

    def test_a_file_that_does_not_fit(self, tmp_path, capsys):
        (tmp_path / "mine.toml").write_text("sed = 1")
        arguments = ["fit", str(tmp_path), "--out", str(tmp_path / "ada"), "--config", str(tmp_path / "mine.toml")]
        assert cli.main(arguments) == 1
        assert capsys.readouterr().err == f"talk3d: {tmp_path / 'mine.toml'}: there is no setting sed\n"

    @pytest.mark.parametrize("wrong", [["--preset", "huge"], ["--driver.steps", "many"], ["--resume", "--preset"]])
    def test_wrong_use(self, tmp_path, wrong):
        with pytest.raises(SystemExit) as left:
            cli.main(["fit", str(tmp_path), "--out", str(tmp_path / "ada"), *wrong])
        assert left.value.code == 2

    def test_every_setting_is_an_option_and_the_result_is_json(self, monkeypatch, capsys, tmp_path):
        seen: dict[str, Any] = {}

        def fit(data: Path, out: Path, config: FitConfig, **options: Any) -> dict[str, Any]:
            seen.update(options, data=data, config=config)
            return {"avatar": str(out)}

        monkeypatch.setattr(module, "fit", fit)
        options = ["--preset", "demo", "--seed", "5", "--driver.losses.mouth.weight", "2.5", "--run.clip", "0"]
        assert cli.main(["fit", "data", "--out", "ada", "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out) == {"avatar": "ada"}
        config = seen["config"]
        assert (config.seed, config.driver.losses.mouth.weight, config.run.clip) == (5, 2.5, 0.0)
        assert config.driver.steps == 500
        assert seen["quiet"]
        assert not seen["resume"]

    def test_ctrl_c(self, monkeypatch, capsys):
        def fit(*arguments: Any, **options: Any) -> dict[str, Any]:
            raise Interrupted("stopped; go on with: that")

        monkeypatch.setattr(module, "fit", fit)
        assert cli.main(["fit", "data", "--out", "ada"]) == 130
        assert capsys.readouterr().err == "talk3d: stopped; go on with: that\n"
