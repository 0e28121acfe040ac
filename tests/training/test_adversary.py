"""The adversarial loss: who learns from what, crops at one place, and the penalty by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from talk3d import cameras as cams
from talk3d.models.discriminator import DualDiscriminator
from talk3d.testing import golden
from talk3d.training.adversary import Adversary, Crops, crop_cameras, make_adversary, penalty
from talk3d.training.config_prior import AdversaryConfig
from talk3d.training.driver import DriverStage
from talk3d.training.loop import generator_of
from talk3d.training.pairs import Pair
from talk3d.training.perceptual import Perceptual
from talk3d.weights.discriminator import read_discriminator


def tiny(**changes) -> Adversary:
    config = AdversaryConfig(**{"weight": 1.0, "crop": 8, "every": 4} | changes)
    return Adversary(config, DualDiscriminator(8, channel_base=64, channel_max=8, mapping_layers=1, group=2))


def test_a_crop_s_camera_sees_what_the_crop_shows():
    camera = cams.pack(cams.look_at(10.0, 5.0), cams.intrinsics(4.0, skew=0.1))[None]
    origins, directions = cams.rays(*cams.unpack(camera), 16)
    expected = directions.view(16, 16, 3)[3:11, 5:13].reshape(1, 64, 3)
    found = cams.rays(*cams.unpack(crop_cameras(camera, (3, 5, 8), 16)), 8)
    torch.testing.assert_close(found[1], expected)
    torch.testing.assert_close(found[0], origins[:, :64])


def test_the_penalty_by_hand():
    class Linear(nn.Module):
        def forward(self, image, raw, cameras):
            return (3 * image + 0.5 * image.square()).sum((1, 2, 3)) + 2 * raw.sum((1, 2, 3))

    crops = Crops(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    # a slope of 3 + 1 at each of 48 numbers, and of 2 at each of 12
    assert penalty(Linear(), crops, torch.zeros(2, 25)).item() == pytest.approx(16 * 48 + 4 * 12)


def crops(red: float) -> Crops:
    image = torch.randn(4, 3, 8, 8) * 0.1
    image[:, 0] += red
    return Crops(image, image[..., ::4, ::4].clone())


def test_each_learns_from_its_own_loss_alone():
    adversary, cameras = tiny(), torch.ones(4, 25)
    found = Crops(*(part.requires_grad_() for part in crops(0.5)))
    terms = adversary.losses(found, crops(-0.5), cameras, 1, 0.3)
    assert terms.keys() == {"adversary", "discriminator"}
    terms["adversary"].backward(retain_graph=True)
    assert found.image.grad.abs().max() > 0
    assert found.raw.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in adversary.parameters())
    before = found.image.grad.clone()
    terms["discriminator"].backward()
    assert torch.equal(found.image.grad, before)
    assert all(parameter.grad is not None for parameter in adversary.network.blocks.parameters())
    assert "slope" in adversary.losses(found, crops(-0.5), cameras, 8, 0.3)


def test_by_hand():
    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, image, raw, cameras):
            return self.scale * image.mean((1, 2, 3))[:, None]

    adversary = Adversary(AdversaryConfig(weight=1.0), Says())
    found, real = (Crops(torch.full((1, 3, 2, 2), value), torch.zeros(1, 3, 1, 1)) for value in (0.5, -0.25))
    terms = adversary.losses(found, real, torch.zeros(1, 25), 1, 0.3)
    softplus = nn.functional.softplus
    assert terms["adversary"].item() == pytest.approx(0.3 * softplus(torch.tensor(-1.0)).item())
    expected = softplus(torch.tensor(1.0)) + softplus(torch.tensor(0.5))
    assert terms["discriminator"].item() == pytest.approx(0.01 * expected.item())


def test_it_learns_to_tell_and_what_is_judged_to_pass():
    torch.manual_seed(0)
    adversary, cameras = tiny(rate=5e-3), torch.ones(4, 25)
    red = nn.Parameter(torch.tensor(0.8))
    optimizer = torch.optim.Adam([{"params": [red], "lr": 0.02}, adversary.group()], betas=(0.9, 0.99))
    for step in range(150):
        found, real = crops(0.0), crops(-0.8)
        shifted = Crops(*(part + red * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1) for part in found))
        terms = adversary.losses(shifted, real, cameras, step, 1.0)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert red < -0.2  # on its way to what frames look like


def test_crops_are_cut_at_one_place():
    adversary, seen = tiny(), {}
    whole, view = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 8, 8)
    # a part of the view from row 2 and column 1 on, and its picture without a rim of a pixel of the view
    raw = Pair(view[..., 2:8, 1:7], view[..., 2:8, 1:7], view, (2, 1), 8)
    large = Pair(whole[..., 12:32, 8:28], whole[..., 12:32, 8:28], whole, (12, 8), 32)
    adversary.losses = lambda found, real, cameras, step, weight: seen.update(found=found, real=real, cameras=cameras)
    camera = cams.pack(cams.look_at(0.0, 0.0), cams.intrinsics(4.0)).expand(2, -1)
    places = set()
    for seed in range(30):
        adversary([raw, large], camera, 0, 1.0, torch.Generator().manual_seed(seed))
        _, matrix = cams.unpack(seen["cameras"])
        left, top = (16 - 8 * matrix[0, :2, 2]).round().int().tolist()
        assert torch.equal(seen["found"].image, whole[..., top : top + 8, left : left + 8])
        small = slice(top // 4, top // 4 + 2), slice(left // 4, left // 4 + 2)
        assert torch.equal(seen["found"].raw, view[..., small[0], small[1]])
        assert torch.equal(seen["real"].raw, seen["found"].raw)
        places.add((top, left))
    assert min(places) >= (12, 8)
    assert len(places) > 5
    with pytest.raises(ValueError, match="crop is 8, and a step makes pictures of 6"):
        adversary([raw], camera, 0, 1.0, torch.Generator())


def test_a_driver_is_trained_with_it(make_context, make_config):
    config = make_config()
    wanted = AdversaryConfig(weight=0.1, start=0.5, ramp=0.0, crop=16, channels=128, every=2)
    config = replace(config, driver=replace(config.driver, adversary=wanted))
    stage = DriverStage(make_context(config), Perceptual())
    stage.begin()
    assert "adversary" not in stage.losses(0, generator_of(0, "driver", 0))
    terms = stage.losses(4, generator_of(0, "driver", 4))
    assert {"adversary", "discriminator", "slope"} <= terms.keys()
    optimizer, before = stage.optimizer(), stage.adversary.network.from_rgb.weight.clone()
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    assert not torch.equal(stage.adversary.network.from_rgb.weight, before)
    assert "adversary" in stage.modules()  # hence in checkpoints
    terms = stage.losses(3, generator_of(0, "driver", 3))
    (slope,) = torch.autograd.grad(terms["adversary"], stage.driver.unet.head.maps)
    assert slope.abs().max() > 0


def test_it_is_off_by_default(make_config, make_context):
    stage = DriverStage(make_context(make_config()), Perceptual())
    assert stage.adversary is None
    assert "adversary" not in stage.modules()


def test_what_cannot_be(make_config, tmp_path):
    def config(**changes):
        made = make_config()
        return replace(made, driver=replace(made.driver, adversary=AdversaryConfig(weight=1.0, **changes)))

    with pytest.raises(ValueError, match=r"D\.pkl is a discriminator without a generator: .* pass --generator too"):
        make_adversary(config(checkpoint=Path("D.pkl")), 64)
    with pytest.raises(ValueError, match="crop is 64, and a step makes pictures of 32 pixels"):
        make_adversary(config(), 32)


class TestSnapshot:
    data = golden("eg3d/i_dual_discriminator")

    def state(self):
        inputs = {"image", "image_raw", "c", "logits", "grad_image", "grad_image_raw", "resized_raw"}
        return {name: value for name, value in self.data.items() if name not in inputs}

    def test_it_judges_as_published(self, tmp_path):
        torch.save({"D": self.state()}, tmp_path / "snapshot.pt")
        network = read_discriminator(tmp_path / "snapshot.pt", group=2)
        logits = network(*(self.data[name] for name in ("image", "image_raw", "c")))
        torch.testing.assert_close(logits, self.data["logits"], rtol=1e-5, atol=1e-5)

    def test_another_file(self, tmp_path):
        torch.save({"G_ema": {}}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"a\.pt has no discriminator of EG3D"):
            read_discriminator(tmp_path / "a.pt")
        state = self.state()
        del state["b16.conv0.bias"]
        torch.save(state, tmp_path / "b.pt")
        with pytest.raises(ValueError, match=r"b\.pt: this is not a discriminator .*: b16\.conv0\.bias is missing"):
            read_discriminator(tmp_path / "b.pt")
