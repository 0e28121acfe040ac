"""``pencil_rays`` keeps its contract, and what is rendered along pencils is what is rendered along rays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops import RenderOptions, pack_planes, render_rays
from talk3d.ops.pencil import FlatDecoder, pencil_rays, render_pencils
from talk3d.ops.registry import operators
from talk3d.ops.volume import _limits
from talk3d.testing import assert_as_accurate, head_planes

FIXED = RenderOptions(axes="zy", coarse=8, fine=8)
AUTO = replace(FIXED, near="auto", far="auto", box_warp=1.2)


@pytest.fixture(params=["reference", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if reason := operators()["pencil_rays"].why_not(request.param, pencils(), 3, None, None, 1.0, 8):
        pytest.skip(reason)
    return request.param


def pencils(dtype: torch.dtype = torch.float32) -> Tensor:
    """Of one camera that sees the box and its surroundings, one within the box, and one that looks along an axis."""
    towards = torch.tensor([[2.4, 0.1, 0], [0, 2.4, 0.3], [-1.2, -1.1, 3], [0.1, -0.2, -2.5]])
    within = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-1, -1, 1], [0.2, 0.1, 0]])
    along = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-1, -1, 1], [0.0, 0.0, -2]])
    return torch.stack([towards, within, along]).to(dtype)


@pytest.mark.parametrize("options", [FIXED, AUTO, replace(AUTO, coupled="published")], ids=str)
@pytest.mark.parametrize("side", [1, 5, 12])
def test_as_accurate_as_the_reference(impl, side, options):
    exact = pencil_rays(pencils(torch.float64), side, options, impl="reference")
    plain = pencil_rays(pencils(), side, options, impl="reference")
    assert_as_accurate([pencil_rays(pencils(), side, options, impl=impl)], [plain], [exact])


@pytest.mark.parametrize("options", [FIXED, AUTO, replace(AUTO, coupled="published")], ids=str)
def test_limits_are_those_of_the_renderer(impl, options):
    rays = pencil_rays(pencils(), 5, options, impl=impl)
    torch.testing.assert_close(rays[..., 6:], _limits(rays[..., :3], rays[..., 3:6], options))
    torch.testing.assert_close(rays[..., 3:6].norm(dim=2), torch.ones(3, 25))
    missing = rays[0, 0, 6] == rays[0, 0, 7]
    assert missing == (options == AUTO)  # the corner is beside the box


def test_by_hand(impl):
    rays = pencil_rays(pencils()[2:], 1, replace(AUTO, box_warp=2.0), impl=impl)
    expected = [0, 0, -2, 0, 0, 1, 1, 1 + 2 * 7 / 8]  # in at -1, out at 1 less one of 8 intervals
    torch.testing.assert_close(rays.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("options", [FIXED, AUTO], ids=str)
def test_pencils_show_what_rays_show(options):
    planes, decoder = head_planes(size=16)
    packed = pack_planes(planes, "zy")
    found = render_pencils(packed, FlatDecoder.of(decoder), pencils(), 4, options)
    rays = pencil_rays(pencils(), 4, options)
    expected = render_rays(packed, decoder, rays[..., :3].contiguous(), rays[..., 3:6].contiguous(), options)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_cameras(impl):
    assert pencil_rays(pencils()[:0], 3, AUTO, impl=impl).shape == (0, 9, 8)


def test_bad_input():
    with pytest.raises(ValueError, match=r"pencils must be \[batch, 4, 3\] of float32 or float64, got \[4, 3\]"):
        pencil_rays(pencils()[0], 3, FIXED)
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        pencil_rays(pencils(), 0, FIXED)


def test_opcheck(impl):
    for limits in ((2.25, 3.3), (None, None)):
        opcheck(torch.ops.talk3d.pencil_rays.default, (pencils(), 5, *limits, 1.0, 8, impl))


def test_the_derivative_is_refused(impl):
    with pytest.raises(NotImplementedError, match="it is for inference"):
        pencil_rays(pencils().requires_grad_(), 3, FIXED, impl=impl).sum().backward()
