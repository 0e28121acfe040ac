"""``add_planes`` keeps its contract, and ``render_rays`` sees in planes with a border what it sees without."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops import AXES, PackedPlanes, RenderOptions, add_planes, border_planes, render_rays, sample_triplane
from talk3d.ops.registry import operators
from talk3d.reference import planes as reference
from talk3d.testing import head_planes

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc"))

from emulator import Emulator

Add = Callable[[Tensor, Tensor, list[int]], Tensor]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if reason := Emulator.why_not():
        pytest.skip(reason)
    return Emulator(tmp_path_factory.mktemp("emulator"))


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def add(request: pytest.FixtureRequest) -> Add:
    if request.param == "emulated":
        return request.getfixturevalue("emulator").add_planes
    if reason := operators()["add_planes"].why_not("cuda"):
        pytest.skip(reason)
    return lambda planes, delta, pairs: torch.ops.talk3d.add_planes(planes.cuda(), delta.cuda(), pairs, "cuda").cpu()


def make(axes: str, frames: int = 2, sets: int = 1, size: int = 5) -> tuple[Tensor, Tensor]:
    """Planes with a border, and a delta whose planes come before its frames in memory."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(sets, 3, 32, size, size, generator=generator)
    delta = torch.randn(3, frames, size, size, 32, generator=generator).transpose(0, 1)
    return border_planes(planes, axes, impl="reference").texels, delta


@pytest.mark.parametrize("moves", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("axes", "sets"), [("zy", 1), ("yz", 2), ("original", 1)])
def test_is_the_sum(add, axes, sets, dtype, moves):
    planes, delta = make(axes, sets=sets)
    planes, delta = planes.to(dtype), delta.to(moves)
    found = add(planes, delta, list(AXES[axes]))
    exact = reference.add_planes(planes.double(), delta.double(), list(AXES[axes]))
    assert found.dtype == dtype
    assert found.shape == (2, 2 if axes == "original" else 3, 7, 7, 32)
    rounding = torch.finfo(dtype).eps / 2
    assert ((found - exact).abs() <= rounding * exact.abs() + 4 * torch.finfo(torch.float32).eps).all()
    border = torch.ones(7, 7, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (found[:, :, border] == 0).all()
    assert (found[:, :, ~border] != 0).any(dim=(2, 3)).all()


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("impl", [None, "triton"])
def test_rays_see_the_same(axes, impl):
    if impl and os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
        pytest.skip("needs a GPU, or Triton's interpreter")
    planes, decoder = head_planes(1, 12)
    delta = 0.3 * torch.randn(2, 3, 32, 12, 12, generator=torch.Generator().manual_seed(1))
    origins = torch.tensor([0.1, 0.2, 1.3]).expand(2, 9, 3)
    directions = torch.nn.functional.normalize(0.2 * torch.randn(2, 9, 3) - origins, dim=2)
    options = RenderOptions(axes=axes, near=0.7, far=1.9, coarse=6, fine=6)
    bordered = add_planes(border_planes(planes, axes), delta)
    found = render_rays(bordered, decoder, origins, directions, options, impl=impl)
    expected = render_rays(planes + delta, decoder, origins, directions, options, impl="reference")
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_operator():
    planes, delta = make("yz")
    opcheck(torch.ops.talk3d.add_planes.default, (planes, delta, list(AXES["yz"]), "reference"))


def test_says_what_is_wrong():
    planes, decoder = head_planes(1, 4)
    bordered = border_planes(planes, "zy")
    with pytest.raises(ValueError, match="planes must have a border"):
        add_planes(PackedPlanes(planes, "zy", AXES["zy"]), planes)
    with pytest.raises(ValueError, match=r"delta \[1, 3, 32, 5, 5\] must be square and fit"):
        add_planes(bordered, torch.zeros(1, 3, 32, 5, 5))
    with pytest.raises(ValueError, match="border_planes takes float32 or float16"):
        border_planes(planes.bfloat16(), "zy")
    with pytest.raises(ValueError, match="are for render_rays"):
        sample_triplane(bordered, torch.zeros(1, 1, 3), box_warp=1.0)
    with pytest.raises(NotImplementedError, match="it is for inference"):
        add_planes(bordered, planes.requires_grad_()).texels.sum().backward()
    options = RenderOptions(axes="zy", coarse=4, fine=0)
    rays = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, 1.0]]])
    with pytest.raises(ValueError, match="it takes planes without a border"):
        render_rays(bordered, decoder, *rays, options, impl="cpu")
    decoder = tuple(part.requires_grad_() for part in decoder)
    with pytest.raises(NotImplementedError, match="planes with a border are for inference"):
        render_rays(bordered, decoder, *rays, options).features.sum().backward()
