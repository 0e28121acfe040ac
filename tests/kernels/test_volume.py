"""``render_rays`` in Triton: the contract, and its stages against the golden vectors (golden/eg3d: c, d, h2).

The vectors of whole pictures are in ``tests/ops/test_volume_golden.py``. Without a GPU the interpreter runs, which
takes tens of milliseconds for every program: bundles are of a few rays.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import opcheck

from talk3d.kernels import field, march, tiles, volume
from talk3d.ops import AXES, RenderOptions, pack_planes, render_rays
from talk3d.ops.registry import operators
from talk3d.testing import assert_as_accurate, assert_golden, golden, head_planes, outputs_and_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = RenderOptions(axes="zy", near=0.7, far=1.9, coarse=7, fine=5, box_warp=1.1)
DECODER = ("w0", "b0", "w1", "b1")


def make(
    cameras: int, rays: int, *, sets: int = 1, extra: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Planes [sets, 3, 32, 12, 12 + extra], the decoder's four tensors, and rays that cross the box or pass it by."""
    planes, decoder = head_planes(sets, 12)
    planes = torch.nn.functional.pad(planes, (0, extra, 0, 0, 0, 0), mode="replicate")
    generator = torch.Generator().manual_seed(2)
    origins = torch.randn(cameras, rays, 3, generator=generator, dtype=torch.float64)
    origins = 1.3 * origins / origins.norm(dim=2, keepdim=True)
    aims = torch.randn(cameras, rays, 3, generator=generator, dtype=torch.float64) * 0.3
    directions = torch.nn.functional.normalize(aims - origins, dim=2)
    return tuple(t.double().to(dtype).to(DEVICE).requires_grad_() for t in (planes, *decoder, origins, directions))


def noise(cameras: int, rays: int, options: RenderOptions = OPTIONS) -> dict[str, Tensor]:
    """Jitter, and quantiles in no order; numbers that half precision has too."""
    generator = torch.Generator().manual_seed(3)
    sizes = {"jitter": options.coarse, "u": options.fine}
    return {
        name: (torch.randint(0, 128, (cameras, rays, size), generator=generator) / 128).to(DEVICE)
        for name, size in sizes.items()
        if size
    }


def run(
    inputs: tuple[Tensor, ...], impl: str, options: RenderOptions = OPTIONS, *, packed: bool = False, **noise: Tensor
) -> tuple[Tensor, ...]:
    """Features, depth times weight, and weight, then the gradient of every input that asks for one."""

    def function(planes, w0, b0, w1, b1, origins, directions):
        noises = {name: tensor.to(origins.dtype) for name, tensor in noise.items()}
        prepared = pack_planes(planes, options.axes) if packed else planes
        seen = render_rays(prepared, (w0, b0, w1, b1), origins, directions, options, impl=impl, **noises)
        return seen.features, seen.depth * seen.weight, seen.weight

    return tuple(t.cpu() for t in outputs_and_gradients(lambda *args: tuple(t.cpu() for t in function(*args)), inputs))


@pytest.mark.parametrize(
    ("cameras", "rays", "sets", "extra", "change", "packed"),
    [
        (2, 19, 2, 3, {"white_back": True}, False),  # neither square planes, nor whole tiles
        (1, 24, 1, 0, {"axes": "original", "coarse": 4, "fine": 9}, True),  # two planes
        (1, 30, 1, 0, {"axes": "yz", "coarse": 6, "fine": 0, "disparity": True}, False),
        (1, 16, 1, 0, {"near": "auto", "far": "auto", "coarse": 17, "fine": 3}, False),
    ],
    ids=str,
)
def test_as_accurate_as_the_reference(cameras, rays, sets, extra, change, packed):
    options = replace(OPTIONS, **change)
    random = noise(cameras, rays, options)

    def found(impl: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = make(cameras, rays, sets=sets, extra=extra, dtype=dtype)
        return run(inputs, impl, options, packed=packed, **random)

    single, double = torch.float32, torch.float64
    assert_as_accurate(found("triton", single), found("reference", single), found("reference", double))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_as_accurate_as_the_reference_in_it(dtype):
    inputs = make(1, 32, dtype=dtype)  # what is rounded before is no error
    exact = run(tuple(t.detach().double().requires_grad_() for t in inputs), "reference", **noise(1, 32))
    assert_as_accurate(run(inputs, "triton", **noise(1, 32)), run(inputs, "reference", **noise(1, 32)), exact)


@pytest.fixture(scope="module")
def usual() -> tuple[Tensor, ...]:
    """What two cameras of 3 rays see, with the gradients of everything."""
    return run(make(2, 3), "triton")


def test_default_noise_is_the_middle(usual):
    middle = {
        "jitter": torch.full((2, 3, 7), 0.5, device=DEVICE),
        "u": ((torch.arange(5) + 0.5) / 5).expand(2, 3, 5).flip(2).to(DEVICE),  # their order is of no consequence
    }
    for mine, theirs in zip(run(make(2, 3), "triton", **middle), usual, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("needed", [("planes",), DECODER, ("origins", "directions")], ids="-".join)
def test_only_the_gradients_that_are_asked_for(usual, needed):
    names = ("planes", *DECODER, "origins", "directions")
    whole = dict(zip(names, usual[3:], strict=True))
    inputs = tuple(t.detach().requires_grad_(name in needed) for name, t in zip(names, make(2, 3), strict=True))
    for name, gradient in zip(needed, run(inputs, "triton")[3:], strict=True):
        torch.testing.assert_close(gradient, whole[name])


def test_any_backward_follows_any_forward():
    """What the operator saves is the same, whoever saved it."""
    planes, *decoder, origins, directions = make(1, 5)
    texels = planes.detach().permute(0, 1, 3, 4, 2).contiguous()
    flat = torch.cat([part.detach().flatten() for part in decoder])
    rays = torch.cat([origins, directions, origins.new_tensor([0.7, 1.9]).expand(1, 5, 2)], dim=2).detach()
    settings = [2 / 1.1, 64.0, 7.0, 5.0, 0.0, 0.0, 1.0, 0.0]
    forward, backward = torch.ops.talk3d.render_rays, torch.ops.talk3d.render_rays_backward
    mine, theirs = (
        forward(texels, flat, rays, None, None, list(AXES["zy"]), settings, impl) for impl in ("triton", "reference")
    )
    torch.testing.assert_close(mine[3:], theirs[3:], rtol=1e-5, atol=2e-6)
    # the depth of a ray that hardly meets anything has no digits: it counts as much as the ray weighs
    grads = [torch.ones_like(theirs[0]), theirs[2], torch.ones_like(theirs[2])]
    for saved in (mine, theirs):
        arguments = (grads, [texels, flat, rays, *saved[3:]], list(AXES["zy"]), settings, [True, True, True])
        for ours, reference in zip(backward(*arguments, "triton"), backward(*arguments, "reference"), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-3)


def test_a_ray_does_not_depend_on_its_neighbours(usual):
    planes, *rest = make(2, 3)
    alone = run((planes, *rest[:4], *(t.detach()[1:, 2:] for t in rest[4:])), "triton")
    for mine, theirs in zip(alone[:3], usual[:3], strict=True):
        assert torch.equal(mine[0, 0], theirs[1, 2])


def test_no_rays():
    found = run(make(2, 0), "triton")
    assert [list(t.shape) for t in found[:3]] == [[2, 0, 32], [2, 0], [2, 0]]
    assert not any(t.any() for t in found[3:])


@pytest.mark.parametrize("white_back", [False, True])
def test_a_miss(white_back):
    planes, *decoder, origins, _ = make(1, 2)
    away = torch.nn.functional.normalize(origins.detach(), dim=2).requires_grad_()
    options = replace(OPTIONS, near="auto", far="auto", white_back=white_back)
    features, depth, weight, *gradients = run((planes, *decoder, origins, away), "triton", options)
    assert torch.equal(features, torch.full_like(features, 1.0 if white_back else -1.0))
    assert not weight.any()
    assert torch.isfinite(depth).all()
    assert not any(gradient.any() for gradient in gradients)


def test_unclamped_depth_of_nothing_is_infinite():
    planes, w0, b0, w1, b1, origins, directions = (t.detach() for t in make(1, 2))
    empty = (w0, b0, torch.zeros_like(w1), torch.full_like(b1, -300.0))
    options = replace(OPTIONS, near=5.0, far=6.0, clamp_depth=False)
    seen = render_rays(planes, empty, origins, directions, options, impl="triton")
    assert torch.equal(seen.depth, torch.full_like(seen.depth, math.inf))
    clamped = render_rays(planes, empty, origins, directions, replace(options, clamp_depth=True), impl="triton")
    torch.testing.assert_close(clamped.depth, torch.full_like(clamped.depth, 6.0 + 0.5 / 6))  # its last sample


def test_what_is_not_finite_stays_so_and_harms_nobody():
    planes, *decoder, origins, directions = (t.detach().clone() for t in make(1, 6))
    clean = render_rays(planes, decoder, origins, directions, OPTIONS, impl="triton").features
    origins[0, 1] = math.nan
    origins[0, 3] = math.inf  # infinitely far out there is nothing
    directions[0, 4] = 1e30
    found, depth, _ = render_rays(planes, decoder, origins, directions, OPTIONS, impl="triton")
    assert depth[0, 1].isnan()
    others = [0, 2, 5]
    assert torch.equal(found[:, others], clean[:, others])
    assert found[0, 1].isnan().all()
    broken = render_rays(torch.full_like(planes, math.nan), decoder, *make(1, 2)[5:], OPTIONS, impl="triton")
    assert broken.features.isnan().all()


def test_min_weight_keeps_its_bound():
    inputs = tuple(t.detach() for t in make(1, 20))
    exact, rough = (run(inputs, "triton", replace(OPTIONS, min_weight=least))[0] for least in (0.0, 1e-2))
    assert 0 < (rough - exact).abs().max() <= 2 * (OPTIONS.coarse + OPTIONS.fine) * 1e-2


def test_contract():
    planes, *decoder, origins, directions = make(1, 2)
    texels = planes.detach().permute(0, 1, 3, 4, 2).contiguous()
    flat = torch.cat([part.detach().flatten() for part in decoder])
    rays = torch.cat([origins, directions, origins.new_tensor([0.7, 1.9]).expand(1, 2, 2)], dim=2).detach()
    tensors = [t.requires_grad_() for t in (texels, flat, rays)]
    settings = [2 / 1.1, 64.0, 4.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    found = opcheck(torch.ops.talk3d.render_rays.default, (*tensors, None, None, list(AXES["zy"]), settings, "triton"))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.compile
def test_compiles_whole(usual):
    def render(planes, w0, b0, w1, b1, origins, directions):
        return render_rays(planes, (w0, b0, w1, b1), origins, directions, OPTIONS, impl="triton")

    compiled = torch.compile(render, fullgraph=True, dynamic=True, backend="aot_eager")
    features, _, weight = compiled(*make(2, 3))
    torch.testing.assert_close((features.detach().cpu(), weight.detach().cpu()), (usual[0], usual[2]))


@pytest.mark.parametrize(
    ("shape", "dtype", "samples", "reason"),
    [
        ((1, 3, 4097, 4096, 32), torch.float32, 12, "it takes planes of at most 2^24 texels, not 4097 x 4096"),
        ((1, 3, 8, 8, 32), torch.float64, 12, "it takes float32, float16 or bfloat16, not torch.float64"),
        ((1, 3, 8, 8, 16), torch.float32, 12, r"it is built for a decoder 32 -> 64 -> 1 + 32, not (16, 64, 32)"),
        ((1, 3, 8, 8, 32), torch.float32, 1025, "it takes at most 1024 samples a ray, not 1025"),
    ],
)
def test_what_it_cannot_take_it_refuses(shape, dtype, samples, reason):
    planes = torch.ones(1, dtype=dtype, device=DEVICE).expand(shape)  # no memory: one number
    decoder = torch.zeros(64 * (shape[4] + 1) + 33 * 65, dtype=dtype, device=DEVICE)
    rays = torch.zeros(1, 1, 8, dtype=dtype, device=DEVICE)
    settings = [2.0, 64.0, samples, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert operators()["render_rays"].why_not("triton", planes, decoder, rays, None, None, [], settings) == reason


@triton.jit
def decode_rows(features_ptr, decoder_ptr, raw_ptr, color_ptr, M, PTX: tl.constexpr):
    """The decoder on rows of features, as the renderer's kernels run it."""
    row, c = tl.program_id(0) * 64 + tl.arange(0, 64), tl.arange(0, 32)
    at = features_ptr + row[:, None] * 32 + tl.arange(0, 16)[None, :]
    there = (row < M)[:, None]
    one, two = tl.load(at, mask=there, other=0.0), tl.load(at + 16, mask=there, other=0.0)
    w_first, w_second, bias = field.first_layer(decoder_ptr, tl.float32)
    before = field.before_hidden(one * 3.0, two * 3.0, w_first, w_second, bias, "tf32x3")
    activation = field.softplus2(before, PTX)
    w_density, b_density = field.density_layer(decoder_ptr)
    tl.store(raw_ptr + row, tl.sum(activation * w_density[None, :], 1) + b_density, mask=row < M)
    w_color, b_color = field.color_layer(decoder_ptr, tl.float32)
    squashed = field.squashed_color(activation, w_color, b_color, "tf32x3", PTX)
    tl.store(color_ptr + row[:, None] * 32 + c[None, :], squashed * 1.002 - 0.001, mask=there)


@pytest.mark.parametrize("prefix", ["lr1_", "lr05_"])
def test_golden_decoder(prefix):
    data = {name: tensor.to(DEVICE) for name, tensor in golden("eg3d/c_decoder").items()}
    multiplier = data[f"{prefix}lr_mul"].item()
    raw = [data[f"{prefix}dec_{name}"] for name in DECODER]
    gains = [multiplier / math.sqrt(32), multiplier, multiplier / math.sqrt(64), multiplier]
    flat = torch.cat([(part * gain).flatten() for part, gain in zip(raw, gains, strict=True)])
    x = data["x"].mean(1).flatten(0, 1)
    density, color = x.new_empty(len(x)), torch.empty_like(x)
    decode_rows[(triton.cdiv(len(x), 64),)](x, flat, density, color, len(x), tiles.ptx())
    assert_golden(color.cpu(), data[f"{prefix}rgb"].flatten(0, 1).cpu(), 2e-7, "colour")
    assert_golden(density.cpu(), data[f"{prefix}sigma"].flatten().cpu(), 2e-7, "density")


@pytest.mark.parametrize("white", [False, True])
def test_golden_march(white):
    data = {name: tensor.to(DEVICE) for name, tensor in golden("eg3d/d_ray_marcher").items()}
    name = "white_" if white else "black_"
    t, raw = (data[key][..., 0].flatten(0, 1).contiguous() for key in ("depths", "densities"))
    rays, N = t.shape
    share, depths, transmittance = torch.empty_like(t), torch.empty_like(t), t.new_empty(rays, N - 1)
    depth, weight, place = t.new_empty(rays), t.new_empty(rays), t.new_empty(rays, 1, dtype=torch.int32)
    tile = tiles.march(0, N)
    march._march_kernel[(triton.cdiv(rays, tile["BLOCK_R"]),)](
        t, raw, place, share, depths, transmittance, depth, weight, rays, 0.0, N, 0, False, **tile
    )
    assert torch.equal(depths, t)
    color = torch.einsum("rn,rnd->rd", share, data["colors"].flatten(0, 1))
    features = 2 * (color + (1 - weight[:, None] if white else 0)) - 1
    assert_golden(features.cpu(), data[f"{name}rgb"].flatten(0, 1).cpu(), 0, "features")
    assert_golden(weight.cpu(), data[f"{name}weights"].sum(2).flatten().cpu(), 0, "weight")
    dense = weight > 1e-2  # elsewhere depth is ill-conditioned
    clamped = depth.clamp(t.min(), t.max())
    assert_golden(clamped[dense].cpu(), data[f"{name}depth"].flatten()[dense].cpu(), 0, "depth")
    assert dense.float().mean() > 0.3


@triton.jit
def draw_row(t_ptr, weight_ptr, u_ptr, out_ptr, S: tl.constexpr, F: tl.constexpr, STEPS: tl.constexpr):
    """One ray's fine depths, as the renderer's kernel draws them."""
    k = tl.arange(0, 64)[None, :]
    ray = tl.program_id(0)
    t = tl.load(t_ptr + ray * S + k, mask=k < S, other=0.0)
    weight = tl.load(weight_ptr + ray * (S - 1) + k, mask=k < S - 1, other=0.0)
    u = tl.load(u_ptr + ray * F + k, mask=k < F, other=0.0)
    depth, _ = march.fine_depths(t, weight, u, k, S, STEPS)
    tl.store(out_ptr + ray * F + k, depth, mask=k < F)


def test_golden_importance():
    data = {name: tensor.to(DEVICE) for name, tensor in golden("eg3d/h2_importance_sampling").items()}
    t, weight = (data[key][..., 0].flatten(0, 1).contiguous() for key in ("z_vals", "weights"))
    u = data["u"].contiguous()
    (rays, S), F = t.shape, u.shape[-1]
    out = t.new_empty(rays, F)
    draw_row[(rays,)](t, weight, u, out, S, F, tiles.draw(S, F)["STEPS"])
    assert_golden(out.cpu(), data["out"].view_as(out).cpu(), 0, "depths")


def test_tiles_are_what_the_kernels_count_on():
    """A step less, and a bisection would miss; a row too short, and a ray would lose samples."""
    for coarse, fine in ((4, 1), (48, 48), (65, 64), (33, 7)):
        draw, whole = tiles.draw(coarse, fine), tiles.march(fine, coarse + fine)
        assert 2 ** draw["STEPS"] > coarse - 2
        assert 2 ** whole["STEPS"] > fine
        assert draw["BLOCK_S"] >= coarse
        assert draw["BLOCK_F"] >= fine
        assert whole["BLOCK_N"] >= coarse + fine
    assert volume.OPERANDS.keys() == {torch.float32, torch.float16, torch.bfloat16}
