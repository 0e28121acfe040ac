"""``plane_conv_act`` and ``rollout_conv_act`` keep their contracts, whichever implementation runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from talk3d.ops import rollout_conv
from talk3d.ops.grouped import plane_conv_act, rollout_conv_act
from talk3d.ops.registry import operators
from talk3d.ops.rollout import EXCHANGES
from talk3d.testing import assert_as_accurate

SIZES = [  # batch, channels, channels out, size
    (1, 1, 1, 1),
    (2, 3, 5, 2),
    (2, 5, 3, 7),
    (1, 66, 67, 4),  # more than one block of each
]


@pytest.fixture(params=["reference", "torch", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if reason := operators()["plane_conv_act"].why_not(request.param, *conv(*SIZES[0]), 0.1):
        pytest.skip(reason)
    return request.param


def numbers(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def conv(
    batch: int, channels: int, out: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Channels-last pictures of three planes, not square; kernels; bias."""
    x, weight, bias = numbers((3 * batch, size, size + 1, channels), (3, out, channels, 3, 3), (3, out))
    return x.permute(0, 3, 1, 2).to(dtype), weight.to(dtype), bias.to(dtype)


def rollout(
    batch: int, channels: int, out: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Planes, kernels, and what is added."""
    shapes = (batch, 3, channels, size, size), (3, out, 3 * channels, 3, 3), (3, out, size, size)
    planes, weight, offset = numbers(*shapes)
    return planes.to(dtype), weight.to(dtype), offset.to(torch.promote_types(dtype, torch.float32))


def last(weight: Tensor) -> Tensor:
    """Kernels as they lie in memory for frames."""
    return weight.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def test_by_hand(impl):
    weight = torch.zeros(2, 1, 1, 3, 3)
    weight[0, 0, 0, 0, 1] = 2.0  # the row above
    weight[1, 0, 0, 1, 2] = -1.0  # the column to the right
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 1, 2, 2)
    found = plane_conv_act(x, weight, torch.tensor([[1.0], [0.0]]), slope=0.5, impl=impl)
    assert found[:, 0].tolist() == [[[1, 1], [3, 5]], [[-1, 0], [-2, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_convolutions_are_as_accurate_as_the_reference(impl, sizes, dtype):
    exact = plane_conv_act(*conv(*sizes, torch.float64), slope=0.1, impl="reference")
    inputs = conv(*sizes, dtype)
    plain = plane_conv_act(*inputs, slope=0.1, impl="reference")
    found = plane_conv_act(*inputs, slope=0.1, impl=impl)
    assert_as_accurate([found], [plain], [exact])
    assert found.stride() == plain.stride()
    assert torch.equal(plane_conv_act(inputs[0], last(inputs[1]), inputs[2], slope=0.1, impl="triton"),
                       plane_conv_act(*inputs, slope=0.1, impl="triton"))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axes", ["yz", "original"])
@pytest.mark.parametrize("sizes", SIZES)
def test_roll_outs_are_as_accurate_as_the_reference(impl, sizes, axes, dtype):
    if impl == "triton" and sizes == SIZES[-1]:
        sizes = (1, 33, 17, 4)  # the interpreter is slow
    exact = rollout_conv_act(*rollout(*sizes, torch.float64), axes=axes, slope=0.1, impl="reference")
    inputs = rollout(*sizes, dtype)
    plain = rollout_conv_act(*inputs, axes=axes, slope=0.1, impl="reference")
    found = rollout_conv_act(inputs[0], last(inputs[1]), inputs[2], axes=axes, slope=0.1, impl=impl)
    assert_as_accurate([found], [plain], [exact])
    assert found.stride() == plain.stride()


def test_a_skip_is_convolved_once(impl):
    planes, weight, _ = rollout(2, 3, 4, 6, torch.float64 if impl != "triton" else torch.float32)
    skip, bias = torch.randn_like(planes[:1]), torch.randn_like(weight[:, :, 0, 0, 0])
    expected = rollout_conv(planes + skip, weight, bias, axes="zy", impl="reference")
    offset = rollout_conv(skip, weight, bias, axes="zy", impl="reference")[0]
    found = rollout_conv_act(planes, weight, offset, axes="zy", impl=impl)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_bias(impl):
    x, weight, bias = conv(*SIZES[1])
    expected = plane_conv_act(x, weight, 0 * bias, impl=impl)
    torch.testing.assert_close(plane_conv_act(x, weight, None, impl=impl), expected)


def test_nothing(impl):
    x, weight, bias = conv(*SIZES[1])
    assert plane_conv_act(x[:0], weight, bias, impl=impl).shape == (0, 5, 2, 3)
    planes, weight, offset = rollout(*SIZES[1])
    assert rollout_conv_act(planes[:0], weight, offset, axes="zy", impl=impl).shape == (0, 3, 5, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w, b: plane_conv_act(x[0], w, b), r"x must be \[pictures, channels, height, width\] .* \[3, 2, 3\]"),
        (lambda x, w, b: plane_conv_act(x, w[:, :, :2], b), r"weight must be \[planes, out, 3, 3, 3\] and the planes"),
        (lambda x, w, b: plane_conv_act(x[:5], w, b), r"the planes divide 5, got \[3, 5, 3, 3, 3\]"),
        (lambda x, w, b: plane_conv_act(x, w, b[0]), r"bias must have the shape \[3, 5\], got \[5\]"),
        (lambda x, w, b: plane_conv_act(x, w.double(), b), r"weight \(torch.float64, cpu\) must have the type"),
    ],
)
def test_bad_convolutions(call, message):
    with pytest.raises(ValueError, match=message):
        call(*conv(*SIZES[1]))


def test_bad_roll_outs():
    planes, weight, offset = rollout(*SIZES[1])
    with pytest.raises(ValueError, match=r"offset must be \[3, 5, 2, 2\] of torch.float32 on cpu, got \[3, 5, 2\]"):
        rollout_conv_act(planes, weight, offset[..., 0], axes="zy")
    with pytest.raises(ValueError, match="axes must be one of"):
        rollout_conv_act(planes, weight, offset, axes="xy")


def test_opcheck(impl):
    opcheck(torch.ops.talk3d.plane_conv_act.default, (*conv(*SIZES[1]), 0.1, impl))
    exchanges = [number for exchange in EXCHANGES["zy"] for number in exchange]
    opcheck(torch.ops.talk3d.rollout_conv_act.default, (*rollout(*SIZES[1]), exchanges, 0.1, impl))


def test_the_derivative_is_refused(impl):
    x, weight, bias = conv(*SIZES[1])
    with pytest.raises(NotImplementedError, match="it is for inference"):
        plane_conv_act(x.requires_grad_(), weight, bias, impl=impl).sum().backward()
