"""Published checkpoints of one person become an avatar, which renders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from talk3d import Avatar, cli
from talk3d.cameras import TALK3D_FOCAL, TALK3D_PIVOT
from talk3d.models import Conditions
from talk3d.weights import load_generator


@pytest.fixture
def files(layout, save, made_up, unet_keys, encoder_tensors, generator_tensors) -> dict[str, Path]:
    """A tuned generator, a driver and a latent, in the published layouts."""
    unet = made_up(unet_keys["unet96"])
    for name, tensor in unet.items():  # as large as trained ones are
        if name.endswith("running_var"):
            tensor.abs_()
        elif tensor.ndim > 1 and not name.endswith("resample_filter"):
            tensor.div_(tensor[0].numel() ** 0.5)
    driver = {"deltaplane_predictor": unet, **encoder_tensors}
    width = generator_tensors["backbone.mapping.w_avg"].shape[0]
    return {
        "generator": save(layout.generator(generator_tensors, "zy"), "G_tune.pkl"),
        "driver": save(driver, "May.pt"),
        "latent": save(torch.randn(1, width), "inversion_w_person.pt"),
    }


def test_generator_driver_and_latent_become_an_avatar(files, mark, tmp_path, capsys):
    out = tmp_path / "may"
    arguments = [str(files["generator"]), "--driver", str(files["driver"]), "--latent", str(files["latent"])]
    assert cli.main(["convert", *arguments, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "avatar"
    assert not mark.exists()
    avatar = Avatar.load(out)
    assert avatar.facts == {"generator": "G_tune.pkl", "driver": "May.pt", "latent": "inversion_w_person.pt"}
    assert (avatar.identity.config.focal, avatar.identity.config.pivot) == (TALK3D_FOCAL, TALK3D_PIVOT)
    assert torch.equal(avatar.identity.w, torch.load(files["latent"])[0])
    camera = avatar.identity.config.camera(15.0)[None]
    conditions = Conditions(torch.zeros(1), torch.zeros(1, 3), torch.zeros(1, 3, 2))
    features = torch.randn(1, 8, 16, avatar.driver.conditions.features)
    baked = avatar.bake()
    moved = baked.frames(baked.tokens(features, conditions), camera).image
    assert moved.isfinite().all()
    assert not torch.allclose(moved, baked.frames(None, camera).image, atol=0.1)


def test_a_snapshot_becomes_what_avatar_loads(layout, save, generator_tensors, tmp_path, capsys):
    source = save(layout.snapshot(generator_tensors), "network.pkl")
    assert cli.main(["convert", str(source), "--out", str(tmp_path / "face")]) == 0
    avatar, generator = Avatar.load(tmp_path / "face"), load_generator(tmp_path / "face")
    camera = generator.config.camera()[None]
    ws = generator.mapping.w_avg.expand(1, generator.backbone.num_ws, -1)
    torch.testing.assert_close(avatar.identity(camera).image, generator(ws, camera).image, rtol=1e-5, atol=1e-5)
    assert cli.main(["export", str(tmp_path / "face"), "--views", str(tmp_path / "face.png")]) == 0


def test_files_in_the_wrong_place_are_said(files, tmp_path, capsys):
    wrong = ["convert", str(files["driver"]), "--latent", str(files["latent"]), "--out", str(tmp_path / "may")]
    assert cli.main(wrong) == 1
    assert "May.pt holds the weights of a driver, not of a generator" in capsys.readouterr().err
    assert not (tmp_path / "may").exists()
