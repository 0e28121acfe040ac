"""The driver's networks, filled as the README of the golden vectors says, give what the published modules gave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talk3d.models.delta import DeltaUNet, fold_batch_norm
from talk3d.models.encoders import ConditionEncoder
from talk3d.testing import golden
from talk3d.weights.unet_names import Place, published_encoder_keys, published_keys

# planes of 24 and of 96 channels
FILES = {"talk3d/unet24": 8, "talk3d/unet96": 32}


def places(module: nn.Module, keys: Mapping[str, Place | None]) -> Iterator[tuple[str, Tensor]]:
    """Published names in their sorted order, and our tensor for each."""
    state = module.state_dict()
    for name, place in sorted(keys.items()):
        if place:
            yield name, state[place.key][place.part]


def drawn(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not name.endswith("pos_emb")


def fill(module: nn.Module, keys: Mapping[str, Place | None], seed: int) -> None:
    """Give a module the weights of the recipe."""
    rng = np.random.default_rng(seed)
    for name, tensor in places(module, keys):
        if drawn(name, tensor):
            n = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), dtype=np.float32))
            if name.endswith("running_var"):
                n = 0.5 + 0.5 * n.abs()
            elif name.endswith(("running_mean", "bias")):
                n = 0.1 * n
            else:
                n = 1 + 0.1 * n if n.ndim == 1 else n / np.sqrt(np.prod(n.shape[1:]))
            tensor.copy_(n)


def listed(file: str, entry: str) -> list[list[object]]:
    """The names and shapes that a file of vectors lists as text, which ``golden`` leaves out."""
    folder = Path(os.environ.get("TALK3D_GOLDEN", Path(__file__).parents[1] / "golden"))
    with np.load(folder / f"{file}.npz") as arrays:
        return json.loads(str(arrays[entry]))


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    return ((actual - expected.reshape(actual.shape)).norm() / expected.norm()).item()


class TestNames:
    @pytest.mark.parametrize(("file", "channels"), FILES.items())
    def test_every_published_entry_has_a_place(self, file, channels):
        expected = {name: tuple(shape) for name, shape, _ in listed(file, "keys")}
        assert len(expected) == 383
        assert published_keys().keys() == expected.keys()
        unet = DeltaUNet(axes="zy", semantics="published", channels=channels)
        for name, tensor in places(unet, published_keys()):
            shape = expected[name]
            assert (shape == (1, 1024, 24 * channels)) if name.endswith("pos_emb") else (tensor.shape == shape)
            assert tensor.numel() == np.prod(shape)

    def test_every_number_of_ours_is_named_once(self):
        with torch.device("meta"):
            unet = DeltaUNet(axes="zy", semantics="published")
            encoder = ConditionEncoder(44, semantics="published")
        for module, keys in ((unet, published_keys()), (encoder, published_encoder_keys())):
            named = [place for place in keys.values() if place]
            assert len(set(named)) == len(named)
            state = module.state_dict()
            assert {place.key for place in named} == state.keys()
            covered = sum(state[place.key][place.part].numel() for place in named)
            assert covered == sum(tensor.numel() for tensor in state.values())
        assert sum(p.numel() for p in unet.parameters()) + unet.transformer.position.numel() == 17_512_000

    @pytest.mark.parametrize(("file", "channels"), FILES.items())
    def test_the_recipe_draws_in_the_order_of_the_file(self, file, channels):
        unet = DeltaUNet(axes="zy", semantics="published", channels=channels)
        found = [[name, list(t.shape)] for name, t in places(unet, published_keys()) if drawn(name, t)]
        assert found == listed(file, "filled")


@pytest.fixture(scope="module", params=FILES)
def case(request: pytest.FixtureRequest) -> tuple[DeltaUNet, Tensor, dict[str, Tensor]]:
    """A filled network, the identity's planes, and the vectors."""
    data, channels = golden(request.param), FILES[request.param]
    unet = DeltaUNet(axes="zy", semantics="published", channels=channels).eval()
    fill(unet, published_keys(), int(data["seed"]))
    rng = np.random.default_rng(int(data["seed"]) + 1000)
    planes = rng.standard_normal((1, 3 * channels, 256, 256), dtype=np.float32)
    return unet, torch.from_numpy(planes).unflatten(1, (3, channels)), data


class TestUNet:
    def test_positional_table(self, case):
        unet, _, data = case
        assert torch.equal(unet.transformer.position.flatten(1)[None, ::37], data["pos_emb_every_37th"])

    @pytest.mark.parametrize("folded", [False, True])
    def test_golden_delta(self, case, folded):
        unet, planes, data = case
        unet, stride = fold_batch_norm(unet) if folded else unet, int(data["stride"])
        with torch.no_grad():
            features = unet.encode(planes)
            batch = len(data["tokens"])
            attended, _ = unet.transformer.finish(features.texels.expand(batch, -1, -1, -1), data["tokens"])
            delta = unet(data["tokens"], features).flatten(1, 2)
        bottleneck = features.eighth.expand_as(attended)[..., ::4, ::4]
        assert relative(bottleneck, data["bottleneck"]) < 1e-6
        assert relative((attended + features.eighth)[..., ::4, ::4], data["after_attention"]) < 1e-6
        assert relative(delta[..., ::stride, ::stride], data["delta_planes"]) < 1e-6
        assert relative(delta[:, :, [0, -1], ::4], data["edge_rows"]) < 1e-6
        assert relative(delta[:, :, ::4][..., [0, -1]], data["edge_cols"]) < 1e-6
        torch.testing.assert_close(delta.double().mean(), data["delta_mean"], rtol=1e-6, atol=0)
        torch.testing.assert_close(delta.double().std(correction=0), data["delta_std"], rtol=1e-6, atol=0)


class TestEncoders:
    @pytest.fixture
    def data(self) -> dict[str, Tensor]:
        return golden("talk3d/small_modules")

    @pytest.fixture
    def encoder(self, data) -> ConditionEncoder:
        """Filled, every module afresh."""
        encoder, keys = ConditionEncoder(44, semantics="published"), published_encoder_keys()
        for module in ("audio_net", "audio_att_net", "blink_encoder", "camera_encoder"):
            own = {name: place for name, place in keys.items() if name.startswith(f"{module}.")}
            shapes = [[f"{module}.{name}", shape] for name, shape in listed("talk3d/small_modules", f"{module}_filled")]
            assert [[name, list(tensor.shape)] for name, tensor in places(encoder, own)] == shapes
            fill(encoder, own, int(data["seed"]))
        return encoder.requires_grad_(False)

    def test_golden_speech(self, encoder, data):
        assert relative(encoder.audio.encode(data["audio_net_in"].mT), data["audio_net_out"]) < 1e-6
        assert relative(encoder.audio.attend(data["audio_att_net_in"]), data["audio_att_net_out"]) < 1e-6

    def test_golden_blink_and_camera(self, encoder, data):
        assert relative(encoder.blink(data["blink_encoder_in"]), data["blink_encoder_out"]) < 1e-6
        assert relative(encoder.angles(data["camera_encoder_angle"]), data["camera_encoder_angle_out"]) < 1e-6
        assert relative(encoder.landmarks(data["camera_encoder_landmark"]), data["camera_encoder_landmark_out"]) < 1e-6
