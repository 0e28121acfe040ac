"""Settings: presets, a file, and what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from talk3d.models.superresolution import VARIANTS
from talk3d.training.command import fit_defaults
from talk3d.training.config import PRESETS, FitConfig, IdentityStageConfig, ModelConfig, RunConfig, Term
from talk3d.training.config_check import check
from talk3d.training.config_file import CONFIG, changes, from_dict, read_config, run_folder, to_dict, write_config


@pytest.mark.parametrize(
    ("preset", "planes", "view", "picture", "samples"),
    [("demo", 128, 64, 256, 16), ("draft", 256, 64, 256, 24), ("full", 256, 128, 512, 48)],
)
def test_sizes_of_the_presets(preset, planes, view, picture, samples):
    model = PRESETS[preset].model
    scene = model.scene(focal=4.0, radius=2.7, pivot=(0.0, 0.0, 0.2))
    assert (scene.plane_resolution, scene.resolution) == (planes, view)
    assert VARIANTS[scene.superresolution].resolution == picture
    assert (scene.rendering.coarse, scene.rendering.fine) == (samples, samples)
    assert scene.camera()[:12].view(3, 4)[2, 3] == pytest.approx(2.7)


def test_a_file_says_what_was_set(tmp_path):
    config = replace(PRESETS["demo"], seed=7, run=RunConfig(lpips=Path("a/b.pth"), clip=0.5))
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config
    assert from_dict(to_dict(config)) == config


def test_a_file_may_say_little(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 3\n[driver]\nrate = 1\n[driver.losses.mouth]\nweight = 2.5\n")
    config = read_config(file, PRESETS["demo"])
    assert (config.seed, config.driver.rate, config.driver.losses.mouth.weight) == (3, 1.0, 2.5)
    assert changes(PRESETS["demo"], config) == ["seed", "driver.rate", "driver.losses.mouth.weight"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 3", "there is no setting sed"),
        ("[driver]\nstep = 3", "there is no setting driver.step"),
        ("[driver]\nsteps = 3.5", r"driver.steps must be int, got 3.5"),
        ("driver = 3", "driver must be a table, got 3"),
        ("[run]\ndevice = 'gpu'", "run.device must be one of auto, cpu, cuda, got 'gpu'"),
        ("seed = true", "seed must be int, got True"),
        ("seed = ", "mine.toml: "),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml cannot be read: No such file"):
        read_config(tmp_path / "none.toml")


def test_a_term_begins_and_grows():
    term = Term(weight=2.0, start=0.25, ramp=0.5)
    assert [term.at(step, 100) for step in (0, 24, 25, 50, 75, 99)] == [0, 0, 0, 1.0, 2.0, 2.0]
    assert Term(weight=3.0).at(0, 100) == 3.0


class TestCommand:
    """Where the settings of ``talk3d fit`` come from."""

    def test_a_preset(self):
        assert fit_defaults(["fit", "data", "--preset", "demo"]).settings == PRESETS["demo"]
        assert fit_defaults(["fit", "data", "--preset=demo"]).settings == PRESETS["demo"]

    def test_without_a_gpu_it_is_draft_and_with_one_full(self, monkeypatch):
        for there, preset in ((False, "draft"), (True, "full")):
            monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
            assert fit_defaults(["fit", "data", "--out", "ada"]).settings == PRESETS[preset]

    def test_a_file_is_over_the_preset(self, tmp_path):
        file = tmp_path / "mine.toml"
        file.write_text("seed = 3")
        found = fit_defaults(["fit", "data", "--config", str(file), "--preset", "demo"]).settings
        assert found == replace(PRESETS["demo"], seed=3)

    def test_a_run_that_is_resumed_has_its_own(self, tmp_path):
        mine = replace(FitConfig(), seed=5)
        run_folder(tmp_path / "ada").mkdir()
        write_config(mine, run_folder(tmp_path / "ada") / CONFIG)
        assert fit_defaults(["fit", "data", "--out", str(tmp_path / "ada"), "--resume"]).settings == mine


@pytest.mark.parametrize(
    "part", [{"model": ModelConfig(view=0)}, {"identity": IdentityStageConfig(plane_rate=float("nan"))}, {"parts": 0}]
)
def test_numbers_that_no_run_can_have(part):
    check(FitConfig())
    with pytest.raises(ValueError, match=r"must be (finite|from 1 to)"):
        check(FitConfig(**part))
