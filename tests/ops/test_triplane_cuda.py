"""The CUDA kernels of ``sample_triplane`` are right: on a GPU, or emulated on the CPU thread by thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from talk3d.ops import AXES, pack_planes
from talk3d.ops.registry import operators
from talk3d.reference import triplane as reference
from talk3d.testing import assert_as_accurate, assert_golden, golden

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc"))

from emulator import Emulator, Sampler

SCALE = 2 / 1.1


class Kernels(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]


@pytest.fixture(
    scope="module",
    params=[
        "emulated, 4 channels a thread",
        "emulated, 1 channel a thread",
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Both operators on CPU tensors, whatever they run on."""
    if request.param != "cuda":
        if reason := Emulator.why_not():
            pytest.skip(reason)
        sampler = Sampler(tmp_path_factory.mktemp("emulator"), 4 if "4" in request.param else 1)
        return Kernels(sampler.forward, sampler.backward)
    if reason := operators()["sample_triplane"].why_not("cuda"):
        pytest.skip(reason)

    def moved(arguments: tuple[object, ...]) -> list[object]:
        return [value.cuda() if isinstance(value, Tensor) else value for value in arguments]

    return Kernels(
        lambda *arguments: torch.ops.talk3d.sample_triplane(*moved(arguments), "cuda").cpu(),
        lambda *arguments: tuple(
            found.cpu() for found in torch.ops.talk3d.sample_triplane_backward(*moved(arguments), "cuda")
        ),
    )


def make(
    sets: int = 1, batch: int = 2, points: int = 13, channels: int = 8, height: int = 5, width: int = 7
) -> tuple[Tensor, Tensor]:
    """Texels ``[S, 3, H, W, C]``, and points: at random in and around the box, and on the lines where cells meet."""
    generator = torch.Generator().manual_seed(0)
    texels = torch.randn(sets, 3, height, width, channels, generator=generator)
    places = torch.rand(batch, points, 3, generator=generator) * 1.4 - 0.7
    lines = torch.tensor([-1 - 1 / width, -1, -1 + 1 / width, 0, 1 - 1 / height, 1, 1 + 1 / height]) / SCALE
    places[:, ::2] = lines[torch.randint(len(lines), (batch, (points + 1) // 2, 3), generator=generator)]
    return texels, places


def gradient_of(features: Tensor) -> Tensor:
    return torch.randn(features.shape, generator=torch.Generator().manual_seed(1))


SIZES = [  # sets of planes, batch of points, points, channels, height, width
    (1, 1, 1, 1, 1, 1),  # a single thread for a point, a single texel
    (1, 3, 13, 3, 5, 7),
    (3, 3, 9, 4, 1, 8),
    (1, 2, 21, 20, 6, 5),  # of 8 threads 3 have nothing to do
    (2, 2, 40, 32, 9, 9),
    (1, 1, 5, 33, 4, 4),  # channels that need a second turn of one thread
    (2, 2, 3, 36, 3, 2),
    (1, 1, 3, 260, 2, 3),  # a third turn, of one thread
    (1, 5, 29, 2, 8, 8),  # points of two batches in one warp
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "none"])
def test_as_accurate_as_the_reference(kernels, sizes, mean):
    """Points where cells meet are rounded to one side or the other: what they have as a gradient is not compared."""
    texels, points = make(*sizes)
    inside = points.clone()
    inside[:, ::2] += 0.013  # off the lines, where a gradient is what it is from either side
    for axes in AXES:
        options = list(AXES[axes]), SCALE, mean
        exact, plain = (reference.forward(texels.to(t), points.to(t), *options) for t in (torch.float64, torch.float32))
        assert_as_accurate([kernels.forward(texels, points, *options)], [plain], [exact])
        given = gradient_of(plain)
        exact, plain = (
            reference.backward(given.to(t), texels.to(t), inside.to(t), *options, True, True)
            for t in (torch.float64, torch.float32)
        )
        assert_as_accurate(kernels.backward(given, texels, inside, *options, True, True), plain, exact)


@pytest.mark.parametrize("channels", range(1, 71))
def test_any_number_of_channels(kernels, channels):
    """Each channel is taken by one thread, once: features of a channel do not depend on how many there are."""
    texels, points = make(2, 2, 3, 70, 3, 4)
    options = list(AXES["zy"]), SCALE, True
    whole = reference.forward(texels, points, *options)
    part = texels[..., :channels].contiguous()
    torch.testing.assert_close(kernels.forward(part, points, *options), whole[..., :channels], rtol=1e-5, atol=1e-6)
    given = gradient_of(whole[..., :channels])
    found = kernels.backward(given, part, points, *options, True, False)[0]
    expected = reference.backward(given, part, points, *options, True, False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", AXES)
def test_planes_that_were_merged(kernels, axes):
    texels, points = make(2, 2, 13, 12, 6, 6)
    packed = pack_planes(texels.permute(0, 1, 4, 2, 3), axes)
    assert packed.texels.shape[1] == (2 if axes == "original" else 3)
    found = kernels.forward(packed.texels.contiguous(), points, list(packed.pairs), SCALE, True)
    torch.testing.assert_close(found, reference.forward(texels, points, list(AXES[axes]), SCALE, True))
    given = gradient_of(found)
    arguments = given, packed.texels.contiguous(), points + 0.013, list(packed.pairs), SCALE, True, True, True
    for mine, theirs in zip(kernels.backward(*arguments), reference.backward(*arguments), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "none"])
def test_what_is_not_needed_is_not_found(kernels, mean):
    texels, points = make(2)
    options = list(AXES["yz"]), SCALE, mean
    given = gradient_of(reference.forward(texels, points, *options))
    both = kernels.backward(given, texels, points, *options, True, True)
    for needs in ((True, False), (False, True)):
        for mine, theirs, need in zip(
            kernels.backward(given, texels, points, *options, *needs), both, needs, strict=True
        ):
            assert torch.equal(mine, theirs) if need else mine.numel() == 0


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "none"])
@pytest.mark.parametrize("nowhere", [1e30, -1e30, torch.inf, -torch.inf, 3.0, -3.0], ids=str)
def test_points_outside_see_nothing_and_have_no_gradient(kernels, nowhere, mean):
    texels, points = make(2)
    texels[:, :, [0, -1]] = texels[:, :, :, [0, -1]] = torch.nan  # what is not read may be anything
    points[:] = nowhere
    options = list(AXES["original"]), SCALE, mean
    features = kernels.forward(texels, points, *options)
    assert not features.any()
    d_planes, d_points = kernels.backward(gradient_of(features), texels, points, *options, True, True)
    assert not d_planes.any()
    assert not d_points.any()


def test_what_is_not_a_number_harms_nobody_else(kernels):
    texels, points = make(1, 2, 21, 20)
    points = points + 0.013
    options = list(AXES["zy"]), SCALE, True
    strange = points.clone()
    others = torch.ones(2, 21, dtype=torch.bool)
    for at, axis in product((3, 17), range(3)):  # each coordinate; two points that share a warp with others
        strange[1, at + axis - 1, axis] = torch.nan
        others[1, at + axis - 1] = False
    found, clean = (kernels.forward(texels, places, *options) for places in (strange, points))
    assert torch.equal(found[others], clean[others])
    assert found[~others].isnan().all()
    given = gradient_of(clean)
    found, clean = (kernels.backward(given, texels, places, *options, False, True)[1] for places in (strange, points))
    assert torch.equal(found[others], clean[others])
    assert found[~others].isnan().any(1).all()


def test_a_texel_that_is_not_a_number_is_seen_by_its_neighbours_alone(kernels):
    texels, points = make(1, 1, 300, 8, 5, 7)
    points = points + 0.013
    options = list(AXES["zy"]), SCALE, False
    clean = kernels.forward(texels, points, *options)
    texels[0, 0, 2, 3, 5] = torch.nan  # plane 0 sees (x, y); row 2, column 3, channel 5
    found = kernels.forward(texels, points, *options)
    column, row = ((points[0, :, axis] * SCALE + 1) * size / 2 - 0.5 for axis, size in ((0, 7), (1, 5)))
    near = ((column - 3).abs() < 1) & ((row - 2).abs() < 1)
    assert 0 < near.sum() < 300
    assert torch.equal(found[0, 0, :, 5].isnan(), near)
    spoiled = found.isnan()
    assert spoiled.sum() == near.sum()
    assert torch.equal(found[~spoiled], clean[~spoiled])


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
    def test_features(self, kernels, name, axes, box_warp):
        data = golden("eg3d/b_plane_sampling")
        texels = data["planes"].permute(0, 1, 3, 4, 2).contiguous()
        found = kernels.forward(texels, data["coords"].contiguous(), list(AXES[axes]), 2 / box_warp, False)
        assert_golden(found, data[name], 2e-6, name)

    def test_gradients(self, kernels):
        data = golden("eg3d/b_plane_sampling")
        texels = data["planes"].permute(0, 1, 3, 4, 2).contiguous()
        points, pairs = data["coords"].contiguous(), list(AXES["original"])
        given = data["cot_main"].reshape(reference.forward(texels, points, pairs, 2.0, False).shape).contiguous()
        d_planes, d_points = kernels.backward(given, texels, points, pairs, 2.0, False, True, True)
        assert_golden(d_planes.permute(0, 1, 4, 2, 3), data["grad_planes"], 2e-6, "planes")
        assert_golden(d_points, data["grad_coords"], 2e-6, "coords")
