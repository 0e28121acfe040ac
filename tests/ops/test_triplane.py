"""``sample_triplane`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d import native
from talk3d.ops import AXES, PackedPlanes, pack_planes, sample_triplane
from talk3d.ops.registry import operators
from talk3d.testing import assert_as_accurate, assert_golden, golden, outputs_and_gradients

CONVENTIONS = [(axes, reduce) for axes in AXES for reduce in ("mean", "none")]

IMPLS = ["reference", "cpu", "cpu, 8 lanes", "cpu, 1 lane", "triton", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, lanes = request.param.partition(", ")
    if reason := operators()["sample_triplane"].why_not(name):
        pytest.skip(reason)
    if lanes:
        monkeypatch.setenv("TALK3D_LANES", lanes.split()[0])
    return name


def device_of(impl: str) -> str:
    on_gpu = impl == "cuda" or (impl == "triton" and torch.cuda.is_available())
    return "cuda" if on_gpu else "cpu"


def make(
    planes_batch: int = 1,
    batch: int = 2,
    points: int = 13,
    channels: int = 3,
    height: int = 5,
    width: int = 7,
    *,
    dtype: torch.dtype = torch.float32,
    grad: bool = True,
) -> tuple[Tensor, Tensor]:
    """Planes and points in, at the rim of, and outside a box of side 1.1."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(planes_batch, 3, channels, height, width, generator=generator, dtype=torch.float64)
    places = torch.rand(batch, points, 3, generator=generator, dtype=torch.float64) * 1.4 - 0.7
    return planes.to(dtype).requires_grad_(grad), places.to(dtype).requires_grad_(grad)


def run(
    planes: Tensor,
    points: Tensor,
    impl: str,
    axes: str = "zy",
    reduce: str = "mean",
    prepare: Callable[[Tensor], Tensor | PackedPlanes] = lambda planes: planes,
) -> tuple[Tensor, ...]:
    """Features, and gradients to what asks for one, computed where the implementation runs."""
    device = device_of(impl)

    def sample(planes: Tensor, points: Tensor) -> Tensor:
        prepared = prepare(planes.to(device))
        return sample_triplane(prepared, points.to(device), box_warp=1.1, axes=axes, reduce=reduce, impl=impl).cpu()

    return outputs_and_gradients(sample, (planes, points))


def arguments(impl: str, grad: bool, **sizes: int) -> tuple[object, ...]:
    """What the operator itself is called with: texels, points, pairs, scale."""
    planes, points = make(grad=grad, **sizes)
    texels = planes.detach().permute(0, 1, 3, 4, 2).contiguous().to(device_of(impl)).requires_grad_(grad)
    return texels, points.detach().to(device_of(impl)).requires_grad_(grad), list(AXES["zy"]), 2 / 1.1


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("original", (10, 110, 201)), ("zy", (10, 110, 211)), ("yz", (10, 111, 201))],
)
def test_by_hand(impl, axes, expected):
    # each texel of a 2 x 2 plane says where it is: 100 * plane + 10 * row + column
    texels = [[[100.0 * plane + 10 * row + column for column in (0, 1)] for row in (0, 1)] for plane in (0, 1, 2)]
    planes = torch.tensor(texels, device=device_of(impl))[None, :, None]  # [1, 3, 1, 2, 2]
    # centres of texels lie at +-0.5: x is in the first column or row, y and z are in the second
    point = torch.tensor([[[-0.5, 0.5, 0.5]]], device=device_of(impl))
    features = sample_triplane(planes, point, box_warp=2.0, axes=axes, reduce="none", impl=impl)
    assert features.flatten().tolist() == list(expected)
    mean = sample_triplane(planes, point, box_warp=2.0, axes=axes, impl=impl)
    torch.testing.assert_close(mean.item(), sum(expected) / 3)


@pytest.mark.parametrize(("x", "share"), [(0.0, 1.0), (-0.5, 1.0), (-1.0, 0.5), (-1.4, 0.1), (1.5, 0.0), (9.0, 0.0)])
def test_the_rim_fades(impl, x, share):
    planes = torch.ones(1, 3, 1, 2, 2, device=device_of(impl))
    point = torch.tensor([[[x, 0.0, 0.0]]], device=device_of(impl))
    features = sample_triplane(planes, point, box_warp=2.0, axes="yz", reduce="none", impl=impl)
    # planes 0 and 2 see x; plane 1 does not
    torch.testing.assert_close(features.flatten().cpu(), torch.tensor([share, 1.0, share]))


class TestGolden:
    @pytest.mark.parametrize(
        ("name", "axes", "box_warp"),
        [
            ("feat_main", "original", 1.0),
            ("feat_talk3d_fixed", "zy", 1.0),
            ("feat_nv_fixed", "yz", 1.0),
            ("feat_main_boxwarp1p6", "original", 1.6),
        ],
    )
    def test_golden_features(self, impl, name, axes, box_warp):
        data = golden("eg3d/b_plane_sampling")
        planes, points = data["planes"].to(device_of(impl)), data["coords"].to(device_of(impl))
        features = sample_triplane(planes, points, box_warp=box_warp, axes=axes, reduce="none", impl=impl)
        assert_golden(features.cpu(), data[name], 2e-6, name)

    @pytest.mark.parametrize("merged", [False, True])
    def test_golden_mean(self, impl, merged):
        data = golden("eg3d/b_plane_sampling")
        planes, points = data["planes"].to(device_of(impl)), data["coords"].to(device_of(impl))
        given = pack_planes(planes, "original") if merged else planes
        mean = sample_triplane(given, points, box_warp=1.0, axes="original", impl=impl)
        assert_golden(mean.cpu(), data["feat_main_mean"], 2e-6)

    def test_golden_gradients(self, impl):
        data = golden("eg3d/b_plane_sampling")
        planes, points = (data[name].to(device_of(impl)).requires_grad_() for name in ("planes", "coords"))
        features = sample_triplane(planes, points, box_warp=1.0, axes="original", reduce="none", impl=impl)
        features.backward(data["cot_main"].to(features))
        assert_golden(planes.grad.cpu(), data["grad_planes"], 2e-6, "planes")
        assert_golden(points.grad.cpu(), data["grad_coords"], 2e-6, "coords")


@pytest.mark.parametrize(("axes", "reduce"), CONVENTIONS)
def test_gradcheck(axes, reduce):
    inputs = make(points=5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *tensors: sample_triplane(*tensors, box_warp=1.1, axes=axes, reduce=reduce, impl="reference"), inputs
    )


@pytest.mark.parametrize(("axes", "reduce"), CONVENTIONS)
@pytest.mark.parametrize(
    "sizes",
    [  # batch of planes, batch of points, points, channels, height, width
        (1, 1, 1, 1, 1, 1),
        (1, 3, 13, 3, 5, 7),
        (2, 2, 40, 33, 9, 6),
        (2, 2, 13, 32, 1, 8),
        (1, 2, 80, 32, 3, 3),  # few texels: "original" merges two planes
    ],
)
def test_as_accurate_as_the_reference(impl, axes, reduce, sizes):
    exact = run(*make(*sizes, dtype=torch.float64), "reference", axes, reduce)
    plain = run(*make(*sizes), "reference", axes, reduce)
    assert_as_accurate(run(*make(*sizes), impl, axes, reduce), plain, exact)


@pytest.mark.parametrize(("batch", "points"), [(0, 3), (2, 0)])
@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_no_points(impl, batch, points, reduce):
    features, d_planes, d_points = run(*make(1, batch, points), impl, reduce=reduce)
    assert features.shape == ((batch, points, 3) if reduce == "mean" else (batch, 3, points, 3))
    assert d_points.shape == (batch, points, 3)
    assert not d_planes.any()


@pytest.mark.parametrize("needed", ["planes", "points"])
def test_one_gradient_alone(impl, needed):
    planes, points = make(2)
    both = run(planes, points, impl)
    if needed == "planes":
        _, alone = run(planes, points.detach(), impl)
        torch.testing.assert_close(alone, both[1])
    else:
        _, alone = run(planes.detach(), points, impl)
        torch.testing.assert_close(alone, both[2])


class TestLayouts:
    def test_any_strides(self, impl):
        planes, points = make(2)
        plain = run(planes, points, impl)
        channels_last = planes.detach().permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).requires_grad_()
        columns = points.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        torch.testing.assert_close(run(channels_last, columns, impl), plain)

    def test_planes_shared_by_many_batches_of_points(self, impl):
        planes, points = make(1, 3)
        features, d_planes, d_points = run(planes, points, impl)
        copies = planes.detach().repeat(3, 1, 1, 1, 1).requires_grad_()
        of_copies, d_copies, d_points_of_copies = run(copies, points, impl)
        torch.testing.assert_close((features, d_points), (of_copies, d_points_of_copies))
        torch.testing.assert_close(d_planes, d_copies.sum(0, keepdim=True))

    def test_an_expanded_batch_is_one_set_of_planes(self, impl):
        planes, points = make(1, 3)
        expanded = run(planes, points, impl, prepare=lambda planes: planes.expand(3, -1, -1, -1, -1))
        torch.testing.assert_close(expanded, run(planes, points, impl))

    def test_shared_planes_are_not_copied(self, impl):
        planes, points = make(1, 8, 2, 32, 32, 32, grad=False)
        packed, points = pack_planes(planes.to(device_of(impl)), "zy"), points.to(device_of(impl))
        sample_triplane(packed, points, box_warp=1.1, impl=impl)
        with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
            sample_triplane(packed, points, box_warp=1.1, impl=impl)
        events = profile.key_averages()
        allocated = max(max(event.self_cpu_memory_usage, event.self_device_memory_usage) for event in events)
        assert 0 < allocated < planes.nbytes / 2


class TestPacked:
    @pytest.mark.parametrize("axes", AXES)
    @pytest.mark.parametrize("size", [(6, 6), (5, 7)])
    def test_packed_is_the_same(self, impl, axes, size):
        planes, points = make(2, 2, 13, 3, *size)
        packed = run(planes, points, impl, axes, prepare=lambda planes: pack_planes(planes, axes))
        torch.testing.assert_close(packed, run(planes, points, impl, axes))

    def test_two_planes_of_the_original_are_exactly_one(self):
        planes, points = make(2, 2, 40, 3, 6, 6, dtype=torch.float64)
        merged = run(planes, points, "reference", "original", prepare=lambda planes: pack_planes(planes, "original"))
        literal = run(planes, points, "reference", "original")  # the reference never merges a tensor
        torch.testing.assert_close(merged, literal, rtol=1e-13, atol=1e-13)

    def test_merges_only_where_it_pays(self):
        packed = pack_planes(make(height=6, width=6)[0], "original")
        assert packed.pairs == (0, 1, 0, 2)
        assert packed.texels.shape == (1, 2, 6, 6, 3)
        assert pack_planes(make()[0], "original").pairs == AXES["original"]  # 5 x 7 has no transpose of its shape

    def test_packed_planes_know_their_convention(self):
        planes, points = make(grad=False)
        packed = pack_planes(planes, "zy")
        sample_triplane(packed, points, box_warp=1.1, axes="zy")
        with pytest.raises(ValueError, match=r"axes is 'yz', but the planes were packed as 'zy'"):
            sample_triplane(packed, points, box_warp=1.1, axes="yz")

    def test_merged_planes_cannot_be_told_apart(self):
        planes, points = make(height=6, width=6)
        with pytest.raises(ValueError, match=r"reduce='none' needs three planes"):
            sample_triplane(pack_planes(planes, "original"), points, box_warp=1.1, reduce="none")


class TestStrangePoints:
    @pytest.mark.parametrize("nowhere", [1e30, -1e30, torch.inf, -torch.inf])
    def test_far_points_see_nothing(self, impl, nowhere):
        planes, points = make(2)
        strange = points.detach().clone()
        strange[1, 3] = nowhere
        features, d_planes, d_points = run(planes, strange.requires_grad_(), impl)
        assert not features[1, 3].any()
        assert not d_points[1, 3].any()
        moved = points.detach().clone()
        moved[1, 3] = 5.0
        expected = run(planes, moved.requires_grad_(), impl)
        torch.testing.assert_close((features, d_planes, d_points), expected)

    def test_one_coordinate_nowhere(self, impl):
        planes, points = make()
        strange = points.detach().clone()
        strange[0, 0, 2] = torch.inf  # plane 0 of "zy" does not see it
        features = run(planes, strange, impl, reduce="none")[0]
        assert features[0, 0, 0].any()
        assert not features[0, 1:, 0].any()

    def test_a_point_that_is_not_a_number_spoils_itself_alone(self, impl):
        planes, points = make(2, grad=False)
        strange = points.clone()
        strange[1, 3] = torch.nan
        features, expected = (run(planes, places, impl)[0] for places in (strange, points))
        assert features[1, 3].isnan().all()
        features[1, 3] = expected[1, 3]
        torch.testing.assert_close(features, expected)

    def test_a_texel_that_is_not_a_number_spoils_what_sees_it(self, impl):
        planes = torch.ones(1, 3, 2, 4, 4)
        planes[0, :, 1, 0, 0] = torch.nan
        near, inside, outside = [-0.35, -0.35, -0.35], [0.35, 0.35, 0.35], [-5.0, -5.0, -5.0]
        features, _, d_points = run(
            planes.requires_grad_(), torch.tensor([[near, inside, outside]], requires_grad=True), impl
        )
        assert features.isnan().tolist() == [[[False, True], [False, False], [False, False]]]
        assert d_points.isnan().any(2).tolist() == [[True, False, False]]


def test_the_processor_is_reproducible():
    """A texel meets its points in one order, whichever threads do the work."""
    if reason := operators()["sample_triplane"].why_not("cpu"):
        pytest.skip(reason)
    inputs = make(1, 2, 5000, 32, 16, 16)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(run(*inputs, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(other, results[0], strict=True))


def test_planes_too_large_for_compiled_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(native, "available", lambda name: None)
    planes = torch.ones(1).expand(1, 3, 1, 4097, 4096)  # no memory: one number
    why_not = operators()["sample_triplane"].why_not
    texels = planes.permute(0, 1, 3, 4, 2)
    assert why_not("cpu", texels, torch.zeros(1, 1, 3)) == "it takes planes of at most 2^24 texels, not 4097 x 4096"
    assert why_not("cpu", texels[:, :, 1:], torch.zeros(1, 1, 3)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": torch.ones(2, 3, 4, 4)}, r"planes must have the shape .* got \[2, 3, 4, 4\]"),
        ({"planes": torch.ones(1, 2, 3, 4, 4)}, r"planes must have the shape .* got \[1, 2, 3, 4, 4\]"),
        ({"planes": torch.ones(1, 3, 3, 0, 4)}, r"planes must be floating-point and not empty, .* \[1, 3, 3, 0, 4\]"),
        ({"planes": torch.ones(1, 3, 3, 4, 4).int()}, r"planes must be floating-point and not empty, got torch.int32"),
        ({"planes": torch.ones(1, 3, 3, 4, 4).double()}, r"planes \(torch.float64, cpu\) and points .* one type"),
        ({"planes": torch.ones(3, 3, 3, 4, 4)}, r"planes have a batch of 3, the points or rays one of 2"),
        ({"planes": torch.ones(1, 3, 3, 4, 4, device="meta")}, r"planes \(torch.float32, meta\) .* one device"),
        ({"points": torch.zeros(5, 3)}, r"points must have the shape .* got \[5, 3\]"),
        ({"points": torch.zeros(2, 3, 5)}, r"points must have the shape .* got \[2, 3, 5\]"),
        ({"axes": "xy"}, r"axes must be one of original, zy, yz, got 'xy'"),
        ({"axes": None}, r"axes is needed with a tensor of planes"),
        ({"reduce": "sum"}, r"reduce must be 'mean' or 'none', got 'sum'"),
        ({"box_warp": 0.0}, r"box_warp must be positive, got 0.0"),
        ({"box_warp": float("nan")}, r"box_warp must be positive, got nan"),
        ({"impl": "metal"}, r"no implementation 'metal'"),
    ],
)
def test_bad_input(change, message):
    planes, points = make()
    with pytest.raises(ValueError, match=message):
        sample_triplane(**{"planes": planes, "points": points, "box_warp": 1.1, "axes": "zy"} | change)


class TestContract:
    @pytest.mark.parametrize("mean", [True, False])
    @pytest.mark.parametrize("grad", [True, False])
    def test_opcheck(self, impl, mean, grad):
        opcheck(torch.ops.talk3d.sample_triplane.default, (*arguments(impl, grad, planes_batch=2), mean, impl))

    @pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
    def test_opcheck_backward(self, impl, needs):
        planes, points, *options = arguments(impl, grad=False)
        d_features = torch.randn(*points.shape[:2], 3, device=points.device)
        opcheck(
            torch.ops.talk3d.sample_triplane_backward.default,
            (d_features, planes, points, *options, True, *needs, impl),
        )

    def test_second_derivative_is_refused(self, impl):
        planes, points = (tensor.to(device_of(impl)) for tensor in make())
        features = sample_triplane(planes, points, box_warp=1.1, axes="zy", impl=impl)
        (slope,) = torch.autograd.grad(features.sum(), points, create_graph=True)
        with pytest.raises(NotImplementedError, match="sample_triplane is differentiable once"):
            slope.sum().backward()

    def test_autocast_samples_in_float32(self, impl):
        device = device_of(impl)
        planes, points = (tensor.detach().to(device) for tensor in make())
        half = planes.bfloat16().requires_grad_()
        with torch.autocast(device, torch.bfloat16):
            features = sample_triplane(half, points, box_warp=1.1, axes="zy", impl=impl)
        assert features.dtype == torch.float32
        features.sum().backward()
        assert half.grad.dtype == torch.bfloat16
        torch.testing.assert_close(
            features, sample_triplane(half.float(), points, box_warp=1.1, axes="zy", impl=impl), rtol=0, atol=0
        )

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, impl, dynamic):
        self.compile_and_compare(impl, [13, 17], dynamic=dynamic, backend="aot_eager")

    @pytest.mark.compile
    def test_compiles_with_inductor(self):
        self.compile_and_compare("auto", [13], backend="inductor")

    @staticmethod
    def compile_and_compare(impl: str, counts: list[int], **options: object) -> None:
        def sample(planes: Tensor, points: Tensor) -> Tensor:
            return 2 * sample_triplane(planes, points, box_warp=1.1, axes="original", impl=impl)

        torch.compiler.reset()
        compiled = torch.compile(sample, fullgraph=True, **options)
        for count in counts:
            planes, points = make(points=count, height=8, width=8)
            inputs = [tensor.detach().to(device_of(impl)).requires_grad_() for tensor in (planes, points)]
            torch.testing.assert_close(outputs_and_gradients(compiled, inputs), outputs_and_gradients(sample, inputs))
