"""The generator makes the numbers of the published one, and depends on nothing but its arguments."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talk3d import cameras as cams
from talk3d.models import CONFIGS, GeneratorConfig, TriPlaneGenerator
from talk3d.models.mapping import MappingNetwork
from talk3d.models.synthesis import BackboneShape, ConstantBlock, SynthesisBackbone, SynthesisBlock
from talk3d.ops import RenderOptions, pack_planes
from talk3d.testing import assert_golden, golden

SMALL = GeneratorConfig(
    rendering=RenderOptions(axes="original", coarse=12, fine=12, coupled="published"),
    resolution=32,
    superresolution="2x",
    superresolution_clamp=None,
    z_dim=128,
    channel_base=2048,
    channel_max=16,
)


def published(key: str) -> str:
    """The published name of one of our tensors."""
    key = re.sub(r"^backbone\.blocks\.", "backbone.synthesis.b", key)
    key = re.sub(r"^mapping\.", "backbone.mapping.", key)
    key = re.sub(r"\blayers\.(\d+)", r"fc\1", key)
    key = re.sub(r"\bto_rgb\b", "torgb", key)
    return re.sub(r"^decoder\.(\w+)", lambda found: f"decoder.net.{0 if found[1] == 'hidden' else 2}", key)


def fill(module: nn.Module, data: dict[str, Tensor], prefix: str = "") -> nn.Module:
    module.load_state_dict({key: data[prefix + published(key)] for key in module.state_dict()})
    return module


def assert_percentiles(actual: Tensor, expected: Tensor, published: dict[float, float], what: str) -> None:
    """Compare where isolated rays are sensitive: at each quantile, 5 times the published error."""
    error = (actual - expected.view_as(actual)).abs().flatten()
    for share, limit in published.items():
        found = error.kthvalue(max(1, round(share * len(error)))).values.item()
        assert found <= 5 * limit, f"{what}: {share:.0%} are off by up to {found:.3g}, not {5 * limit:.3g}"


def tiny(**changes: object) -> TriPlaneGenerator:
    return TriPlaneGenerator(replace(CONFIGS["tiny"], **changes))


class TestMapping:
    data = golden("eg3d/e3_mapping")

    def network(self, prefix: str, z_dim: int, w_dim: int, **options: object) -> MappingNetwork:
        return fill(MappingNetwork(z_dim, 25, w_dim, **options), self.data, prefix)

    @pytest.mark.parametrize(
        ("name", "options"),
        [("ws_psi1", {"psi": 1}), ("ws_psi07", {"psi": 0.7}), ("ws_psi05_cut7", {"psi": 0.5, "cutoff": 7})],
    )
    def test_golden_truncation(self, name, options):
        mapping = self.network("map_", 24, 32, layers=2)
        ws = mapping(self.data["z"], self.data["c"])[:, None].expand(-1, 14, -1)
        assert_golden(mapping.truncate(ws, **options), self.data[name], 1e-6, name)

    def test_golden_without_condition(self):
        w = self.network("map_", 24, 32, layers=2)(self.data["z"], torch.zeros(5, 25))
        assert_golden(w, self.data["ws_c0"][:, 0], 1e-6)

    def test_golden_average(self):
        mapping = self.network("map_", 24, 32, layers=2)
        mapping.update_average(mapping(self.data["z"], self.data["c"]))
        assert_golden(mapping.w_avg, self.data["w_avg_after_ema"], 1e-6)

    def test_golden_camera_alone(self):
        mapping = self.network("dmap_", 0, 16, layers=8, average=False)
        assert_golden(mapping(None, self.data["c"]), self.data["dmap_out"], 1e-6)
        with pytest.raises(ValueError, match=r"psi=0.5 needs a mean latent"):
            mapping.truncate(torch.zeros(1, 1, 16), 0.5)
        with pytest.raises(ValueError, match=r"keeps no mean latent"):
            mapping.update_average(torch.zeros(1, 16))


class TestBlocks:
    data = golden("eg3d/f1_blocks")

    def test_golden_block(self):
        block = fill(SynthesisBlock(8, 6, w_dim=32, resolution=32, image_channels=3), self.data, "block_")
        x, image = block(self.data["x"], self.data["img"], self.data["ws"])
        assert_golden(x, self.data["block_x"], 5e-6, "x")
        assert_golden(image, self.data["block_img"], 5e-6, "image")
        _, image = block(self.data["x"], None, self.data["ws"], noise="none")
        assert_golden(image, self.data["block_noimg_img"], 5e-6, "first image")

    def test_golden_first_block(self):
        block = fill(ConstantBlock(8, w_dim=32, image_channels=9), self.data, "block4_")
        x, image = block(self.data["ws"][:, :2])
        assert_golden(x, self.data["block4_x"], 5e-6, "x")
        assert_golden(image, self.data["block4_img"], 5e-6, "image")

    def test_golden_block_of_one_size(self):
        block = fill(SynthesisBlock(8, 6, w_dim=32, resolution=16, image_channels=3, up=1), self.data, "blocknoup_")
        before = self.data["img"].clone()
        x, image = block(self.data["x"], self.data["img"], self.data["ws"], noise="none")
        assert_golden(x, self.data["blocknoup_x"], 5e-6, "x")
        assert_golden(image, self.data["blocknoup_img"], 5e-6, "image")
        assert torch.equal(self.data["img"], before)


@pytest.fixture(scope="module")
def small() -> TriPlaneGenerator:
    generator = fill(TriPlaneGenerator(SMALL), golden("eg3d/g1_small_generator_weights"))
    return generator.requires_grad_(False)


class TestSmallGenerator:
    data = golden("eg3d/g1_small_generator_io")

    def noise(self) -> dict[str, Tensor]:
        return {"jitter": self.data["jitter"].squeeze(3), "u": self.data["u"][None]}

    def test_latents(self, small):
        ws = small.latents(self.data["z"], self.data["c_cond"], psi=0.8, cutoff=10)
        assert_golden(ws, self.data["ws"], 1.4e-6)

    def test_planes(self, small):
        stack = small.planes(self.data["ws"][:1]).flatten(1, 2)
        assert_golden(stack[:, :, ::8, ::8], self.data["planes_stride8"], 1.3e-5, "stride 8")
        assert_golden(stack[:, :, 100:116, 60:76], self.data["planes_crop"], 1.3e-5, "crop")
        assert_golden(stack.mean((2, 3)), self.data["planes_mean"], 1.3e-5, "mean")
        assert_golden(stack.std((2, 3)), self.data["planes_std"], 1.3e-5, "deviation")

    def test_picture_and_gradients(self, small):
        ws = self.data["ws"][:1].clone().requires_grad_()
        camera = self.data["c_render"][:1].clone().requires_grad_()
        image, view = small(ws, camera, **self.noise())
        raw = view.features[:, :3]
        assert_percentiles(raw, self.data["image_raw"], {0.5: 1e-6, 0.99: 8e-5, 1: 1.4e-3}, "image_raw")
        assert_percentiles(view.depth, self.data["image_depth"], {1: 2e-3}, "image_depth")
        assert_percentiles(image, self.data["image"], {1: 3e-3}, "image")
        loss = 100 * (image * self.data["cot_image"]).mean() + 100 * (raw * self.data["cot_raw"]).mean()
        loss.backward()
        assert_golden(ws.grad, self.data["grad_ws"], 3e-4, "ws")
        assert (ws.grad - self.data["grad_ws"]).abs().mean() <= 5 * 2.6e-5
        assert_golden(camera.grad, self.data["grad_c"], 0.24, "camera")

    def test_query(self, small):
        density, color = small.query(small.planes(self.data["ws"][:1]), self.data["sample_coords"])
        assert_golden(density, self.data["sample_sigma"], 2.5e-5, "density")
        assert_golden(color, self.data["sample_rgb"], 2e-6, "color")


def hashed(key: str, shape: tuple[int, ...], *, uniform: bool = False) -> Tensor:
    """The formula of the README of the vectors, section g: numbers made from a name."""

    def mix(v: np.ndarray) -> np.ndarray:
        v = (v ^ (v >> 16)) * np.uint32(0x7FEB352D)
        v = (v ^ (v >> 15)) * np.uint32(0x846CA68B)
        return v ^ (v >> 16)

    seed = mix(np.array([zlib.crc32(key.encode())], dtype=np.uint32))
    h = mix(np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint32) + seed)
    u = (h >> 8) / 2**24
    values = u if uniform else (u - 0.5) * np.sqrt(12)
    return torch.from_numpy(values.astype(np.float32)).view(shape)


FULL = golden("eg3d/g2_full_ffhq512_formula")


def formula(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("noise_strength"):
        return torch.tensor(0.05)
    n = hashed(key, shape)
    if key.endswith("affine.bias"):
        return 1 + 0.1 * n
    if re.fullmatch(r"backbone\.mapping\.fc\d\.(weight|bias)", key):
        return n * (100 if key.endswith("weight") else 10)
    if key == "decoder.net.2.weight":
        n[0] *= FULL["dens_gain"]
        return n
    if key.startswith("decoder.net") and key.endswith("bias"):
        n *= 0.3
        if key == "decoder.net.2.bias":
            n[0] = FULL["dens_bias"]
        return n
    return n * (0.3 if key.endswith("w_avg") else 0.1 if key.endswith("bias") else 1.0)


@pytest.fixture(scope="module")
def full() -> TriPlaneGenerator:
    config = CONFIGS["ffhq512-128"]
    generator = TriPlaneGenerator(replace(config, rendering=replace(config.rendering, coupled="published")))
    state = generator.state_dict()
    generator.load_state_dict({key: formula(published(key), tuple(old.shape)) for key, old in state.items()})
    return generator.requires_grad_(False)


@pytest.fixture(scope="module")
def ws(full) -> Tensor:
    return full.latents(hashed("z", (1, 512)), FULL["c_cond"], psi=0.7, cutoff=14)


@pytest.fixture(scope="module")
def planes(full, ws) -> Tensor:
    return full.planes(ws)


class TestFullGenerator:
    """ffhq512-128 with its 30.66 million weights, made by a formula from their published names."""

    def test_hash(self):
        checks = {
            "check_const_first8": hashed("backbone.synthesis.b4.const", (8,)),
            "check_jitter_first8": hashed("jitter", (8,), uniform=True),
        }
        for name, found in checks.items():
            assert_golden(found, FULL[name], 0, name)

    def test_weights_are_those_of_the_configuration(self, full):
        assert sum(parameter.numel() for parameter in full.parameters()) == 30_662_136
        assert len(full.state_dict()) == 132 + 17 + 1  # parameters, maps of noise, and the mean latent

    def test_latents_and_planes(self, ws, planes):
        assert_golden(ws, FULL["ws"].expand_as(ws), 1.4e-6, "ws")
        stack = planes.flatten(1, 2)
        assert_golden(stack[:, :, ::8, ::8], FULL["planes_stride8"], 7e-6, "stride 8")
        assert_golden(stack[:, :, 120:136, 120:136], FULL["planes_crop"], 7e-6, "crop")

    @pytest.mark.parametrize("side", [64, 128])
    def test_picture(self, full, ws, planes, side):
        rays = side * side
        noise = {name: hashed(key, (1, rays, 48), uniform=True) for name, key in (("jitter", "jitter"), ("u", "u"))}
        view = full.render(planes, FULL["c_render"], resolution=side, **noise)
        image = full.superresolution(view.features, ws[:, -1])
        if side == 64:
            assert_golden(view.features, FULL["r64_feature"], 2e-5, "features")
            assert_golden(view.depth, FULL["r64_depth"], 4e-5, "depth")
            assert_golden(image[:, :, ::4, ::4], FULL["r64_image_stride4"], 3.4e-5, "image")
        else:
            assert_golden(view.features[:, :3], FULL["r128_raw"], 3e-5, "raw")
            assert_golden(view.features[:, :, ::4, ::4], FULL["r128_feature_stride4"], 3e-5, "features")
            assert_percentiles(view.depth, FULL["r128_depth"], {0.99: 4e-5, 1: 1.3e-3}, "depth")
            assert_golden(image, FULL["r128_image"], 3.4e-5, "image")


class TestArguments:
    def test_a_picture_depends_on_latent_and_camera_alone(self):
        generator = tiny()
        ws = generator.latents(torch.randn(2, 16), psi=0.7)
        cameras = generator.config.camera().expand(2, -1)
        before = torch.random.get_rng_state()
        image, view = generator(ws, cameras)
        assert torch.equal(before, torch.random.get_rng_state())
        assert image.shape == (2, 3, 128, 128)
        assert [tuple(part.shape) for part in view] == [(2, 32, 16, 16), (2, 1, 16, 16), (2, 1, 16, 16)]
        alone, _ = generator(ws[1:], cameras[1:])
        torch.testing.assert_close(alone, image[1:], rtol=0, atol=1e-4)

    def test_the_frontal_camera_is_the_default_condition(self):
        generator, z = tiny(), torch.randn(2, 16)
        frontal = generator.config.camera()
        torch.testing.assert_close(frontal[:16].view(4, 4)[:3, 3], torch.tensor([0, 0, 2.7]), atol=1e-6, rtol=0)
        assert torch.equal(generator.latents(z), generator.latents(z, frontal.expand(2, -1)))

    def test_a_hidden_camera_changes_nothing(self):
        generator, z = tiny(conditioning_scale=0.0), torch.randn(2, 16)
        assert torch.equal(generator.latents(z), generator.latents(z, torch.randn(2, 25)))

    def test_noise_of_a_seed(self):
        generator = tiny()
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.1)
        ws = generator.latents(torch.randn(1, 16))
        planes = [generator.planes(ws, noise=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(planes[0], planes[1])
        assert not torch.equal(planes[0], planes[2])
        assert not torch.equal(generator.planes(ws), generator.planes(ws, noise="none"))

    def test_one_set_of_planes_for_many_cameras(self):
        generator = tiny()
        planes = generator.planes(generator.latents(torch.randn(1, 16)))
        cameras = cams.orbit(frames=2)
        shared = generator.render(pack_planes(planes, "zy"), cameras, resolution=8)
        own = generator.render(planes.expand(2, -1, -1, -1, -1), cameras, resolution=8)
        torch.testing.assert_close(shared.features, own.features)

    def test_the_convention_of_the_planes_decides(self):
        first, second = tiny(), tiny(rendering=RenderOptions(axes="yz", coarse=8, fine=8))
        second.load_state_dict(first.state_dict())
        planes, points = first.planes(first.latents(torch.randn(1, 16))), torch.rand(1, 9, 3) - 0.5
        assert not torch.allclose(first.query(planes, points)[0], second.query(planes, points)[0])

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda g: g.latents(torch.zeros(2, 15)), r"z must have the shape \[2, 16\], got \[2, 15\]"),
            (lambda g: g.latents(torch.zeros(2, 16), torch.zeros(2, 24)), r"cameras must have .* got \[2, 24\]"),
            (lambda g: g.planes(torch.zeros(2, 7, 32)), r"ws must have the shape \[batch, 8, 32\], got \[2, 7, 32\]"),
            (lambda g: g.planes(torch.zeros(1, 8, 32), noise="random"), r"noise must be .* got 'random'"),
            (lambda g: g.render(torch.zeros(1, 3, 32, 8, 8), torch.zeros(25)), r"cameras must have .* got \[25\]"),
            (lambda g: g.render(torch.zeros(1, 3, 32, 8, 8), torch.zeros(1, 24)), r"cameras must be .* \(1, 24\)"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(tiny())

    @pytest.mark.parametrize("resolution", [2, 48])
    def test_bad_resolution(self, resolution):
        with pytest.raises(ValueError, match=rf"resolution must be a power of 2, at least 4, got {resolution}"):
            SynthesisBackbone(BackboneShape(resolution, 3, 64, 8), w_dim=4)


class TestConfig:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_survives_json(self, name):
        assert GeneratorConfig.from_dict(json.loads(json.dumps(CONFIGS[name].to_dict()))) == CONFIGS[name]

    def test_bad_values(self):
        values = CONFIGS["tiny"].to_dict()
        with pytest.raises(ValueError, match="GeneratorConfig has no colour, taste"):
            GeneratorConfig.from_dict(values | {"taste": 1, "colour": 2})
        with pytest.raises(ValueError, match="RenderOptions has no lens"):
            GeneratorConfig.from_dict(values | {"rendering": {"axes": "zy", "lens": 1}})
        with pytest.raises(ValueError, match="the convention of the planes, is missing"):
            GeneratorConfig.from_dict({})
