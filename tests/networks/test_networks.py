"""Networks with published weights: names and shapes of the files, what they compute, and what is no file of theirs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from talk3d.networks import ArcFace, CurricularFace, LipSyncExpert, SyncNet, load_network
from tests.networks import literal

# keys, counters among them, and numbers that are learned
SIZES = {
    ArcFace: (397, 54, 43_797_696),
    LipSyncExpert: (217, 31, 16_435_072),
    SyncNet: (102, 14, 13_631_616),
    CurricularFace: (672, 104, 65_128_768),
}
SHAPES = {
    ArcFace: {
        "input_layer.0.weight": (64, 3, 3, 3),
        "input_layer.2.weight": (64,),
        "body.0.res_layer.1.weight": (64, 64, 3, 3),
        "body.3.res_layer.0.running_mean": (64,),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.7.shortcut_layer.1.running_var": (256,),
        "body.21.res_layer.5.fc1.weight": (32, 512, 1, 1),
        "body.23.res_layer.5.fc2.weight": (512, 32, 1, 1),
        "output_layer.3.weight": (512, 25088),
        "output_layer.3.bias": (512,),
        "output_layer.4.weight": (512,),
    },
    CurricularFace: {
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.16.shortcut_layer.0.weight": (256, 128, 1, 1),
        "body.46.shortcut_layer.0.weight": (512, 256, 1, 1),
        "body.48.res_layer.3.weight": (512, 512, 3, 3),
        "output_layer.4.running_mean": (512,),
    },
    LipSyncExpert: {
        "face_encoder.0.conv_block.0.weight": (32, 15, 7, 7),
        "face_encoder.1.conv_block.0.weight": (64, 32, 5, 5),
        "face_encoder.16.conv_block.0.weight": (512, 512, 1, 1),
        "audio_encoder.0.conv_block.0.weight": (32, 1, 3, 3),
        "audio_encoder.13.conv_block.1.running_var": (512,),
    },
    SyncNet: {
        "netcnnaud.18.weight": (512, 256, 5, 4),
        "netcnnlip.0.weight": (96, 3, 5, 7, 7),
        "netcnnlip.18.weight": (512, 256, 1, 6, 6),
        "netcnnlip.19.running_mean": (512,),
        "netfcaud.0.weight": (512, 512),
        "netfclip.3.weight": (1024, 512),
    },
}


def made(kind: type[nn.Module]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network with made-up weights, and these in float64."""
    with torch.device("meta"):
        network = kind()
    state = literal.made_up(network)
    network.load_state_dict(state, assign=True)
    return network.eval(), {name: tensor.double() for name, tensor in state.items()}


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)
def test_names_and_shapes_are_the_published_ones(kind):
    with torch.device("meta"):
        network = kind()
    state = network.state_dict()
    keys, counters, numbers = SIZES[kind]
    assert len(state) == keys
    assert sum(name.endswith("num_batches_tracked") for name in state) == counters
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers
    assert {name: tuple(state[name].shape) for name in SHAPES[kind]} == SHAPES[kind]
    if kind is CurricularFace:
        assert "output_layer.4.weight" not in state


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "units"), [(ArcFace, (3, 4, 14, 3)), (CurricularFace, (3, 13, 30, 3))], ids=["ArcFace", "CurricularFace"]
)
def test_faces_against_the_literal_network(kind, units):
    network, state = made(kind)
    faces = torch.rand(2, 3, 112, 112) * 2 - 1
    expected = literal.face(faces.double(), state, units, squeeze=kind is ArcFace)
    found = network(faces)
    assert (found - expected).abs().max() < 1e-5
    assert (found[0] - found[1]).abs().max() > 1e-3  # it tells them apart


@torch.no_grad()
def test_the_expert_against_the_literal_network():
    network, state = made(LipSyncExpert)
    mel, mouths = torch.randn(3, 1, 80, 16) * 2, torch.rand(3, 15, 48, 96)
    heard, seen = network(mel, mouths)
    assert (heard - literal.expert(mel.double(), state, "audio_encoder", literal.SOUND)).abs().max() < 1e-5
    assert (seen - literal.expert(mouths.double(), state, "face_encoder", literal.FACE)).abs().max() < 1e-5
    assert heard.min() >= 0
    assert (seen[0] - seen[1]).abs().max() > 1e-3


@torch.no_grad()
def test_syncnet_against_the_literal_network():
    network, state = made(SyncNet)
    cepstra, pictures = torch.randn(2, 1, 13, 20) * 5, torch.rand(2, 3, 5, 224, 224) * 255
    for found, expected in (
        (network.sound(cepstra), literal.syncnet_sound(cepstra.double(), state)),
        (network.lips(pictures), literal.syncnet_lips(pictures.double(), state)),
    ):
        assert found.shape == (2, 1024)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert (found[0] - found[1]).abs().max() > 1e-2 * expected.abs().max()


@pytest.fixture(scope="module")
def expert_file(tmp_path_factory):
    """The published layout: a trainer's dictionary, names with a prefix."""
    _, state = made(LipSyncExpert)
    tree = {
        "state_dict": {f"module.{name}": value.float() for name, value in state.items()},
        "optimizer": None,
        "global_step": 3,
        "global_epoch": 1,
    }
    path = tmp_path_factory.mktemp("expert") / "lipsync_expert.pth"
    torch.save(tree, path)
    yield path
    path.unlink()


@torch.no_grad()
def test_a_file_is_read(expert_file):
    network, _ = made(LipSyncExpert)
    found = load_network(LipSyncExpert, expert_file)
    inputs = torch.randn(1, 1, 80, 16), torch.rand(1, 15, 48, 96)
    for one, other in zip(found(*inputs), network(*inputs), strict=True):
        assert torch.equal(one, other)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())


@torch.no_grad()
def test_a_bare_file_of_the_old_format_without_counters_is_read(tmp_path):
    network, state = made(SyncNet)
    old = {name: value.float() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=False)
    cepstra = torch.randn(1, 1, 13, 20)
    assert torch.equal(load_network(SyncNet, tmp_path / "syncnet_v2.model").sound(cepstra), network.sound(cepstra))
    del old["netfclip.3.bias"]
    torch.save(old, tmp_path / "syncnet_v2.model")
    with pytest.raises(ValueError, match=r"does not hold the weights of SyncNet v2: netfclip\.3\.bias is missing$"):
        load_network(SyncNet, tmp_path / "syncnet_v2.model")
    (tmp_path / "syncnet_v2.model").unlink()


def test_a_file_of_another_network_is_named(expert_file, tmp_path):
    with pytest.raises(ValueError, match=r"holds the weights of Wav2Lip's lip-sync expert, not of ArcFace IR-SE50$"):
        load_network(ArcFace, expert_file)
    torch.save({"backbone.mapping.w_avg": torch.zeros(512)}, tmp_path / "G.pt")
    with pytest.raises(ValueError, match=r"G\.pt holds a generator of EG3D, not the weights of SyncNet v2"):
        load_network(SyncNet, tmp_path / "G.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt does not hold the weights of ArcFace IR-SE50: .* and \d+ more"):
        load_network(ArcFace, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"does not hold the weights of SyncNet v2: it is not a file$"):
        load_network(SyncNet, tmp_path)
    state = made(SyncNet)[0].state_dict()
    state["netfclip.0.bias"][3] = torch.nan
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is damaged: netfclip\.0\.bias has numbers that are not finite$"):
        load_network(SyncNet, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"none\.pth, which should hold the weights of SyncNet v2, does not exist"):
        load_network(SyncNet, tmp_path / "none.pth")


class Hostile:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w')",))


@pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)
def test_no_code_of_a_pickle_is_run(kind, tmp_path):
    torch.save({"input_layer.0.weight": Hostile(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth"):
        load_network(kind, tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ArcFace()(torch.zeros(1, 3, 96, 96)), r"faces must have the shape \[batch, 3, 112, 112\], got"),
        (
            lambda: LipSyncExpert()(torch.zeros(1, 1, 80, 16), torch.zeros(1, 15, 96, 96)),
            r"mouths must have the shape \[batch, 15, 48, 96\], got \[1, 15, 96, 96\]",
        ),
        (lambda: SyncNet().sound(torch.zeros(1, 13, 20)), r"cepstra must have the shape \[batch, 1, 13, 20\], got"),
        (lambda: SyncNet().lips(torch.zeros(1, 3, 5, 96, 96)), r"pictures must have the shape \[batch, 3, 5, 224, 224"),
    ],
)
def test_bad_input(call, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        call()
