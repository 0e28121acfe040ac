"""The dual discriminator judges as the published one, and lets its gradients be penalised."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from talk3d.models import DualDiscriminator
from talk3d.ops.registry import use
from talk3d.testing import assert_golden, golden

DATA = golden("eg3d/i_dual_discriminator")


def published(key: str) -> str:
    key = re.sub(r"^blocks\.", "b", key)
    key = re.sub(r"^epilogue\.", "b4.", key)
    key = re.sub(r"^from_rgb", "b32.fromrgb", key)
    return re.sub(r"\blayers\.(\d+)", r"fc\1", key)


@pytest.fixture
def discriminator() -> DualDiscriminator:
    network = DualDiscriminator(32, channel_base=512, channel_max=24, group=2, clamp=None)
    network.load_state_dict({key: DATA[published(key)] for key in network.state_dict()})
    return network


def tiny(**changes: object) -> DualDiscriminator:
    return DualDiscriminator(**{"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1} | changes)


def test_golden(discriminator):
    image, raw = (DATA[name].clone().requires_grad_() for name in ("image", "image_raw"))
    logits = discriminator(image, raw, DATA["c"])
    assert_golden(logits, DATA["logits"], 1e-6, "logits")
    logits.sum().backward()
    assert_golden(image.grad, DATA["grad_image"], 0, "image")
    assert_golden(raw.grad, DATA["grad_image_raw"], 0, "image_raw")


def test_full_size():
    with torch.device("meta"):
        network = DualDiscriminator()
    assert list(network.blocks) == ["512", "256", "128", "64", "32", "16", "8"]
    assert network.from_rgb.weight.shape == (64, 6, 1, 1)
    assert network.blocks["64"].conv1.weight.shape == (512, 512, 3, 3)
    assert network.epilogue.conv.weight.shape == (512, 513, 3, 3)
    assert network.epilogue.fc.weight.shape == (512, 8192)
    assert len(network.mapping.layers) == 8


class TestPenaltyOnGradients:
    def penalty(self, network: DualDiscriminator, image: Tensor, raw: Tensor) -> Tensor:
        logits = network(image, raw, torch.ones(len(image), 25, dtype=image.dtype))
        gradients = torch.autograd.grad(logits.sum(), (image, raw), create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients)

    def test_its_gradient(self):
        torch.manual_seed(1)
        network = tiny().double()
        image, raw = (torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True) for side in (8, 4))
        weight = network.blocks["8"].conv0.weight
        self.penalty(network, image, raw).backward()
        step = 1e-6 * torch.randn_like(weight)
        expected = (weight.grad * step).sum()
        values = []
        for sign in (1, -1):
            weight.data += sign * step
            values.append(self.penalty(network, image, raw).detach())
            weight.data -= sign * step
        torch.testing.assert_close((values[0] - values[1]) / 2, expected, rtol=1e-5, atol=0)
        assert all(parameter.grad is not None for name, parameter in network.named_parameters() if "bias" not in name)

    def test_implementations_agree(self):
        found = []
        for impl in ("torch", "reference"):
            torch.manual_seed(1)
            network = tiny()
            image, raw = (torch.randn(2, 3, side, side, requires_grad=True) for side in (8, 4))
            with use(impl):
                self.penalty(network, image, raw).backward()
            found.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_pictures_of_a_group_are_compared():
    network = tiny(group=2)
    first, second = torch.randn(2, 4, 3, 8, 8)
    raw, cameras = torch.zeros(4, 3, 4, 4), torch.ones(4, 25)
    before = network(first, raw, cameras)
    first[3] = second[3]
    after = network(first, raw, cameras)
    changed = (before != after).flatten().tolist()
    assert changed == [False, True, False, True]  # pictures 1 and 3 are a group


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DualDiscriminator(48), r"resolution must be a power of 2, at least 8, got 48"),
        (lambda: DualDiscriminator(4), r"resolution must be a power of 2, at least 8, got 4"),
        (lambda: tiny()(torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 25)), r"image must .* 8, 4\]"),
        (
            lambda: tiny()(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 4, 4), torch.zeros(2, 25)),
            r"image_raw must be \[2, 3, height, width\], got \[1, 3, 4, 4\]",
        ),
        (
            lambda: tiny()(torch.zeros(6, 3, 8, 8), torch.zeros(6, 3, 4, 4), torch.zeros(6, 25)),
            r"image has a batch of 6, which is no multiple of the group of 4",
        ),
        (
            lambda: tiny()(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)),
            r"cameras must have the shape \[batch, 25\], got \[2, 3\]",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
