"""``render_rays`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops import AXES, PackedPlanes, RenderOptions, pack_planes, render_rays
from talk3d.ops.registry import operators
from talk3d.testing import assert_as_accurate, head_planes, outputs_and_gradients

OPTIONS = RenderOptions(axes="zy", near=0.7, far=1.9, coarse=7, fine=5, box_warp=1.1)


@pytest.fixture(params=["reference", "cpu-16", "cpu-8", "cpu-1"])
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each implementation; the C++ one with vectors of 16 and 8 lanes, and with none."""
    name, _, lanes = request.param.partition("-")
    if lanes:
        monkeypatch.setenv("TALK3D_LANES", lanes)
    if reason := operators()["render_rays"].why_not(name):
        pytest.skip(reason)
    return name


def make(
    cameras: int = 2, rays: int = 13, *, sets: int = 1, size: int = 12, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Planes [sets, 3, 32, size, size + 3], the decoder's four tensors, and rays that cross the box or pass it by."""
    planes, decoder = head_planes(sets, size)
    planes = torch.nn.functional.pad(planes, (0, 3, 0, 0, 0, 0), mode="replicate")
    generator = torch.Generator().manual_seed(2)
    origins = torch.randn(cameras, rays, 3, generator=generator, dtype=torch.float64)
    origins = 1.3 * origins / origins.norm(dim=2, keepdim=True)
    aims = torch.randn(cameras, rays, 3, generator=generator, dtype=torch.float64) * 0.3
    directions = torch.nn.functional.normalize(aims - origins, dim=2)
    return tuple(t.double().to(dtype).requires_grad_() for t in (planes, *decoder, origins, directions))


def run(
    inputs: tuple[Tensor, ...], impl: str | None, options: RenderOptions = OPTIONS, **noise: Tensor
) -> tuple[Tensor, ...]:
    """Features, depth times weight, and weight, then the gradient of every input.

    Depth is a quotient by the weight: on rays that hardly meet anything it has no digits, and their product has all.
    """

    def function(planes, w0, b0, w1, b1, origins, directions):
        noises = {name: tensor.to(origins.dtype) for name, tensor in noise.items()}
        seen = render_rays(planes, (w0, b0, w1, b1), origins, directions, options, impl=impl, **noises)
        return seen.features, seen.depth * seen.weight, seen.weight

    return outputs_and_gradients(function, inputs)


def noise(cameras: int, rays: int, options: RenderOptions) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "jitter": torch.rand(cameras, rays, options.coarse, generator=generator, dtype=torch.float64).float().double(),
        "u": torch.rand(cameras, rays, options.fine, generator=generator, dtype=torch.float64).float().double(),
    }


def test_reference_gradcheck():
    inputs = make(1, 3, size=6, dtype=torch.float64)
    options = replace(OPTIONS, coarse=5, fine=0, white_back=True)

    def function(*tensors):
        return render_rays(tensors[0], tensors[1:5], *tensors[5:], options, impl="reference")[:3]

    # fast: against random directions, since the planes alone have thousands of elements
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("fine", [0, 5])
def test_hand_written_backward_is_autograd_of_the_forward(fine):
    from talk3d.reference import volume

    options = replace(OPTIONS, fine=fine)
    inputs = make(dtype=torch.float64)
    numbers = [2 / 1.1, 64.0, 7.0, float(fine), 0.0, 0.0, 1.0, 0.0]

    def literal(planes, w0, b0, w1, b1, origins, directions):
        limits = torch.tensor([0.7, 1.9], dtype=origins.dtype).expand(*origins.shape[:2], 2)
        decoder = torch.cat([part.flatten() for part in (w0, b0, w1, b1)])
        rays = torch.cat([origins, directions, limits], dim=2)
        texels = planes.permute(0, 1, 3, 4, 2)
        features, depth, weight, *_ = volume.forward(texels, decoder, rays, None, None, list(AXES["zy"]), numbers)
        return features, depth * weight, weight

    for mine, theirs in zip(run(inputs, "reference", options), outputs_and_gradients(literal, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("cameras", "rays", "sets", "change"),
    [
        (2, 13, 1, {}),
        (2, 13, 2, {"white_back": True}),
        (1, 1, 1, {"fine": 0, "coarse": 2}),
        (3, 5, 3, {"axes": "original", "coarse": 4, "fine": 1}),
        (1, 300, 1, {"axes": "yz", "coarse": 17, "fine": 33}),
        (2, 7, 1, {"disparity": True}),
        (2, 7, 1, {"near": "auto", "far": "auto"}),
    ],
    ids=str,
)
def test_as_accurate_as_the_reference(impl, cameras, rays, sets, change):
    options = replace(OPTIONS, **change)
    random = noise(cameras, rays, options)
    exact = run(make(cameras, rays, sets=sets, dtype=torch.float64), "reference", options, **random)
    plain = run(make(cameras, rays, sets=sets), "reference", options, **random)
    mine = run(make(cameras, rays, sets=sets), impl, options, **random)
    assert_as_accurate(mine, plain, exact)


def test_default_noise_is_the_middle(impl):
    inputs = make()
    generous = noise(2, 13, OPTIONS)
    middle = {
        "jitter": torch.full_like(generous["jitter"], 0.5),
        "u": ((torch.arange(5) + 0.5) / 5).expand(2, 13, 5).flip(2),  # the order of the quantiles is of no consequence
    }
    for mine, theirs in zip(run(inputs, impl), run(inputs, impl, **middle), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_opaque_wall_by_hand(impl):
    # a decoder that sees nothing but its biases: density 50 everywhere in front of the eye, colour 1.002 * 0.5 - 0.001
    planes = torch.zeros(1, 3, 32, 4, 4)
    b1 = torch.zeros(33)
    b1[0] = 50.0
    decoder = (torch.zeros(64, 32), torch.zeros(64), torch.zeros(33, 64), b1)
    origins, directions = torch.tensor([[[0.0, 0.0, 2.0]]]), torch.tensor([[[0.0, 0.0, -1.0]]])
    options = RenderOptions(axes="zy", near=1.0, far=3.0, coarse=3, fine=0)
    seen = render_rays(planes, decoder, origins, directions, options, impl=impl)
    # samples at 1.5, 2.5, 3.5: each interval lets e^-49 through, so that all is seen in the first, whose middle is 2
    torch.testing.assert_close(seen.features, torch.zeros(1, 1, 32), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.depth, torch.tensor([[2.0]]))
    torch.testing.assert_close(seen.weight, torch.tensor([[1.0]]))


@pytest.mark.parametrize("white_back", [False, True])
def test_a_miss(impl, white_back):
    planes, *decoder, origins, _ = make(1, 4)
    away = torch.nn.functional.normalize(origins.detach(), dim=2).requires_grad_()
    options = replace(OPTIONS, near="auto", far="auto", white_back=white_back)
    features, depth, weight, *gradients = run((planes, *decoder, origins, away), impl, options)
    assert torch.equal(features, torch.full_like(features, 1.0 if white_back else -1.0))
    assert torch.equal(weight, torch.zeros_like(weight))
    assert torch.isfinite(depth).all()
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_unclamped_depth_of_nothing_is_infinite(impl):
    planes, *decoder, origins, _ = make(1, 4)
    options = replace(OPTIONS, near=5.0, far=6.0, clamp_depth=False)
    away = torch.nn.functional.normalize(origins.detach(), dim=2)
    planes = torch.zeros_like(planes)
    decoder[3] = torch.full_like(decoder[3], -300.0)
    decoder[2] = torch.zeros_like(decoder[2])
    seen = render_rays(planes, decoder, origins, away, options, impl=impl)
    assert torch.equal(seen.depth, torch.full_like(seen.depth, math.inf))
    clamped = render_rays(planes, decoder, origins, away, replace(options, clamp_depth=True), impl=impl)
    torch.testing.assert_close(clamped.depth, torch.full_like(clamped.depth, 6.0 + 0.5 / 6))  # its last sample


def test_min_weight_keeps_its_bound(impl):
    inputs = make(1, 50)
    exact = run(inputs, impl)[0]
    for threshold in (1e-4, 1e-2):
        found = run(inputs, impl, replace(OPTIONS, min_weight=threshold))[0]
        assert (found - exact).abs().max() <= 2 * (OPTIONS.coarse + OPTIONS.fine) * threshold


def test_planes_of_any_layout_and_shared_by_cameras(impl):
    planes, *rest = make(3, 6)
    expected = run((planes, *rest), impl)
    last = planes.detach().permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).requires_grad_()
    for mine, theirs in zip(run((last, *rest), impl), expected, strict=True):
        assert torch.equal(mine, theirs)
    copies = planes.detach().repeat(3, 1, 1, 1, 1).requires_grad_()
    found = run((copies, *rest), impl)
    for mine, theirs in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(found[3].sum(0, keepdim=True), expected[3], rtol=1e-4, atol=1e-4)
    expanded = planes.detach().expand(3, -1, -1, -1, -1)
    assert torch.equal(render_rays(expanded, rest[:4], *rest[4:], OPTIONS, impl=impl).features, expected[0])


@pytest.mark.parametrize("axes", AXES)
def test_packed_planes(impl, axes):
    planes, *decoder, origins, directions = make(2, 6)
    square = planes[..., :12]
    options = replace(OPTIONS, axes=axes)
    plain = render_rays(square, decoder, origins, directions, options, impl=impl)
    packed = render_rays(pack_planes(square, axes), decoder, origins, directions, options, impl=impl)
    for mine, theirs in zip(packed, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_rays(impl):
    found = run(make(2, 0), impl)
    assert [list(t.shape) for t in found[:3]] == [[2, 0, 32], [2, 0], [2, 0]]
    assert all(torch.equal(t, torch.zeros_like(t)) for t in found[3:])


def test_what_is_not_finite_stays_so_and_harms_nobody(impl):
    planes, *decoder, origins, directions = (t.detach().clone() for t in make(1, 8))
    clean = render_rays(planes, decoder, origins, directions, OPTIONS, impl=impl)
    origins[0, 3] = math.nan
    directions[0, 5] = 1e30
    found = render_rays(planes, decoder, origins, directions, OPTIONS, impl=impl)
    others = [0, 1, 2, 4, 6, 7]
    assert torch.equal(found.features[:, others], clean.features[:, others])
    assert found.features[0, 3].isnan().all()
    origins[0, 3] = math.inf  # infinitely far out there is nothing
    found = render_rays(planes, decoder, origins, directions, OPTIONS, impl=impl)
    assert torch.equal(found.features[:, others], clean.features[:, others])
    broken, rays = torch.full_like(planes, math.nan), make(1, 8)[5:]
    assert render_rays(broken, decoder, *rays, OPTIONS, impl=impl).features.isnan().all()


@pytest.mark.parametrize("grad", [False, True])
def test_contract(impl, grad):
    planes, *decoder, origins, directions = make(2, 5)
    limits = torch.tensor([0.7, 1.9]).expand(2, 5, 2)
    texels = planes.detach().permute(0, 1, 3, 4, 2).contiguous()
    flat = torch.cat([part.detach().flatten() for part in decoder])
    rays = torch.cat([origins.detach(), directions.detach(), limits], dim=2)
    tensors = [t.requires_grad_(grad) for t in (texels, flat, rays)]
    settings = [2 / 1.1, 64.0, 7.0, 5.0, 0.0, 0.0, 1.0, 0.0]
    random = [t.float() for t in noise(2, 5, OPTIONS).values()]
    found = opcheck(torch.ops.talk3d.render_rays.default, (*tensors, *random, list(AXES["zy"]), settings, impl))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(impl, dynamic):
    def loss(planes, w0, b0, w1, b1, origins, directions):
        return render_rays(planes, (w0, b0, w1, b1), origins, directions, OPTIONS, impl=impl)

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rays in (5, 8):
        inputs = make(2, rays)
        eager, found = outputs_and_gradients(loss, inputs), outputs_and_gradients(compiled, inputs)
        for mine, theirs in zip(found, eager, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.compile
def test_published_coupling_compiles_whole():
    planes, *decoder, origins, directions = (t.detach() for t in make(1, 6))
    directions = torch.cat([directions[:, :3], -directions[:, 3:]], dim=1)  # half of them look away
    options = replace(OPTIONS, near="auto", far="auto", coupled="published")

    def seen(origins, directions):
        return render_rays(planes, decoder, origins, directions, options)

    compiled = torch.compile(seen, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(compiled(origins, directions), seen(origins, directions), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert seen(origins, -directions[:, :3].repeat(1, 2, 1)).depth.isfinite().all()  # nobody hits


@pytest.mark.compile
def test_compiles_with_inductor():
    planes, *decoder, origins, directions = (t.detach() for t in make(1, 5))
    packed = pack_planes(planes, "zy")

    def picture(origins, directions):
        return render_rays(packed, decoder, origins, directions, OPTIONS).features * 0.5 + 0.5

    compiled = torch.compile(picture, fullgraph=True)
    torch.testing.assert_close(compiled(origins, directions), picture(origins, directions))


def test_autocast_leaves_the_march_in_float32(impl):
    inputs = make(1, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(inputs, impl)
    for mine, theirs in zip(found, run(inputs, impl), strict=True):
        assert torch.equal(mine, theirs)


def test_autocast_brings_types_together(impl):
    planes, *decoder, origins, directions = (tensor.detach() for tensor in make(1, 5))
    halves = tuple(part.bfloat16() for part in decoder)
    wide = render_rays(planes, tuple(part.float() for part in halves), origins, directions, OPTIONS, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        found = render_rays(planes, halves, origins, directions, OPTIONS, impl=impl)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, wide, strict=True))


def test_second_derivative_is_refused(impl):
    planes, *decoder, origins, directions = make(1, 3)
    features = render_rays(planes, decoder, origins, directions, OPTIONS, impl=impl).features
    (gradient,) = torch.autograd.grad(features.sum(), planes, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        gradient.sum().backward()


def test_only_the_gradients_that_are_asked_for(impl):
    whole = dict(zip(("planes", "w0", "b0", "w1", "b1", "origins", "directions"), run(make(), impl)[3:], strict=True))
    for names in (("planes",), ("w0", "b0", "w1", "b1"), ("origins", "directions")):
        inputs = tuple(t.detach().requires_grad_(name in names) for name, t in zip(whole, make(), strict=True))
        for name, gradient in zip(names, run(inputs, impl)[3:], strict=True):
            torch.testing.assert_close(gradient, whole[name])


def test_cpu_gradients_do_not_depend_on_the_number_of_threads(monkeypatch):
    if reason := operators()["render_rays"].why_not("cpu"):
        pytest.skip(reason)
    inputs, threads = make(2, 700), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(inputs, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(other, found[0], strict=True))


def test_other_sizes_go_to_the_reference_and_say_so():
    planes, decoder = (
        torch.randn(1, 3, 8, 4, 4),
        (torch.randn(16, 8), torch.zeros(16), torch.randn(4, 16), torch.zeros(4)),
    )
    origins, directions = (t.detach() for t in make(1, 5)[5:])
    seen = render_rays(planes, decoder, origins, directions, OPTIONS)
    assert seen.features.shape == (1, 5, 3)
    if operators()["render_rays"].why_not("cpu") is None:
        with pytest.raises(ValueError, match=r"built for a decoder 32 -> 64 -> 1 \+ 32, not \(8, 16, 3\)"):
            render_rays(planes, decoder, origins, directions, OPTIONS, impl="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins": torch.zeros(1, 5)}, r"origins must have the shape \[batch, rays, 3\], got \[1, 5\]"),
        ({"directions": torch.zeros(1, 4, 3)}, r"directions \[1, 4, 3\] must have the shape of origins \[1, 5, 3\]"),
        ({"planes": torch.zeros(3, 32, 4, 4)}, r"planes must have the shape \[batch, 3, .*got \[3, 32, 4, 4\]"),
        ({"planes": torch.zeros(1, 2, 32, 4, 4)}, r"planes must have the shape \[batch, 3, .*got \[1, 2, 32, 4, 4\]"),
        ({"planes": torch.zeros(2, 3, 32, 4, 4)}, "planes have a batch of 2, the points or rays one of 1"),
        ({"planes": torch.zeros(1, 3, 32, 4, 4, dtype=torch.float64)}, "must have one type and one device"),
        ({"planes": torch.zeros(1, 3, 16, 4, 4)}, r"w0 \[K, 16\].*got \[\[64, 32\]"),
        ({"b1": torch.zeros(32)}, r"decoder must be w0 .* got \[\[64, 32\], \[64\], \[33, 64\], \[32\]\]"),
        ({"w0": torch.zeros(64, 32, dtype=torch.float16)}, r"w0 \(torch.float16, cpu\) must have the type"),
        ({"jitter": torch.zeros(1, 5, 3)}, r"jitter must have the shape \[1, 5, 7\].*got \[1, 5, 3\]"),
        ({"u": torch.zeros(1, 5, 5, dtype=torch.float64)}, r"u must have .* got \[1, 5, 5\], torch.float64"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_bad_input(change, message):
    names = ("planes", "w0", "b0", "w1", "b1", "origins", "directions")
    given = dict(zip(names, (t.detach() for t in make(1, 5)), strict=True)) | change
    random = {name: given[name] for name in ("jitter", "u") if name in given}
    decoder = tuple(given[name] for name in names[1:5])
    with pytest.raises(ValueError, match=message):
        render_rays(given["planes"], decoder, given["origins"], given["directions"], OPTIONS, **random)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": "xyz"}, "axes must be one of original, zy, yz"),
        ({"near": 2.0}, "near must be less than far"),
        ({"far": math.nan}, "near must be less than far"),
        ({"near": "auto"}, "both 'auto' or both numbers"),
        ({"near": -1.0, "disparity": True}, "near must be positive with disparity"),
        ({"coarse": 3}, "coarse must be at least 2"),
        ({"fine": -1}, "fine at least 0"),
        ({"box_warp": 0.0}, "box_warp must be positive"),
        ({"min_weight": -1e-3}, "min_weight not negative"),
        ({"coupled": "yes"}, "coupled must be"),
    ],
    ids=str,
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **change)


def test_packed_planes_know_their_axes():
    planes, *decoder, origins, directions = make(1, 5)
    with pytest.raises(ValueError, match="axes is 'zy', but the planes were packed as 'yz'"):
        render_rays(pack_planes(planes, "yz"), decoder, origins, directions, OPTIONS)
    assert isinstance(pack_planes(planes, "yz"), PackedPlanes)
