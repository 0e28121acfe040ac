"""``talk3d fit --generator``: from the command line to an avatar, and sentences for files that do not do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from talk3d import Avatar, cli
from talk3d.models import CONFIGS, TriPlaneGenerator
from talk3d.training import fit as module
from talk3d.training.config_file import run_folder, write_config
from talk3d.training.prior import Prior, choose_frames, read_generator
from talk3d.training.targets import Targets
from talk3d.weights import Weights, write_weights
from tests.training.conftest import tiny_config
from tests.training.generated import Generated

TINY = CONFIGS["tiny"]


def tiny_generator() -> TriPlaneGenerator:
    torch.manual_seed(3)
    generator = TriPlaneGenerator(TINY).eval().requires_grad_(False)
    generator.decoder.output.bias[0] = 5.0  # something is there
    return generator


@pytest.fixture
def folder(tmp_path):
    facts = {"axes": "zy", "config": TINY.to_dict(), "published": {}, "notes": []}
    write_weights(Weights("generator", {"generator": tiny_generator().state_dict()}, facts), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def clip(monkeypatch):
    clip = Generated(tiny_generator(), 11, error=1.0)
    clip.splits = {"train": range(7), "val": range(7, 9), "test": range(9, 11)}
    clip.valid[[2, 8]] = False
    clip.meta.source["name"] = "tiny"
    monkeypatch.setattr(module, "Dataset", lambda folder: clip)
    return clip


@pytest.fixture
def command(folder, clip, tmp_path):
    config = tiny_config()
    prior = replace(config.prior, frames=2, inversion=3, tuning=2, rounds=2)
    superresolution = replace(config.superresolution, before=2, steps=2)
    driver = replace(config.driver, steps=2)
    write_config(
        replace(config, prior=prior, superresolution=superresolution, driver=driver), tmp_path / "settings.toml"
    )
    arguments = ["fit", "clip", "--out", str(tmp_path / "ada"), "--generator", str(folder), "--json"]
    return [*arguments, "--config", str(tmp_path / "settings.toml")]


def test_an_avatar_like_any_other(command, clip, tmp_path, capsys):
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["figures"]) == ["inversion", "tuning", "tracking", "enlarging", "driver", "superresolution"]
    assert result["figures"]["tracking"]["passes per frame"] == 2
    avatar = Avatar.load(tmp_path / "ada")
    assert avatar.identity.config.superresolution == "2x"
    assert avatar.identity.planes.shape == (1, 3, 32, 32, 32)
    assert avatar.plate is None  # a generator's volume holds its own background
    assert "background" not in avatar.facts
    assert avatar.motion.cameras.shape == (11, 25)
    baked = avatar.bake()
    features = torch.from_numpy(clip.features[:1])
    moves = baked.moves(range(1))
    tokens = baked.tokens(features, (moves.blink, moves.angles, moves.landmarks))
    assert baked.frames(tokens, moves.cameras).image.shape == (1, 3, 128, 128)
    previews = {path.name for path in (run_folder(tmp_path / "ada") / "previews").iterdir()}
    for stage in ("inversion_000003", "tuning_000002", "tracking_000004"):
        assert f"{stage}_frames.png" in previews


def test_the_super_resolution_is_tuned_from_where_it_was_and_nothing_else_is(command, tmp_path, clip):
    before = tiny_generator().superresolution.state_dict()
    assert cli.main([*command, "--superresolution.before", "0", "--prior.tuning", "0"]) == 0
    identity = Avatar.load(tmp_path / "ada").identity
    after = identity.superresolution.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert moved
    assert max((after[name] - before[name]).abs().max() for name in moved) < 0.02  # two steps of Adam
    assert torch.equal(identity.decoder.output.weight, tiny_generator().decoder.output.weight)


def test_frames_without_a_face_are_left_out_by_name(clip):
    targets = Targets(clip, picture=128, view=16)
    prior = Prior(tiny_generator(), targets, 3)
    assert "2 frames are left out, for no face was found in them: 2, 8." in prior.notes
    assert not {2, 8} & set(prior.frames)
    assert f"The frames {', '.join(map(str, prior.frames))} are inverted together." in prior.notes


def test_frames_are_chosen_that_differ(clip):
    targets = Targets(clip, picture=128, view=16)
    clip.angles[:] = 0
    clip.landmarks[:] = clip.landmarks[:1]
    clip.angles[4, 1], clip.angles[5, 0] = 20.0, -9.0
    gap = clip.landmarks[6]
    gap[13], gap[14] = gap[13], gap[13] + 0.5
    assert set(choose_frames(targets, 4)) - {0, 1, 3} == {4, 5, 6}
    assert len(choose_frames(targets, 50)) == 6


@pytest.mark.parametrize("kind", ["discriminator", "arcface", "nothing"])
def test_a_file_that_is_no_generator(command, tmp_path, capsys, kind):
    path = tmp_path / "other.pth"
    says = {"discriminator": "a discriminator without a generator", "arcface": "a dictionary of"}
    if kind == "discriminator":
        torch.save({"D": {"b4.out.weight": torch.zeros(1)}}, path)
    elif kind == "arcface":
        torch.save({"input_layer.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    command[command.index("--generator") + 1] = str(path)
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert says.get(kind, "there is no generator") in error
    assert str(path) in error
    assert not (tmp_path / "ada").exists()


def test_a_part_of_a_view_that_is_not_super_resolved_as_it_is(command, tmp_path, capsys):
    assert cli.main([*command, "--driver.part", "0.625"]) == 1
    error = capsys.readouterr().err
    assert "driver.part must be 1 here, got 0.625: views have 16 pixels a side" in error
    assert not (tmp_path / "ada.fit" / "run.json").exists()


def test_a_run_goes_on_with_its_generator(command, clip, tmp_path, monkeypatch):
    from talk3d.training.tracking import TrackingStage

    def stop(stage, step):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrackingStage, "stepped", stop)
        assert cli.main(command) == 130
    resumed = ["fit", "clip", "--out", str(tmp_path / "ada"), "--json", "--resume"]
    assert cli.main(resumed) == 0
    whole = [*command[:3], str(tmp_path / "eve"), *command[4:]]
    assert cli.main(whole) == 0
    one, other = (Avatar.load(tmp_path / name).state_dict() for name in ("ada", "eve"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_is_converted_once(tmp_path, monkeypatch):
    from talk3d.training import prior

    calls = []

    def convert(path, out, axes=None):
        calls.append(axes)
        facts = {"axes": "zy", "config": TINY.to_dict(), "published": {}, "notes": []}
        weights = Weights("generator", {"generator": tiny_generator().state_dict()}, facts)
        write_weights(weights, out)
        return weights

    monkeypatch.setattr(prior, "convert", convert)
    (tmp_path / "G.pkl").touch()
    for _ in range(2):
        generator = read_generator(tmp_path / "G.pkl", tmp_path / "run", "zy")
    assert calls == ["zy"]
    assert torch.equal(generator.mapping.embed.weight, tiny_generator().mapping.embed.weight)
