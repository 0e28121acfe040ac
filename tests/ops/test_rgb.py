"""``act_rgb`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops import Activation, bias_act, resample2d
from talk3d.ops.registry import operators
from talk3d.ops.rgb import ToPicture, act_rgb
from talk3d.testing import assert_as_accurate

ACTIVATION = Activation(gain=1.5, clamp=2.0)
SIZES = [  # batch, channels, height, width, doubled
    (1, 1, 1, 1, False),
    (2, 3, 5, 3, False),
    (2, 20, 6, 10, True),
    (1, 130, 2, 18, True),
]


@pytest.fixture(params=["reference", "torch", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if reason := operators()["act_rgb"].why_not(request.param, *make(*SIZES[0])[:2], torch.ones(1, 3, 1, 1)):
        pytest.skip(reason)
    return request.param


def make(
    batch: int, channels: int, height: int, width: int, double: bool, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, ToPicture, Tensor]:
    """Activations, bias, weights, and the first channels of features as the picture, which keeps its type."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    x = numbers(batch, height, width, channels).permute(0, 3, 1, 2)
    filter = numbers(4, 4) if double else None
    to = ToPicture(numbers(3, channels), numbers(3), filter, 3.0)
    shape = (batch, height // 2, width // 2, 5) if double else (batch, height, width, 5)
    image = numbers(*shape).permute(0, 3, 1, 2)[:, :3]
    return x, numbers(channels), to, image.to(torch.promote_types(dtype, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_as_accurate_as_the_reference(impl, sizes, dtype):
    def run(dtype: torch.dtype, impl: str) -> tuple[Tensor, Tensor]:
        x, bias, to, image = make(*sizes, dtype)
        return act_rgb(x, bias, ACTIVATION, to, image, impl=impl)

    found, plain = run(dtype, impl), run(dtype, "reference")
    assert_as_accurate(found, plain, run(torch.float64, "reference"))
    assert [part.stride() for part in found] == [part.stride() for part in plain]
    assert [part.dtype for part in found] == [dtype, torch.float32]


@pytest.mark.parametrize("sizes", SIZES)
def test_is_what_it_says(impl, sizes):
    x, bias, to, image = make(*sizes)
    y = bias_act(x, bias, gain=1.5, clamp=2.0)
    found = torch.einsum("bchw,rc->brhw", y, to.weight)
    found = bias_act(found, to.bias, "linear", clamp=3.0)
    if to.filter is not None:
        image = resample2d(image, to.filter, up=2, padding=(2, 1, 2, 1), gain=4)
    kept, picture = act_rgb(x, bias, ACTIVATION, to, make(*sizes)[3], impl=impl)
    torch.testing.assert_close(kept, y)
    torch.testing.assert_close(picture, found + image, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_that_nobody_wants(impl):
    x, bias, to, image = make(*SIZES[2])
    y, expected = act_rgb(x, bias, ACTIVATION, to, image, impl=impl)
    nothing, found = act_rgb(x, bias, ACTIVATION, to, image, keep=False, impl=impl)
    assert nothing is None
    assert torch.equal(found, expected)
    same, found = act_rgb(y, None, None, to, image, impl=impl)
    assert same is y
    torch.testing.assert_close(found, expected)


def test_no_pictures(impl):
    x, bias, to, image = make(*SIZES[2])
    y, picture = act_rgb(x[:0], bias, ACTIVATION, to, image[:0], impl=impl)
    assert y.shape == (0, 20, 6, 10)
    assert picture.shape == (0, 3, 6, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 2)}, r"x must be \[batch, channels, height, width\] of a floating type, got \[3, 2\]"),
        ({"bias": torch.ones(2)}, r"bias must have the shape \[20\], got \[2\]"),
        ({"activation": None}, "a bias needs an activation"),
        ({"image": torch.ones(2, 3, 6, 10)}, r"image must be \[2, 3, 3, 5\], .* got \[2, 3, 6, 10\]"),
        ({"weight": torch.ones(3, 2)}, r"picture.weight must have the shape \[3, 20\], got \[3, 2\]"),
        ({"bias_": torch.ones(3).double()}, r"picture.bias \(torch.float64, cpu\) must have the type and device of x"),
        ({"clamp": -1.0}, r"picture.clamp must be positive, got -1.0"),
        ({"x": torch.ones(2, 20, 5, 10)}, r"a picture that was doubled has even sides"),
    ],
)
def test_bad_input(change, message):
    x, bias, to, image = make(*SIZES[2])
    given = {"x": x, "bias": bias, "activation": ACTIVATION, "image": image}
    to = to._replace(**{name.strip("_"): value for name, value in change.items() if name not in given})
    given |= {name: value for name, value in change.items() if name in given}
    with pytest.raises(ValueError, match=message):
        act_rgb(**given, picture=to)


def test_opcheck(impl):
    x, bias, to, image = make(*SIZES[2])
    for keep in (True, False):
        arguments = (x, bias, image, to.weight, to.bias, to.filter, 0.2, 1.5, 2.0, None, keep, impl)
        opcheck(torch.ops.talk3d.act_rgb.default, arguments)


def test_the_derivative_is_refused(impl):
    x, bias, to, image = make(*SIZES[2])
    with pytest.raises(NotImplementedError, match="it is for inference"):
        act_rgb(x.requires_grad_(), bias, ACTIVATION, to, image, impl=impl)[1].sum().backward()
