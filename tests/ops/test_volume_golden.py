"""``render_rays`` and its steps reproduce the published renderer's vectors (golden/eg3d: a, c, d, h2)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from talk3d import native
from talk3d.ops import RenderOptions, render_rays
from talk3d.ops.registry import operators
from talk3d.reference import volume
from talk3d.testing import assert_as_accurate, assert_golden, golden

IMPLS = ["reference", "cpu-16", "cpu-8", "cpu-1", "triton"]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name, _, lanes = request.param.partition("-")
    if lanes:
        monkeypatch.setenv("TALK3D_LANES", lanes)
    if reason := operators()["render_rays"].why_not(name):
        pytest.skip(reason)
    if device_of(name) == "cpu" and name == "triton":
        # the interpreter takes a program's time, however large it is; tests/kernels/test_volume.py keeps the real tiles
        from talk3d.kernels import tiles

        monkeypatch.setattr(tiles, "render_rays", lambda: {"BLOCK_R": 256, "SUB": 4})
    return name


def device_of(impl: str) -> str:
    return "cuda" if impl == "triton" and torch.cuda.is_available() else "cpu"


def cpu_part(name: str):
    """One step of the C++ renderer."""
    native.load("cpu")
    return getattr(torch.ops.talk3d_cpu, name)


def gained(data: dict[str, Tensor], prefix: str = "dec_", multiplier: float = 1.0) -> tuple[Tensor, ...]:
    """The decoder with its run-time gains, from the raw parameters of a checkpoint."""
    w0, b0, w1, b1 = (data[f"{prefix}{name}"] for name in ("w0", "b0", "w1", "b1"))
    gains = [multiplier / math.sqrt(w.shape[1]) for w in (w0, w1)]
    return w0 * gains[0], b0 * multiplier, w1 * gains[1], b1 * multiplier


def render(data: dict[str, Tensor], impl: str):
    number = {name.removeprefix("opt_"): value.item() for name, value in data.items() if name.startswith("opt_")}
    options = RenderOptions(
        axes="original",
        near=number.get("ray_start", "auto"),
        far=number.get("ray_end", "auto"),
        coarse=int(number["depth_resolution"]),
        fine=int(number["depth_resolution_importance"]),
        disparity=bool(number["disparity_space_sampling"]),
        box_warp=number["box_warp"],
        white_back=bool(number.get("white_back", 0)),
        coupled="published",
    )
    data = {name: value.to(device_of(impl)) for name, value in data.items()}
    B, R, _ = data["ray_origins"].shape
    u = data["u"].view(B, R, -1) if "u" in data else None
    seen = render_rays(
        data["planes"],
        gained(data),
        data["ray_origins"],
        data["ray_directions"],
        options,
        jitter=data["jitter"].view(B, R, -1),
        u=u,
        impl=impl,
    )
    return tuple(tensor.cpu() for tensor in seen)


def assert_golden_depth(depth: Tensor, expected: Tensor, weight: Tensor, depths: Tensor, published: float) -> None:
    """Compare depths, which are ill-conditioned where a ray hardly meets anything.

    An opacity is 1 - exp(-x), a multiple of 2^-24: one rounding of one interval moves the mean depth of a ray of weight
    W by 2^-24 / W of the range of depths. Two such roundings are granted; where W is no more than that, depth is free.
    """
    conditioning = 2 * 2**-24 / weight * (depths.max() - depths.min())
    budget = max(5 * published, 2e-6 * expected.abs().max().item()) + conditioning
    assert ((depth - expected).abs() <= budget).all()
    assert (conditioning < 1e-4).float().mean() > 0.3  # so that the comparison means something


# the README's absolute errors of an independent implementation: features, depth, weight
RENDERED = {
    "a1_renderer_ffhq": (1.4e-5, 7e-6, 9e-6),
    "a2_renderer_auto_whiteback": (3e-6, 3e-6, 3e-6),
    "a3_renderer_disparity": (3e-6, 3e-6, 3e-6),
    "a4_renderer_coarse_only": (1e-6, 7e-6, 1e-6),
}


@pytest.mark.parametrize("name", RENDERED)
def test_golden_render(impl, name):
    data = golden(f"eg3d/{name}")
    features, depth, weight = render(data, impl)
    published = RENDERED[name]
    assert_golden(features, data["out_rgb"], published[0], "features")
    assert_golden(weight, data["out_weights"], published[2], "weight")
    expected = data["out_depth"].view_as(depth)
    depths = data.get("all_depths", data["coarse_depths"])
    assert_golden_depth(depth, expected, data["out_weights"].view_as(depth), depths, published[1])


DIFFERENTIATED = ("planes", "dec_w0", "dec_b0", "dec_w1", "dec_b1", "ray_origins", "ray_directions")


def loss_and_gradients(impl: str, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    data = {name: value.to(dtype) for name, value in golden("eg3d/a1_renderer_ffhq").items()}
    for name in DIFFERENTIATED:
        data[name].requires_grad_()
    features, depth, weight = render(data, impl)
    loss = (
        (features * data["cot_rgb"]).sum()
        + (depth * data["cot_depth"].view_as(depth)).sum()
        + (weight * data["cot_weights"].view_as(weight)).sum()
    )
    gradients = torch.autograd.grad(loss, [data[name] for name in DIFFERENTIATED])
    return loss, dict(zip(DIFFERENTIATED, gradients, strict=True))


def test_golden_gradients(impl):
    expected = golden("eg3d/a1_renderer_ffhq_grads")
    loss, gradients = loss_and_gradients(impl, torch.float32)
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-5, atol=1e-4)
    for name, published in {"planes": 3e-5, "ray_origins": 5e-3, "ray_directions": 1.5e-2}.items():
        assert_golden(gradients[name], expected[f"grad_{name}"], published, name)
    # for the decoder the README gives no error: sums over 6,144 samples, as accurate as the published ones
    _, exact = loss_and_gradients("reference", torch.float64)
    names = [name for name in DIFFERENTIATED if name.startswith("dec_")]
    mine, published_ones = [gradients[n] for n in names], [expected[f"grad_{n}"].view_as(exact[n]) for n in names]
    assert_as_accurate(mine, published_ones, [exact[n] for n in names])


@pytest.mark.parametrize("prefix", ["lr1_", "lr05_"])
class TestGoldenDecoder:
    def test_golden_reference(self, prefix):
        data = golden("eg3d/c_decoder")
        x = data["x"].requires_grad_()
        names = ("w0", "b0", "w1", "b1")
        raw = [data[f"{prefix}dec_{name}"].requires_grad_() for name in names]
        density, color = volume.decode(x.mean(1), gained(data, f"{prefix}dec_", data[f"{prefix}lr_mul"].item()))
        assert_golden(color, data[f"{prefix}rgb"], 2e-7, "colour")
        assert_golden(density, data[f"{prefix}sigma"], 2e-7, "density")
        loss = (color * data["cot_rgb"]).sum() + (density * data["cot_sigma"].view_as(density)).sum()
        for name, gradient in zip(("x", *names), torch.autograd.grad(loss, [x, *raw]), strict=True):
            assert_golden(gradient, data[f"{prefix}grad_{name}"], 2e-7, name)

    @pytest.mark.parametrize("lanes", ["16", "8", "1"])
    def test_golden_cpu(self, prefix, lanes, monkeypatch):
        if reason := native.available("cpu"):
            pytest.skip(reason)
        monkeypatch.setenv("TALK3D_LANES", lanes)
        data = golden("eg3d/c_decoder")
        flat = torch.cat([part.flatten() for part in gained(data, f"{prefix}dec_", data[f"{prefix}lr_mul"].item())])
        density, color = cpu_part("decode")(data["x"].mean(1).flatten(0, 1), flat)
        assert_golden(color, data[f"{prefix}rgb"].flatten(0, 1), 2e-7, "colour")
        assert_golden(density, data[f"{prefix}sigma"].flatten(), 2e-7, "density")


@pytest.mark.parametrize("white", [False, True])
class TestGoldenMarch:
    def test_golden_reference(self, white):
        data, name = golden("eg3d/d_ray_marcher"), "white_" if white else "black_"
        color, raw, depths = (data[key].requires_grad_() for key in ("colors", "densities", "depths"))
        density, t = raw[..., 0], depths[..., 0]
        features, depth, weight = volume.march(color, density, t, white, False)
        depth = depth.clamp(t.detach().min(), t.detach().max())
        assert_golden(features, data[f"{name}rgb"], 0, "features")
        expected = data[f"{name}depth"].view_as(depth)
        assert_golden_depth(depth, expected, weight.detach(), t.detach(), 0)
        weights, _ = volume.interval_weights(density, t)
        assert_golden(weights, data[f"{name}weights"], 0, "weights")
        loss = (features * data["cot_rgb"]).sum() + (weights * data["cot_weights"].view_as(weights)).sum()
        expected = [
            data["black_grad_colors"],  # the background is added to the colours
            data[f"{name}grad_densities_rw"],
            data[f"{name}grad_depths_rw"],
        ]
        gradients = torch.autograd.grad(loss, (color, raw, depths), retain_graph=True)
        for key, gradient, theirs in zip(("colors", "densities", "depths"), gradients, expected, strict=True):
            assert_golden(gradient, theirs, 0, key)
        sound = data["degenerate_mask"] == 0  # elsewhere the published depth has no derivative
        (depth * data["cot_depth"].view_as(depth))[sound].sum().backward()
        for key, tensor in (("densities", raw), ("depths", depths)):
            assert_golden(tensor.grad, data[f"grad_{key}_d"], 0, f"{key} from depth")

    @pytest.mark.parametrize("lanes", ["16", "8", "1"])
    def test_golden_cpu(self, white, lanes, monkeypatch):
        if reason := native.available("cpu"):
            pytest.skip(reason)
        monkeypatch.setenv("TALK3D_LANES", lanes)
        data, name = golden("eg3d/d_ray_marcher"), "white_" if white else "black_"
        color, density, t = data["colors"].flatten(0, 1), data["densities"].flatten(0, 1)[..., 0], data["depths"]
        t = t.flatten(0, 1)[..., 0]
        features, depth, weight = cpu_part("march")(color, density.contiguous(), t.contiguous(), white)
        assert_golden(features, data[f"{name}rgb"].flatten(0, 1), 0, "features")
        expected_weight = data[f"{name}weights"].sum(2).view_as(weight)
        assert_golden(weight, expected_weight, 0, "weight")
        expected = data[f"{name}depth"].view_as(depth)
        assert_golden_depth(depth.clamp(t.min(), t.max()), expected, expected_weight, t, 0)


class TestGoldenImportance:
    def test_golden_reference(self):
        data = golden("eg3d/h2_importance_sampling")
        depths, weights, out = data["z_vals"][..., 0], data["weights"][..., 0], data["out"]
        u = data["u"].view(*depths.shape[:2], -1)
        assert_golden(volume.importance_depths(depths, weights, u), out, 0, "depths")
        ends = torch.linspace(0, 1, u.shape[2]).expand_as(u)
        assert_golden(volume.importance_depths(depths, weights, ends), data["det_out"], 0, "depths at even quantiles")

    @pytest.mark.parametrize("lanes", ["16", "8", "1"])
    def test_golden_cpu(self, lanes, monkeypatch):
        if reason := native.available("cpu"):
            pytest.skip(reason)
        monkeypatch.setenv("TALK3D_LANES", lanes)
        data = golden("eg3d/h2_importance_sampling")
        rays = [data[key][..., 0].flatten(0, 1).contiguous() for key in ("z_vals", "weights")]
        found = cpu_part("importance_depths")(*rays, data["u"])
        # it draws in ascending order: the same multiset
        assert_golden(found, data["out"].view_as(found).sort(1).values, 0, "depths")
