"""An avatar is what was saved; what is wrong with a folder or with parts is said in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import talk3d
from talk3d.models import CONFIGS, ConditionEncoder, DeltaUNet, Driver, SuperResolution, TriPlaneGenerator
from talk3d.weights import Weights, store, write_weights


@pytest.fixture
def generator() -> TriPlaneGenerator:
    generator = TriPlaneGenerator(CONFIGS["tiny"]).eval()
    generator.mapping.w_avg.normal_()
    return generator


@pytest.fixture
def generator_folder(tmp_path: Path, generator) -> Path:
    folder = tmp_path / "generator"
    facts = {"config": generator.config.to_dict(), "source": "tiny.pkl"}
    write_weights(Weights("generator", {"generator": generator.state_dict()}, facts), folder)
    return folder


def driver(**options) -> Driver:
    unet = DeltaUNet(**({"axes": "zy", "resolution": 32} | options))
    return Driver(unet, ConditionEncoder(5))


@pytest.mark.parametrize("semantics", ["aligned", "published", None])
def test_saved_is_loaded(make_avatar, semantics, tmp_path):
    avatar = make_avatar(semantics)
    avatar.save(tmp_path / "ada")
    again = talk3d.Avatar.load(tmp_path / "ada")
    assert again.facts == avatar.facts == {"speech": {"name": "made up"}}
    assert again.identity.config == avatar.identity.config
    state, expected = again.state_dict(), avatar.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_each_file_is_read_once(make_avatar, generator_folder, tmp_path, monkeypatch):
    make_avatar().save(tmp_path / "ada")
    read: list[str] = []
    monkeypatch.setattr(store, "load_file", lambda path: read.append(path.stem) or load_file(path))
    talk3d.Avatar.load(tmp_path / "ada")
    talk3d.Avatar.load(generator_folder)
    assert sorted(read) == ["conditions", "generator", "identity", "unet"]


def test_an_existing_folder_is_not_overwritten(make_avatar, tmp_path):
    avatar = make_avatar(None)
    avatar.save(tmp_path / "ada")
    with pytest.raises(ValueError, match="exists already"):
        avatar.save(tmp_path / "ada")


def test_a_generator_gives_its_average_face(generator, generator_folder):
    avatar = talk3d.Avatar.load(generator_folder)
    camera = generator.config.camera(15.0)[None]
    ws = generator.mapping.w_avg.expand(1, generator.backbone.num_ws, -1)
    expected = generator(ws, camera)
    found = avatar.identity(camera)
    torch.testing.assert_close(found.image, expected.image, rtol=1e-5, atol=1e-5)
    assert avatar.facts == {"generator": "tiny.pkl"}


def test_a_generator_gives_the_face_of_a_latent(generator, generator_folder, tmp_path):
    w = torch.randn(32)
    write_weights(Weights("latent", {"latent": {"w": w}}, {}), tmp_path / "w")
    camera = generator.config.camera()[None]
    expected = generator(w.expand(1, generator.backbone.num_ws, -1), camera).image
    for given in (w, w.expand(generator.backbone.num_ws, -1), tmp_path / "w"):
        found = talk3d.Avatar.load(generator_folder, w=given).identity(camera).image
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_generator_and_driver_make_an_avatar(generator_folder, tmp_path):
    made = driver()
    parts = {name: network.state_dict() for name, network in made.named_children()}
    write_weights(Weights("driver", parts, {"networks": made.options}), tmp_path / "driver")
    avatar = talk3d.Avatar.load(generator_folder, driver=tmp_path / "driver")
    assert avatar.driver.options == made.options
    avatar.save(tmp_path / "ada")
    assert talk3d.Avatar.load(tmp_path / "ada").driver.options == made.options


def test_a_tuned_superresolution_takes_its_place(generator, generator_folder, tmp_path):
    made = driver()
    tuned = SuperResolution("4x", w_dim=32, clamp=None)
    avatar = talk3d.Avatar(talk3d.Avatar.load(generator_folder).identity, Driver(made.unet, made.conditions, tuned))
    assert avatar.identity.superresolution is tuned
    assert (avatar.identity.config.superresolution, avatar.identity.config.superresolution_clamp) == ("4x", None)
    avatar.save(tmp_path / "ada")
    assert talk3d.Avatar.load(tmp_path / "ada").identity.superresolution.options == tuned.options
    other = SuperResolution("4x", w_dim=16)
    with pytest.raises(ValueError, match="does not fit an identity"):
        talk3d.Avatar(avatar.identity, Driver(made.unet, made.conditions, other))


def test_parts_that_do_not_fit_are_refused(make_avatar, generator, tmp_path):
    identity = make_avatar(None).identity
    with pytest.raises(ValueError, match=r"the identity's planes are 'zy', 32 x 16\^2, the driver's 'yz', 32 x 32\^2"):
        talk3d.Avatar(identity, driver(axes="yz"))
    with pytest.raises(ValueError, match="the U-Net is published with tokens of width 64, the encoders are aligned"):
        Driver(DeltaUNet(axes="zy", semantics="published"), ConditionEncoder(5))
    layers = generator.backbone.num_ws
    for shape in ([2, 31], [layers - 1, 32], [1, layers, 32]):
        sentence = f"ws must have the shape [32] or [{layers}, 32], got {shape}"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            type(identity).from_generator(generator, torch.zeros(shape))
    with pytest.raises(ValueError, match="planes must have the shape"):
        type(identity).from_generator(generator, planes=torch.zeros(1, 3, 32, 8, 8))


class TestDamage:
    @pytest.fixture
    def folder(self, make_avatar, tmp_path) -> Path:
        make_avatar("aligned").save(tmp_path / "ada")
        return tmp_path / "ada"

    def test_another_version(self, folder):
        file = folder / "weights.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
        with pytest.raises(ValueError, match="is of version 99, and this talk3d reads version 1"):
            talk3d.Avatar.load(folder)

    def test_a_missing_tensor(self, folder):
        tensors = load_file(folder / "unet.safetensors")
        del tensors["head.bias"]
        save_file(tensors, folder / "unet.safetensors")
        with pytest.raises(ValueError, match=r"head\.bias"):
            talk3d.Avatar.load(folder)

    def test_a_missing_file(self, folder):
        (folder / "identity.safetensors").unlink()
        with pytest.raises(ValueError, match=r"identity\.safetensors is missing"):
            talk3d.Avatar.load(folder)

    def test_an_unknown_option(self, folder):
        file = folder / "weights.json"
        facts = json.loads(file.read_text())
        facts["networks"]["unet"]["lens"] = 1
        file.write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=r"is damaged: its networks cannot be made .*lens"):
            talk3d.Avatar.load(folder)

    def test_another_kind(self, folder, tmp_path):
        write_weights(Weights("latent", {"latent": {"w": torch.zeros(3)}}, {}), tmp_path / "w")
        with pytest.raises(ValueError, match="holds the weights of a latent, not of an avatar"):
            talk3d.Avatar.load(tmp_path / "w")
        with pytest.raises(ValueError, match="is a whole avatar"):
            talk3d.Avatar.load(folder, w=torch.zeros(8))
