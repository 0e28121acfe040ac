"""Drivers and identities of Talk3D become folders that networks load; what is wrong with a file is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from talk3d.weights import UnreadableCheckpoint, convert, listing, load_driver, load_latent, read_weights
from talk3d.weights.unet_names import published_encoder_keys, published_keys


def test_all_383_published_names_of_the_unet_are_mapped(unet_keys):
    assert len(published_keys()) == 383
    assert published_keys().keys() == unet_keys["unet96"].keys() == unet_keys["unet24"].keys()


# drivers


@pytest.fixture(scope="module")
def checkpoint(unet_tensors, encoder_tensors) -> dict[str, object]:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    return {
        "deltaplane_predictor": unet_tensors,
        **encoder_tensors,
        "epoch": 7,
        "iter": 80000,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.98),
    }


def assert_is_driver(folder: Path, checkpoint: dict) -> None:
    driver = load_driver(folder)
    state = driver.unet.state_dict()
    filled = {key: torch.zeros(tensor.shape, dtype=torch.bool) for key, tensor in state.items()}
    for name, place in published_keys().items():
        if place is not None:
            expected = checkpoint["deltaplane_predictor"][name]
            assert torch.equal(state[place.key][place.part].flatten(), expected.flatten()), name
            filled[place.key][place.part] = True
    assert all(part.all() for part in filled.values())
    state = driver.conditions.state_dict()
    for name, place in published_encoder_keys().items():
        part, _, key = name.partition(".")
        expected = checkpoint[part][key] if key else checkpoint[part]
        assert torch.equal(state[place.key].flatten(), expected.flatten()), name
    assert {place.key for place in published_encoder_keys().values()} == state.keys()


def test_driver(checkpoint, save, out: Path):
    weights = convert(save(checkpoint, "24_80000.pt"), out)
    assert (weights.kind, weights.facts["axes"], weights.facts["notes"]) == ("driver", "zy", [])
    assert weights.facts["trained"] == {"epoch": 7, "iter": 80000}
    assert_is_driver(out, checkpoint)
    driver = load_driver(out)
    assert driver.superresolution is None
    assert (driver.unet.channels, driver.unet.resolution, driver.unet.semantics) == (8, 256, "published")
    assert driver.conditions.audio.features == 44


def test_driver_of_parallel_training(checkpoint, save, out: Path):
    prefixed = {f"module.{name}": tensor for name, tensor in checkpoint["deltaplane_predictor"].items()}
    convert(save(checkpoint | {"deltaplane_predictor": prefixed}, "1_2.pt"), out)
    assert_is_driver(out, checkpoint)


def test_tuned_driver_with_gfpgan(checkpoint, save, out: Path):
    gfpgan = {"conv_body_first.weight": torch.ones(3), "stylegan_decoder.style_mlp.1.weight": torch.ones(2)}
    source = save(checkpoint | {"superresolution": gfpgan}, "25_81000_tune.pt")
    weights = convert(source, out)
    assert weights.facts["notes"] == ["Its super-resolution is GFPGAN (2 tensors), which is left out."]
    assert set(weights.parts) == {"unet", "conditions"}
    found = listing(source)
    assert (found["holds"], found["axes"]) == ("a driver of Talk3D with GFPGAN", "zy")


def test_tuned_driver_with_a_super_resolution(checkpoint, published_generator, made_up, save, out: Path):
    prefix = "superresolution."
    shapes = {name.removeprefix(prefix): s for name, s in published_generator.items() if name.startswith(prefix)}
    tuned = made_up({name: (shape, torch.float32) for name, shape in shapes.items()})
    source = save(checkpoint | {"superresolution": tuned}, "25_81000_tune.pt")
    assert convert(source, out).facts["notes"] == []
    found = load_driver(out).superresolution.state_dict()
    assert len(found) == 32
    assert all(torch.equal(tensor, tuned[name.replace("to_rgb", "torgb")]) for name, tensor in found.items())
    wrong = tuned | {"block1.torgb.bias": torch.ones(4)}
    with pytest.raises(
        UnreadableCheckpoint, match=r"not a super-resolution of EG3D: block1\.torgb\.bias has the shape"
    ):
        convert(save(checkpoint | {"superresolution": wrong}, "26_tune.pt"), out.with_name("other"))


@pytest.mark.parametrize(
    ("part", "key", "sentence"),
    [
        (
            "deltaplane_predictor",
            "Upnet.Upnet2_zx.conv1.bias",
            "U-Net of a Talk3D driver: Upnet.Upnet2_zx.conv1.bias is",
        ),
        ("audio_net", "encoder_fc1.2.bias", "encoders of a Talk3D driver: audio_net.encoder_fc1.2.bias is"),
        ("null_vector", None, "encoders of a Talk3D driver: null_vector is"),
    ],
)
def test_driver_without_a_tensor(part, key, sentence, checkpoint, save, out: Path):
    rest = {name: tensor for name, tensor in checkpoint[part].items() if name != key} if key else None
    with pytest.raises(UnreadableCheckpoint, match=f"{sentence} missing"):
        convert(save(checkpoint | {part: rest}, "1_2.pt"), out)


def test_driver_of_other_sizes(checkpoint, save, out: Path):
    odd = checkpoint["deltaplane_predictor"] | {"Downnet.Downnet1_xy.conv0.bias": torch.ones(15)}
    with pytest.raises(UnreadableCheckpoint, match="its sizes make no driver: channels must be a multiple of 4"):
        convert(save(checkpoint | {"deltaplane_predictor": odd}, "1_2.pt"), out)
    position = checkpoint["deltaplane_predictor"] | {"transformer.0.pos_emb": torch.ones(1, 192, 1024)}
    with pytest.raises(UnreadableCheckpoint, match=r"pos_emb has the shape \[1, 192, 1024\], not"):
        convert(save(checkpoint | {"deltaplane_predictor": position}, "1_2.pt"), out)


def test_driver_has_the_axes_of_talk3d(checkpoint, save, out: Path):
    with pytest.raises(UnreadableCheckpoint, match="has the axes 'zy', not 'original'"):
        convert(save(checkpoint, "1_2.pt"), out, axes="original")


# identities


def test_identity(save, out: Path):
    planes = torch.randn(1, 12, 8, 8)
    source = save(planes.repeat(16, 1, 1, 1), "ID_triplane.pt")
    with pytest.raises(UnreadableCheckpoint, match="pass --axes"):
        convert(source, out)
    convert(source, out, axes="zy")
    weights = read_weights(out, "identity")
    assert weights.facts["axes"] == "zy"
    assert torch.equal(weights.parts["identity"]["planes"], planes[0].view(3, 4, 8, 8))


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.arange(24.0).view(2, 3, 2, 2), "its 2 sets of planes differ"),
        (torch.ones(2, 4, 2, 2), "is not planes"),
        (torch.ones(2, 3, 2, 3), "is not planes"),
        (torch.ones(0, 3, 2, 2), "is not planes"),
        (torch.ones(1, 2, 3), r"a tensor of shape \[1, 2, 3\] is not planes"),
        (torch.ones(0), r"a tensor of shape \[0\] is not planes"),
        (torch.ones(2, 8), "holds 2 latents, not one"),
        (torch.tensor([[0.0, torch.nan]]), "not finite"),
    ],
)
def test_tensors_that_are_no_identity(tensor: Tensor, sentence: str, save, out: Path):
    with pytest.raises(UnreadableCheckpoint, match=sentence):
        convert(save(tensor, "ID_triplane.pt"), out, axes="zy")


def test_a_latent(save, out: Path):
    w = torch.randn(1, 8)
    weights = convert(save(w, "inversion_w_person.pt"), out)
    assert weights.kind == "latent"
    assert torch.equal(load_latent(out), w[0])
