"""The CUDA kernels of ``render_rays`` are right: on a GPU, or emulated on the CPU thread by thread."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from talk3d import native
from talk3d.ops import AXES
from talk3d.ops.registry import operators
from talk3d.ops.volume import _SHARED, _shared_bytes
from talk3d.reference import volume
from talk3d.testing import head_planes

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc"))

from emulator import Emulator

Forward = Callable[..., tuple[Tensor, ...]]
SETTINGS = {  # of talk3d.ops.volume._Settings, in their order
    **{"scale": 2 / 1.1, "hidden": 64, "coarse": 7, "fine": 5, "disparity": 0},
    **{"white_back": 0, "clamp_depth": 1, "min_weight": 0},
}


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if reason := Emulator.why_not():
        pytest.skip(reason)
    return Emulator(tmp_path_factory.mktemp("emulator"))


IMPLS = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


def operator(request: pytest.FixtureRequest, name: str) -> Forward:
    """The operator with CPU tensors, whatever it runs on."""
    if request.param == "emulated":
        return getattr(request.getfixturevalue("emulator"), "backward" if "backward" in name else "forward")
    if reason := operators()[name].why_not("cuda"):
        pytest.skip(reason)

    def to_gpu(value: object) -> object:
        if isinstance(value, list):
            return [to_gpu(one) for one in value]
        return value.cuda() if isinstance(value, Tensor) else value

    def on_gpu(*arguments: object) -> tuple[Tensor, ...]:
        return tuple(found.cpu() for found in getattr(torch.ops.talk3d, name)(*map(to_gpu, arguments), "cuda"))

    return on_gpu


@pytest.fixture(params=IMPLS)
def forward(request: pytest.FixtureRequest) -> Forward:
    return operator(request, "render_rays")


@pytest.fixture(params=IMPLS)
def backward(request: pytest.FixtureRequest) -> Forward:
    return operator(request, "render_rays_backward")


TYPES = [torch.float16, torch.float32]


def make(
    cameras: int = 1, rays: int = 21, *, sets: int = 1, size: int = 12, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor, Tensor]:
    """Texels [S, 3, size, size, 32], the flat decoder, and rays through the box or past it."""
    planes, decoder = head_planes(sets, size)
    generator = torch.Generator().manual_seed(2)
    origins = torch.randn(cameras, rays, 3, generator=generator)
    origins = 1.3 * origins / origins.norm(dim=2, keepdim=True)
    aims = torch.randn(cameras, rays, 3, generator=generator) * 0.3
    directions = torch.nn.functional.normalize(aims - origins, dim=2)
    limits = torch.tensor([0.7, 1.9]).expand(cameras, rays, 2)
    texels = planes.permute(0, 1, 3, 4, 2).contiguous().to(dtype)
    flat = torch.cat([part.flatten() for part in decoder])
    return texels, flat, torch.cat([origins, directions, limits], dim=2)


def noise(rays: Tensor, coarse: int, fine: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    jitter, u = (torch.rand(*rays.shape[:2], count, generator=generator) for count in (coarse, fine))
    return jitter, u if fine else None


def rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("cameras", "rays", "sets", "axes", "change"),
    [
        (1, 64, 1, "zy", {"coarse": 12, "fine": 12}),  # a square picture
        (2, 21, 2, "zy", {"white_back": 1}),
        (1, 1, 1, "zy", {"fine": 0, "coarse": 2}),
        (3, 5, 3, "original", {"coarse": 4, "fine": 1}),
        (1, 70, 1, "yz", {"coarse": 9, "fine": 20}),
        (2, 7, 1, "zy", {"disparity": 1}),
        (1, 16, 1, "original", {"fine": 0, "coarse": 6, "clamp_depth": 0}),
    ],
    ids=str,
)
def test_as_accurate_as_the_planes_allow(forward, cameras, rays, sets, axes, change, dtype):
    """Twice the error of plain PyTorch in the type of the planes, and a few units of its last place, as everywhere."""
    settings = list((SETTINGS | change).values())
    texels, decoder, bundle = make(cameras, rays, sets=sets, dtype=dtype)
    noisy = sets == 1 and cameras == 1
    random = noise(bundle, int(settings[2]), int(settings[3])) if noisy else (None, None)
    arguments = (texels, decoder, bundle, *random, list(AXES[axes]), [float(number) for number in settings])
    exact, plain = (
        volume.forward(*(value.to(dtype) if isinstance(value, Tensor) else value for value in arguments))
        for dtype in (torch.float64, dtype)
    )
    for name, mine, theirs, truth in zip(
        ("features", "depth", "weight", "depths", "transmittance"), forward(*arguments), plain, exact, strict=True
    ):
        if name == "depth":  # a quotient by the weight: its product with it has all its digits
            mine, theirs, truth = mine * exact[2], theirs * exact[2], truth * exact[2]
            mine, theirs, truth = (t.nan_to_num(0, 0, 0) for t in (mine, theirs, truth))  # no weight: infinite
        slack = 4 * torch.finfo(dtype).eps * truth.abs().max()
        assert rms(mine - truth) <= 2 * rms(theirs - truth) + slack, name
        assert torch.isfinite(mine).all(), name
    on_the_safe_side = {torch.float16: 3e-3, torch.float32: 5e-6}[dtype]  # of 2, whatever the rule allows
    assert rms(forward(*arguments)[0] - exact[0]) < on_the_safe_side


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("size", [1, 1e-6], ids=["large", "small"])
@pytest.mark.parametrize(
    ("cameras", "rays", "sets", "axes", "change"),
    [
        (1, 64, 1, "zy", {}),
        (2, 13, 2, "yz", {"white_back": 1, "coarse": 6, "fine": 4}),
        (1, 20, 1, "original", {"coarse": 2, "fine": 0}),
    ],
    ids=str,
)
def test_gradient_of_the_planes(backward, cameras, rays, sets, axes, change, size, dtype):
    """As accurate as plain PyTorch in the type of the planes, if that could represent a gradient of 1e-6."""
    settings = [float(number) for number in (SETTINGS | change).values()]
    texels, decoder, bundle = make(cameras, rays, sets=sets, dtype=dtype)
    pairs, needs = list(AXES[axes]), [True, False, False]
    saved = [texels, decoder, bundle]
    rendered = volume.forward(*saved, None, None, pairs, settings)
    saved += [found.float().contiguous() for found in rendered[3:]]
    grads = [torch.randn(cameras, rays, *shape) for shape in ((32,), (), ())]
    # depth is a quotient by the weight, and has no digits on rays that hardly meet anything: their product has
    grads[1] *= rendered[2].float()

    def reference(dtype: torch.dtype) -> Tensor:
        mine = [[tensor.to(dtype) for tensor in tensors] for tensors in (grads, saved)]
        return volume.backward(*mine, pairs, settings, needs)[0]

    exact, plain = reference(torch.float64), reference(dtype)
    found = backward([grad * size for grad in grads], saved, pairs, settings, needs)[0].double() / size
    slack = 4 * torch.finfo(dtype).eps * exact.abs().max()
    assert rms(found - exact) <= 2 * rms(plain - exact) + slack
    assert rms(found - exact) <= {torch.float16: 0.03, torch.float32: 1e-3}[dtype] * rms(exact)


def example(dtype: torch.dtype, cameras: int = 2, rays: int = 21, **change: float) -> tuple:
    """What a backward is given but for what it should find, and a reference that says what that is."""
    settings = [float(number) for number in (SETTINGS | change).values()]
    saved = list(make(cameras, rays, dtype=dtype))
    pairs = list(AXES["zy"])
    rendered = volume.forward(*saved, None, None, pairs, settings)
    saved += [found.float().contiguous() for found in rendered[3:]]
    grads = [torch.randn(cameras, rays, *shape) for shape in ((32,), (), ())]
    # depth is a quotient by the weight, and has no digits on rays that hardly meet anything: their product has
    grads[1] *= rendered[2].float()

    def reference(dtype: torch.dtype) -> tuple[Tensor, ...]:
        mine = [[tensor.to(dtype) for tensor in tensors] for tensors in (grads, saved)]
        return volume.backward(*mine, pairs, settings, [True] * 3)

    return (grads, saved, pairs, settings), reference


@pytest.mark.parametrize("in_order", [False, True], ids=["atomic", "in order"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("change", [{}, {"white_back": 1, "coarse": 3, "fine": 0}], ids=str)
def test_gradients_of_planes_decoder_and_rays(backward, dtype, change, in_order):
    arguments, reference = example(dtype, **change)
    exact, plain = reference(torch.float64), reference(dtype)
    found = backward(*arguments, [True, True, True, in_order])
    for name, mine, theirs, truth in zip(("planes", "decoder", "rays"), found, plain, exact, strict=True):
        slack = 4 * torch.finfo(dtype).eps * truth.abs().max()
        assert rms(mine - truth) <= 2 * rms(theirs - truth) + slack, name
        parts = [2048, 64, 33 * 64, 33] if name == "decoder" else [len(truth)]  # w0, b0, w1, b1
        for part, of in zip(mine.split(parts), truth.split(parts), strict=True):
            assert rms(part - of) <= {torch.float16: 0.03, torch.float32: 1e-4}[dtype] * rms(of), name
    assert not found[2][..., 6:].any()  # near and far are constants


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_not_needed_is_not_found(backward, dtype):
    arguments, _ = example(dtype, 1, 16, coarse=4, fine=2)
    everything = backward(*arguments, [True, True, True])
    for needs in ([True, False, False], [False, True, False], [False, False, True], [False, True, True]):
        for mine, theirs, need in zip(backward(*arguments, needs), everything, needs, strict=True):
            if need:
                torch.testing.assert_close(mine, theirs, atol=1e-3 * theirs.abs().max().item(), rtol=0)
            else:
                assert mine.numel() == 0


def test_sums_in_order_do_not_depend_on_who_comes_first(emulator, monkeypatch):
    """Two blocks of rays that see the same texels, in one order and in the other."""
    arguments, _ = example(torch.float32, 3, 64, coarse=4, fine=2)
    found = {}
    for backwards in (False, True):
        monkeypatch.setattr(emulator, "backwards", backwards)
        for in_order in (False, True):
            found[backwards, in_order] = emulator.backward(*arguments, [True, True, True, in_order])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[False, True], found[True, True], strict=True))
    assert not torch.equal(found[False, False][0], found[True, False][0])  # or there is nothing to tell apart


@pytest.mark.parametrize("backward", IMPLS[1:], indirect=True)  # an emulator's threads take turns in one order
def test_sums_in_order_are_the_same_every_time(backward):
    arguments, _ = example(torch.float32, 3, 1024, coarse=12, fine=12)
    first, second = (backward(*arguments, [True, True, True, True]) for _ in range(2))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [1e-12, 1e30], ids=str)
def test_fixed_point_adapts_to_the_gradient(backward, size):
    (grads, *rest), _ = example(torch.float32, 1, 16, coarse=4, fine=2)
    expected = backward(grads, *rest, [True, False, False, True])[0]
    found = backward([grad * size for grad in grads], *rest, [True, False, False, True])[0] / size
    assert rms(found - expected) <= 1e-5 * rms(expected)


def test_fixed_point_says_what_is_not_a_number(backward):
    (grads, *rest), _ = example(torch.float32, 1, 16, coarse=4, fine=2)
    for bad in (math.nan, math.inf):
        grads[0][0, 3, 5] = bad
        assert backward(grads, *rest, [True, False, False, True])[0].isnan().all()


def test_rays_without_weight_have_no_gradient(backward):
    texels, decoder, rays = make(rays=9)
    rays[..., 6:] = 1.3
    settings = [float(number) for number in SETTINGS.values()]
    saved = [texels, decoder, rays, torch.full((1, 9, 12), 1.3), torch.ones(1, 9, 11)]
    grads = [torch.randn(1, 9, 32), torch.randn(1, 9), torch.randn(1, 9)]
    assert not backward(grads, saved, list(AXES["zy"]), settings, [True, False, False])[0].any()


def test_depths_ascend_and_quantiles_come_in_any_order(forward):
    texels, decoder, rays = make(rays=30)
    jitter, u = noise(rays, 7, 5)
    settings = [float(number) for number in SETTINGS.values()]
    given = forward(texels, decoder, rays, jitter, u, list(AXES["zy"]), settings)
    ordered = forward(texels, decoder, rays, jitter, u.sort(dim=2).values, list(AXES["zy"]), settings)
    assert (given[3].diff(dim=2) >= 0).all()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(given, ordered, strict=True))


def test_a_ray_depends_on_no_other(forward):
    texels, decoder, rays = make(rays=64)
    settings = [float(number) for number in (SETTINGS | {"min_weight": 1e-3}).values()]
    together = forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)
    alone = forward(texels, decoder, rays[:, 37:38].contiguous(), None, None, list(AXES["zy"]), settings)
    assert all(torch.equal(mine[:, 37:38], theirs) for mine, theirs in zip(together, alone, strict=True))


def test_what_is_not_finite_stays_so_and_harms_nobody(forward):
    texels, decoder, rays = make(rays=20)
    settings = [float(number) for number in SETTINGS.values()]
    clean = forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)
    rays[0, 3, 0], rays[0, 5, 4], rays[0, 7, 1] = math.nan, 1e30, math.inf
    found = forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)
    others = [ray for ray in range(20) if ray not in (3, 5, 7)]
    assert torch.equal(found[0][:, others], clean[0][:, others])
    assert found[0][0, 3].isnan().all()
    assert found[0][0, [5, 7]].isfinite().all()
    texels = torch.full_like(texels, math.nan)
    assert forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)[0].isnan().all()


def test_a_miss_is_exactly_the_background(forward):
    texels, decoder, rays = make(rays=9)
    rays[..., 6:] = 1.3  # all samples in one place
    for white in (0, 1):
        settings = [float(number) for number in (SETTINGS | {"white_back": white}).values()]
        features, depth, weight, *_ = forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)
        assert torch.equal(features, torch.full_like(features, 1.0 if white else -1.0))
        assert torch.equal(weight, torch.zeros_like(weight))
        torch.testing.assert_close(depth, torch.full_like(depth, 1.3))


def test_min_weight_keeps_its_bound(forward):
    texels, decoder, rays = make(rays=48)
    exact = forward(texels, decoder, rays, None, None, list(AXES["zy"]), [float(n) for n in SETTINGS.values()])
    for threshold in (1e-4, 1e-2):
        settings = [float(number) for number in (SETTINGS | {"min_weight": threshold}).values()]
        found = forward(texels, decoder, rays, None, None, list(AXES["zy"]), settings)
        assert (found[0] - exact[0]).abs().max() <= 2 * 12 * threshold
        assert torch.equal(found[2], exact[2])  # weights are those of all samples


@pytest.mark.parametrize("rays", [1, 15, 16, 63, 64, 65, 100, 256, 576, 1000])
def test_every_ray_has_one_place(emulator, rays):
    order = emulator.deal(rays)
    assert torch.equal(order[order >= 0].sort().values, torch.arange(rays))
    if rays == 256:  # 16 x 16 pixels: a block has 8 x 8, a warp 4 x 4
        block = order[:64]
        assert set((block // 16).tolist()) == set((block % 16).tolist()) == set(range(8))
        assert set(order[16:32].tolist()) == {16 * y + x for y in range(4) for x in range(4, 8)}


@pytest.mark.parametrize("axes", AXES)
def test_packing_keeps_what_a_point_sees(emulator, axes):
    texels = make(sets=2)[0].float()
    packed = emulator.pack(texels, list(AXES[axes]))
    assert packed.shape[1] == (2 if axes == "original" else 3)
    assert not packed[:, :, [0, -1]].any()
    assert not packed[:, :, :, [0, -1]].any()
    points = torch.rand(2, 50, 3) * 1.2 - 0.6
    inside = packed[:, :, 1:-1, 1:-1]
    seen = volume.triplane.forward(inside, points, [0, 1, 0, 2, 2, 1][: 2 * packed.shape[1]], 2 / 1.1, True)
    torch.testing.assert_close(seen, volume.triplane.forward(texels, points, list(AXES[axes]), 2 / 1.1, True))


@pytest.mark.parametrize("kind", _SHARED)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("coarse", "fine"), [(48, 48), (7, 5), (96, 64), (5, 0)])
def test_it_is_known_how_much_shared_memory_a_block_takes(emulator, kind, dtype, coarse, fine):
    exact = emulator.shared_bytes(dtype, 3, coarse=coarse, fine=fine, kind=kind)
    assert 0 <= _shared_bytes(kind, coarse, fine, dtype) - exact <= 3 * 64 * 4  # an odd number of floats for each ray
    assert emulator.shared_bytes(dtype, 2, coarse=coarse, fine=fine, kind=kind) <= exact


def test_says_what_it_does_not_take(monkeypatch):
    monkeypatch.setattr(native, "available", lambda name: None)
    texels, decoder, rays = (tensor.to("meta") for tensor in make())
    monkeypatch.setattr("talk3d.ops.registry._device", lambda arguments: "cuda")
    why_not = operators()["render_rays"].why_not

    def reason(texels: Tensor = texels, decoder: Tensor = decoder, **change: float) -> str | None:
        settings = [float(number) for number in (SETTINGS | change).values()]
        return why_not("cuda", texels, decoder, rays, None, None, list(AXES["zy"]), settings)

    assert reason() is None
    assert reason(coarse=96, fine=96) is None
    assert "planes of float32, float16 or bfloat16, and float32 otherwise, not torch.float64" in reason(texels.double())
    assert reason(texels.float()) is None
    assert "shared memory of 99 KiB is too small for 96 coarse and 150 fine" in reason(
        texels.float(), coarse=96, fine=150
    )
    assert "square planes of at most 4096 x 4096 texels, not 12 x 11" in reason(texels[:, :, :, 1:])
    assert "shared memory of 99 KiB is too small for 200 coarse and 200 fine" in reason(coarse=200, fine=200)
    assert reason(texels.float(), coarse=96, fine=96) is None
    assert "built for a decoder 32 -> 64 -> 1 + 32" in reason(hidden=32)
    settings = [float(number) for number in SETTINGS.values()]
    backward = operators()["render_rays_backward"].why_not
    saved = [texels, decoder, rays, rays, rays]
    assert backward("cuda", [rays], saved, list(AXES["zy"]), settings, [True, False, False]) is None
    reason_of_all = backward("cuda", [rays], saved, list(AXES["zy"]), settings, [True, False, True])
    assert "for 7 coarse and 5 fine samples, with gradients of decoder or rays" in reason_of_all
