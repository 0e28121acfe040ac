"""``group_norm_act`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops.norm import group_norm_act
from talk3d.ops.registry import operators
from talk3d.testing import assert_as_accurate

SIZES = [  # planes, batch, channels, height, width, groups
    (1, 1, 1, 1, 1, 1),
    (3, 2, 6, 3, 5, 2),
    (3, 1, 32, 5, 7, 4),
    (2, 1, 12, 23, 24, 4),  # more than one part
]


@pytest.fixture(params=["reference", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if reason := operators()["group_norm_act"].why_not(request.param, *make(*SIZES[1])[:4], 2, 1e-5, 0.1):
        pytest.skip(reason)
    return request.param


def make(
    planes: int, batch: int, channels: int, height: int, width: int, _: int = 0, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Pictures whose mean is large, bias, weight and offset."""
    generator = torch.Generator().manual_seed(0)
    shapes = (planes * batch, height, width, channels), *[(planes, channels)] * 3
    x, *others = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    x = (x + 3).permute(0, 3, 1, 2)
    return x.to(dtype), *(other.to(dtype) for other in others)


def run(inputs: tuple[Tensor, ...], impl: str, groups: int, **options: Any) -> Tensor:
    return group_norm_act(*inputs, groups=groups, slope=0.1, impl=impl, **options)


def test_by_hand(impl):
    x = torch.tensor([[[[1.0]], [[3.0]]], [[[0.0]], [[8.0]]]])  # two planes of one picture: two channels, one texel
    bias = torch.tensor([[0.0, 0.0], [2.0, -2.0]])
    weight, offset = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found = group_norm_act(x, bias, weight, offset, groups=1, eps=0.0, slope=0.5, impl=impl)
    assert found.flatten().tolist() == [-0.5, 3.0, -0.5, 4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_as_accurate_as_the_reference(impl, sizes, dtype):
    # of one number nothing but eps is left of the variance
    exact = run(make(*sizes, dtype=torch.float64), "reference", sizes[-1])
    plain = run(make(*sizes, dtype=dtype), "reference", sizes[-1])
    found = run(make(*sizes, dtype=dtype), impl, sizes[-1])
    assert_as_accurate([found], [plain], [exact])
    assert found.stride() == plain.stride()


def test_without_a_bias(impl):
    x, bias, weight, offset = make(*SIZES[1])
    expected = run((x, torch.zeros_like(bias), weight, offset), impl, 2)
    torch.testing.assert_close(run((x, None, weight, offset), impl, 2), expected)


def test_nothing(impl):
    assert run(make(3, 0, 4, 2, 2), impl, 2).shape == (0, 4, 2, 2)


def test_contiguous_pictures_are_for_the_reference():
    x, *others = make(*SIZES[1])
    expected = run((x, *others), "reference", 2)
    torch.testing.assert_close(run((x.contiguous(), *others), "auto", 2), expected)
    with pytest.raises(ValueError, match="it takes channels-last pictures"):
        run((x.contiguous(), *others), "triton", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 4, 2)}, r"x must be \[pictures, channels, height, width\] .* got \[3, 4, 2\]"),
        ({"x": torch.ones(4, 4, 2, 2)}, r"weight must be \[planes, 4\] and the planes divide 4, got \[3, 4\]"),
        ({"bias": torch.ones(4)}, r"bias must have the shape \[3, 4\], got \[4\]"),
        ({"offset": torch.ones(3, 4).double()}, r"offset \(torch.float64, cpu\) must have the type and device of x"),
        ({"groups": 3}, r"groups must divide the 4 channels, got 3"),
    ],
)
def test_bad_input(change, message):
    ones = {name: torch.ones(3, 4) for name in ("bias", "weight", "offset")}
    with pytest.raises(ValueError, match=message):
        group_norm_act(**{"x": torch.ones(3, 4, 2, 2), **ones, "groups": 2} | change)


def test_opcheck(impl):
    opcheck(torch.ops.talk3d.group_norm_act.default, (*make(*SIZES[1]), 2, 1e-5, 0.1, impl))


def test_the_derivative_is_refused(impl):
    x, *others = make(*SIZES[1])
    with pytest.raises(NotImplementedError, match="it is for inference"):
        run((x.requires_grad_(), *others), impl, 2).sum().backward()
