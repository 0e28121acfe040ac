"""Super-resolution in 8 bits: its arithmetic on a CPU, its calibration, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from talk3d.models import SuperResolution
from talk3d.models.quantised import LEAST_PSNR, QuantisedConv, quantise, why_not
from talk3d.ops import Activation

PLAIN = Activation("linear")


def network(strength: float = 1.0) -> tuple[torch.nn.Module, Tensor]:
    """A folded network, and features for it; of a given strength are the weights of what it adds to the picture."""
    model = SuperResolution("small", w_dim=4)
    with torch.no_grad():
        for block in (model.block0, model.block1):
            block.to_rgb.weight.mul_(strength)
    features = torch.randn(4, 32, 64, 64, generator=torch.Generator().manual_seed(3))
    return model.fold(torch.ones(4)).to(torch.bfloat16), features.contiguous(memory_format=torch.channels_last)


def test_numbers_that_the_type_holds_are_exact():
    # int8 with a scale of 1: inputs up to 127, weights up to 127
    x = torch.randint(-127, 128, (2, 5, 4, 6)).float()
    weight = torch.randint(-127, 128, (3, 5, 3, 3)).float()
    weight[:, 0, 0, 0] = 127
    conv = QuantisedConv(weight, torch.tensor([1.0, 2.0, 3.0]), PLAIN, torch.tensor(127.0), "int8")
    expected = conv2d(x.double(), weight.double(), torch.tensor([1.0, 2.0, 3.0]).double(), padding=1)
    torch.testing.assert_close(conv(x).double(), expected, rtol=0, atol=0)
    # fp8 with a scale of 1: what E4M3 holds
    x, weight = (torch.randn(s).mul(20).to(torch.float8_e4m3fn).float() for s in ((1, 4, 5, 5), (2, 4, 3, 3)))
    weight[:, 0, 0, 0] = 448
    conv = QuantisedConv(weight, torch.zeros(2), PLAIN, torch.tensor(448.0), "fp8")
    torch.testing.assert_close(conv(x).double(), conv2d(x.double(), weight.double(), padding=1), rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize(("kind", "limit"), [("fp8", 0.04), ("int8", 0.015)])
def test_rounding_is_as_large_as_the_type_makes_it(kind, limit):
    x, weight = torch.randn(1, 16, 12, 12), torch.randn(8, 16, 3, 3)
    found = QuantisedConv(weight, torch.zeros(8), PLAIN, x.abs().amax(), kind)(x)
    exact = conv2d(x, weight, padding=1)
    error = (found - exact).norm() / exact.norm()
    assert limit / 4 < error < limit


def test_inputs_beyond_the_calibration_are_clamped():
    conv = QuantisedConv(torch.ones(1, 1, 3, 3), torch.zeros(1), PLAIN, torch.tensor(2.0), "int8")
    torch.testing.assert_close(conv(torch.full((1, 1, 1, 1), 9.0)), torch.full((1, 1, 1, 1), 2.0))


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_network_is_calibrated_and_close(kind):
    plain, features = network(strength=0.02)
    quantised, psnr = quantise(plain, features, kind=kind)
    assert isinstance(quantised.block1.conv1, QuantisedConv)
    assert not isinstance(plain.block1.conv1, QuantisedConv), "the network itself stays as it is"
    mse = (quantised(features).float() - plain(features).float()).square().mean()
    assert float(10 * torch.log10(4 / mse)) == pytest.approx(psnr, abs=0.1)
    assert LEAST_PSNR <= psnr < 100


def test_what_can_be_seen_is_refused():
    plain, features = network(strength=50.0)
    with pytest.raises(ValueError, match=r"in fp8 the super-resolution .* below 45 dB it is not used"):
        quantise(plain, features, kind="fp8")


def test_wrong_use_is_said(monkeypatch):
    plain, features = network()
    with pytest.raises(ValueError, match="two frames or more"):
        quantise(plain, features[:1])
    with pytest.raises(ValueError, match="kind must be one of fp8, int8, got 'int4'"):
        quantise(plain, features, kind="int4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    device = torch.device("cuda")
    assert why_not("int8", device) is None
    assert why_not("fp8", device) == "fp8 needs compute capability 8.9 (Ada or Hopper), cuda has 8.0"
    assert why_not("fp8", torch.device("meta")) == "fp8 is for NVIDIA GPUs, not for meta"
