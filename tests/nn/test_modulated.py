"""Modulated and equalised layers, and the decoder, against the published ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from talk3d.nn import Decoder, EqualizedConv2d, SynthesisLayer, ToRGB, modulated_conv2d, smoothing_filter
from talk3d.testing import assert_golden, golden, outputs_and_gradients

LAYERS = golden("eg3d/e1_modulated_layers")
RESAMPLING = golden("eg3d/e2_resampling")


def fill(layer: nn.Module, prefix: str, data: dict[str, Tensor]) -> nn.Module:
    """Load the published tensors of a layer, whose names differ by nothing but the constant filter."""
    found = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
    layer.load_state_dict({key: found[key] for key in layer.state_dict()})
    return layer


def synthesis_layer(prefix: str) -> SynthesisLayer:
    up = 2 if prefix == "convup_" else 1
    clamp = 1.0 if prefix == "convclamp_" else None
    layer = SynthesisLayer(12, 10, w_dim=32, resolution=16 * up, up=up, clamp=clamp)
    return fill(layer, prefix, LAYERS)


def to_rgb(prefix: str = "torgb_") -> ToRGB:
    return fill(ToRGB(12, 5, w_dim=32, clamp=0.5 if prefix == "torgbclamp_" else None), prefix, LAYERS)


class TestGolden:
    @pytest.mark.parametrize("batched", [True, False])  # which of the two ways to modulate
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("conv_out_const", {}),
            ("conv_out_none", {"noise": "none"}),
            ("conv_out_const_gain_sqrt_half", {"gain": math.sqrt(0.5)}),
            ("convup_out_const", {}),
            ("convup_out_none", {"noise": "none"}),
            ("convup_out_const_gain_sqrt_half", {"gain": math.sqrt(0.5)}),
            ("convclamp_out_const", {}),
        ],
    )
    def test_synthesis_layer(self, name, options, batched):
        layer = synthesis_layer(name.split("_")[0] + "_")
        x, w = LAYERS["x"], LAYERS["w"]
        found = layer(x, w, **options)
        if not batched:
            found = torch.cat([layer(x[i : i + 1], w[i : i + 1], **options) for i in range(2)])
        assert_golden(found, LAYERS[name], 2e-6, name)

    @pytest.mark.parametrize("prefix", ["torgb_", "torgbclamp_"])
    def test_to_rgb(self, prefix):
        assert_golden(to_rgb(prefix)(LAYERS["x"], LAYERS["w"]), LAYERS[f"{prefix}out"], 2e-6, prefix)

    @pytest.mark.parametrize("prefix", ["conv_", "convup_", "torgb_"])
    def test_gradients(self, prefix):
        layer = to_rgb() if prefix == "torgb_" else synthesis_layer(prefix)
        x, w = LAYERS["x"].clone().requires_grad_(), LAYERS["w"].clone().requires_grad_()
        layer(x, w).backward(LAYERS[f"{prefix}cot"])
        leaves = {"x": x, "w": w, **dict(layer.named_parameters())}
        for name, leaf in leaves.items():
            assert_golden(leaf.grad, LAYERS[f"{prefix}grad_{name}"], 1e-5, name)

    def test_transposed_convolution_and_filter(self):
        weight = RESAMPLING["w3"]
        found = modulated_conv2d(
            RESAMPLING["im8"],
            weight,
            torch.ones(1, weight.shape[1]),
            demodulate=False,
            up_filter=RESAMPLING["filter2d"],
        )
        assert_golden(found, RESAMPLING["convres_k3_up2_down1_flipweight0"], 0)

    @pytest.mark.parametrize(
        ("name", "kernel", "down"),
        [(f"convres_k{kernel}_up1_down{down}", kernel, down) for kernel in (1, 3) for down in (1, 2)],
    )
    def test_equalized_convolution(self, name, kernel, down):
        layer = EqualizedConv2d(3, 4, kernel, bias=False, activation="linear", down=down)
        layer.weight.data = RESAMPLING[f"w{kernel}"] / layer.weight_gain
        assert_golden(layer(RESAMPLING["im8"]), RESAMPLING[name], 0, name)

    def test_layer_of_the_discriminator(self):
        layer = fill(EqualizedConv2d(3, 6, 3, down=2, clamp=2.0), "conv2dlayer_", RESAMPLING)
        assert_golden(layer(RESAMPLING["im8"]), RESAMPLING["conv2dlayer_down2_lrelu_clamp2"], 0)

    def test_filter(self):
        torch.testing.assert_close(smoothing_filter(), RESAMPLING["filter2d"], rtol=0, atol=0)

    @pytest.mark.parametrize(("prefix", "lr_multiplier"), [("lr1_", 1.0), ("lr05_", 0.5)])
    def test_decoder(self, prefix, lr_multiplier):
        data = golden("eg3d/c_decoder")
        decoder = Decoder(lr_multiplier=lr_multiplier)
        names = {"hidden.weight": "w0", "hidden.bias": "b0", "output.weight": "w1", "output.bias": "b1"}
        decoder.load_state_dict({ours: data[f"{prefix}dec_{theirs}"] for ours, theirs in names.items()})
        x = data["x"].clone().requires_grad_()
        density, color = decoder(x.mean(1))
        assert_golden(density, data[f"{prefix}sigma"], 2e-7, "density")
        assert_golden(color, data[f"{prefix}rgb"], 2e-7, "color")
        torch.autograd.backward((color, density), (data["cot_rgb"], data["cot_sigma"].view_as(density)))
        assert_golden(x.grad, data[f"{prefix}grad_x"], 2e-7, "x")
        for ours, theirs in names.items():
            assert_golden(decoder.get_parameter(ours).grad, data[f"{prefix}grad_{theirs}"], 2e-7, theirs)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


class TestModulation:
    @pytest.mark.parametrize("up_filter", [None, smoothing_filter().double()])
    def test_both_ways_are_the_convolution_with_modulated_weights(self, up_filter):
        x, weight, style = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, 8, 8), (4, 3, 3, 3), (2, 3)))
        found = modulated_conv2d(x, weight, style, up_filter=up_filter)
        for i in range(2):
            kernel = weight * style[i, :, None, None]
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            plain = modulated_conv2d(
                x[i : i + 1], kernel, torch.ones(1, 3).double(), demodulate=False, up_filter=up_filter
            )
            torch.testing.assert_close(found[i : i + 1], plain)
            torch.testing.assert_close(
                modulated_conv2d(x[i : i + 1], weight, style[i : i + 1], up_filter=up_filter), plain
            )

    @pytest.mark.parametrize("batch", [1, 2])
    def test_half_precision_does_not_overflow(self, batch):
        x, weight, style = torch.randn(batch, 64, 16, 16), torch.randn(16, 64, 3, 3), torch.randn(batch, 64)
        exact = modulated_conv2d(x.half().double(), 100 * weight.double(), 3000 * style.double())
        found = modulated_conv2d(x.half(), 100 * weight, 3000 * style)
        assert found.dtype == torch.float16
        assert relative(found, exact) < 2e-3  # 2 roundings of 2^-11, and sums of 576 terms

    def test_bfloat16_follows(self):
        layer = synthesis_layer("convup_")
        found = layer(LAYERS["x"].bfloat16(), LAYERS["w"])
        assert found.dtype == torch.bfloat16
        assert relative(found, LAYERS["convup_out_const"]) < 1e-2

    def test_gradcheck(self):
        layer = SynthesisLayer(2, 3, w_dim=4, resolution=4, up=2, clamp=1.0).double()
        layer.noise_strength.data.fill_(0.1)
        inputs = tuple(torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 2, 2, 2), (2, 4)))
        assert torch.autograd.gradcheck(layer, inputs, fast_mode=True)


class TestNoise:
    def test_a_seed_decides(self):
        layer = synthesis_layer("conv_")
        run = lambda seed: layer(LAYERS["x"], LAYERS["w"], noise=torch.Generator().manual_seed(seed))  # noqa: E731
        torch.testing.assert_close(run(1), run(1), rtol=0, atol=0)
        assert not torch.equal(run(1), run(2))
        before = torch.random.get_rng_state()
        run(3)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_each_picture_has_its_own(self):
        layer = synthesis_layer("conv_")
        x, w = LAYERS["x"][:1].expand(2, -1, -1, -1), LAYERS["w"][:1].expand(2, -1)
        first, second = layer(x, w, noise=torch.Generator().manual_seed(1))
        assert not torch.equal(first, second)

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match=r"noise must be 'const', 'none' or a torch.Generator, got 'random'"):
            synthesis_layer("conv_")(LAYERS["x"], LAYERS["w"], noise="random")


def test_fold_is_the_layer():
    x, w = LAYERS["x"][:1], LAYERS["w"][0]
    layer = synthesis_layer("conv_")
    weight, bias = layer.fold(w)
    plain = nn.functional.leaky_relu(nn.functional.conv2d(x, weight, bias, padding=1), 0.2)
    assert relative(plain, layer(x, w[None], noise="none")) < 1e-6
    weight, bias = to_rgb().fold(w)
    assert relative(nn.functional.conv2d(x, weight, bias), to_rgb()(x, w[None])) < 1e-6


def test_gradients_reach_every_parameter():
    layer = SynthesisLayer(2, 3, w_dim=4, resolution=4)
    outputs_and_gradients(layer, (torch.randn(1, 2, 4, 4), torch.randn(1, 4)))
    layer(torch.randn(1, 2, 4, 4), torch.randn(1, 4)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())
