"""Super-resolution makes the published numbers, in every variant, and folds into plain convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from talk3d.models import SuperResolution
from talk3d.testing import assert_as_accurate, assert_golden, golden

DATA = golden("eg3d/f2_superres2x")


def published_2x() -> SuperResolution:
    network = SuperResolution("2x", clamp=None)
    network.load_state_dict({key: DATA[key.replace("to_rgb", "torgb")] for key in network.state_dict()})
    return network.requires_grad_(False)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def random(variant: str) -> SuperResolution:
    """A network with biases and clamps that matter."""
    network = SuperResolution(variant, w_dim=16, clamp=3.0).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and "affine" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("size", [48, 64])
def test_golden(size):
    features = DATA[f"feat{size}"].clone()
    found = published_2x()(features, DATA["ws"][:, -1])
    assert_golden(found, DATA[f"out_from{size}"], 1.4e-6)
    assert torch.equal(features, DATA[f"feat{size}"])


@pytest.mark.parametrize("size", [48, 64])
def test_folded_golden(size):
    folded = published_2x().fold(DATA["ws"][0, -1])
    assert_golden(folded(DATA[f"feat{size}"]), DATA[f"out_from{size}"], 1.4e-6)


@pytest.mark.parametrize(
    ("variant", "size", "resolution", "widths"),
    [
        ("2x", 40, 128, [128, 64]),
        ("2x", 80, 128, [128, 64]),
        ("4x", 40, 256, [128, 64]),
        ("4x", 160, 320, [128, 64]),  # this one reduces nothing
        ("8x", 160, 512, [128, 64]),
        ("8xdc", 64, 512, [256, 128]),
        ("small", 64, 256, [32, 32]),
    ],
)
def test_variants(variant, size, resolution, widths):
    with torch.device("meta"):  # where nothing is computed but sizes
        network = SuperResolution(variant)
        image = network(torch.empty(2, 32, size, size), torch.empty(2, 512))
    assert image.shape == (2, 3, resolution, resolution)
    assert [len(block.conv1.weight) for block in (network.block0, network.block1)] == widths


class TestFold:
    @pytest.mark.parametrize("variant", ["2x", "small"])
    def test_is_the_network(self, variant):
        network, features = random(variant).double(), torch.randn(1, 32, 64, 64, dtype=torch.float64)
        w = torch.randn(16, dtype=torch.float64)
        assert relative(network.fold(w)(features), network(features, w[None])) < 1e-13

    def test_layout_and_batch(self):
        network, features, w = random("2x"), torch.randn(2, 32, 64, 64), torch.randn(16)
        folded, plain = network.fold(w), network(features, w.expand(2, -1))
        last = folded.to(memory_format=torch.channels_last)(features.to(memory_format=torch.channels_last))
        exact = network.double()(features.double(), w.double().expand(2, -1))
        assert_as_accurate([last], [plain], [exact])

    def test_bfloat16(self):
        network, features, w = random("2x"), torch.randn(1, 32, 64, 64), torch.randn(16)
        found = network.fold(w).to(torch.bfloat16)(features)
        assert found.dtype == torch.float32
        assert 0 < relative(found, network(features, w[None])) < 2e-2  # five layers, each rounded to 2^-9

    def test_gradients_reach_the_features(self):
        network, w = published_2x(), DATA["ws"][:, -1]
        gradients = []
        for run in (lambda x: network(x, w), network.fold(w[0])):
            features = DATA["feat48"].clone().requires_grad_()
            run(features).square().mean().backward()
            gradients.append(features.grad)
        assert relative(*gradients) < 2e-3  # rounding turns the sign of a few of a million activations

    @pytest.mark.compile
    def test_compiles_whole(self):
        folded, features = random("2x").fold(torch.randn(16)), torch.randn(1, 32, 64, 64)
        torch.compiler.reset()
        compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(features), folded(features))

    def test_it_is_another_for_another_latent(self):
        network = published_2x()
        first, second = (network.fold(w)(DATA["feat64"]) for w in (DATA["ws"][0, -1], -DATA["ws"][0, -1]))
        assert relative(first, second) > 1e-2


def test_features_of_another_size_in_bfloat16():
    """Torch's resampling with antialias knows no bfloat16 on a CPU."""
    network = random("small").fold(torch.randn(16))
    features = torch.randn(1, 32, 16, 16)
    expected = network(features)
    found = network.to(torch.bfloat16)(features.bfloat16())
    assert found.dtype == torch.bfloat16
    assert relative(found, expected) <= 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_the_picture_in_float32(dtype):
    exact = published_2x()
    network = SuperResolution("2x", clamp=None, dtype=dtype)
    network.load_state_dict(exact.state_dict())
    w = DATA["ws"][:, -1]
    found = network.requires_grad_(False)(DATA["feat64"], w)
    assert found.dtype == torch.float32
    error = relative(found, exact(DATA["feat64"], w))
    assert 0 < error < (2e-3 if dtype == torch.float16 else 2e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SuperResolution("3x"), r"variant must be one of 2x, 4x, 8x, 8xdc, small, got '3x'"),
        (
            lambda: published_2x()(torch.zeros(1, 3, 64, 64), torch.zeros(1, 512)),
            r"features must be \[batch, 32, .* \[1, 3",
        ),
        (
            lambda: published_2x()(DATA["feat64"], torch.zeros(2, 512)),
            r"w must have the shape \[1, 512\], got \[2, 512\]",
        ),
        (lambda: published_2x().fold(torch.zeros(1, 512)), r"w must have the shape \[512\], got \[1, 512\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
