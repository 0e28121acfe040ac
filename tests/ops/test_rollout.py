"""``rollout_conv`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from talk3d.composed import rollout as composed
from talk3d.ops import AXES
from talk3d.ops.registry import operators
from talk3d.ops.rollout import EXCHANGES, rollout_conv
from talk3d.reference import rollout as reference
from talk3d.testing import assert_as_accurate, assert_golden, golden, outputs_and_gradients


@pytest.fixture(params=["reference", "torch", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    if reason := operators()["rollout_conv"].why_not(request.param, *make(), []):
        pytest.skip(reason)
    return request.param


def make(
    batch: int = 2, channels: int = 3, out: int = 4, size: int = 6, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Planes, weight and bias that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 3, channels, size, size), (3, out, 3 * channels, 3, 3), (3, out)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    )


def run(inputs: tuple[Tensor, ...], impl: str, axes: str = "zy") -> tuple[Tensor, ...]:
    """The result, and the gradients to planes, weight and bias."""
    return outputs_and_gradients(lambda *tensors: rollout_conv(*tensors, axes=axes, impl=impl), inputs)


def rolled_out(planes: Tensor, axes: str, impl: str) -> Tensor:
    """What each plane is convolved with ``[B, 3, 3C, R, R]``, shown by kernels that select one channel each."""
    channels = 3 * planes.shape[2]
    weight = torch.zeros(3, channels, channels, 3, 3)
    weight[:, range(channels), range(channels), 1, 1] = 1
    return rollout_conv(planes, weight, axes=axes, impl=impl)


def arguments(grad: bool) -> tuple[Any, ...]:
    """What the operator itself is called with: planes, weight, bias, exchanges."""
    tensors = (tensor.detach().requires_grad_(grad) for tensor in make())
    return *tensors, [number for exchange in EXCHANGES["zy"] for number in exchange]


# of planes [[1, 2], [3, 4]], ten times and a hundred times that: the means over the height are "1.5 w" = [2, 3], those
# over the width "1.5 h" = [1.5, 3.5]; what is laid along the height is constant in each row
ALONG_W = [[2.0, 3.0], [2.0, 3.0]]
ALONG_H = [[1.5, 1.5], [3.5, 3.5]]
TURNED_W = [[2.0, 2.0], [3.0, 3.0]]  # a profile along the width, laid along the height
TURNED_H = [[1.5, 3.5], [1.5, 3.5]]


@pytest.mark.parametrize(
    ("axes", "expected"),  # for planes 0, 1, 2: what they receive from the others, in their order
    [
        ("zy", (ALONG_W, ALONG_H, ALONG_W, TURNED_W, ALONG_H, TURNED_H)),
        ("yz", (TURNED_W, TURNED_H, TURNED_H, TURNED_W, TURNED_W, TURNED_H)),
        ("original", (ALONG_W, TURNED_H, ALONG_W, TURNED_W, TURNED_W, TURNED_H)),
        ("published", (TURNED_W, TURNED_H, TURNED_H, TURNED_W, TURNED_W, TURNED_H)),
    ],
)
def test_by_hand(impl, axes, expected):
    plane = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    planes = torch.stack([plane, 10 * plane, 100 * plane])[None, :, None]  # [1, 3, 1, 2, 2]
    found = rolled_out(planes, axes, impl)[0]
    groups = iter(expected)
    for receiver in range(3):
        for sender in range(3):
            group = plane if sender == receiver else torch.tensor(next(groups))
            torch.testing.assert_close(found[receiver, sender], group * 10.0**sender)


@pytest.mark.parametrize("axes", ["zy", "yz"])
def test_what_is_exchanged_is_the_axis_that_two_planes_share(axes):
    columns, rows = AXES[axes][::2], AXES[axes][1::2]
    pairs = [(to, of) for to in range(3) for of in range(3) if to != of]
    for (to, of), (kept, laid) in zip(pairs, EXCHANGES[axes], strict=True):
        assert (rows[of], columns[of])[kept] == (rows[to], columns[to])[laid]


def test_golden_roll_out(impl):
    data = golden("talk3d/small_modules")
    found = rolled_out(data["rollout_in"].unflatten(1, (3, -1)), "published", impl)
    for plane, name in enumerate(("xy", "yz", "zx")):
        assert_golden(found[:, plane], data[f"rollout_{name}"], 1e-7, name)


@pytest.mark.parametrize("axes", EXCHANGES)
def test_gradcheck(axes):
    inputs = make(1, 1, 1, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: rollout_conv(*tensors, axes=axes, impl="reference"), inputs)


@pytest.mark.parametrize("impl", ["torch", "triton"], indirect=True)
@pytest.mark.parametrize("axes", EXCHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 2, 2), (3, 2, 5, 3), (1, 33, 9, 13), (2, 16, 32, 16)])
def test_as_accurate_as_the_reference(impl, axes, dtype, sizes):
    if impl == "triton" and sizes[-1] == 16:
        sizes = (1, 70, 35, 5)  # the interpreter is slow; channels in more than one block
    exact = run(make(*sizes, dtype=torch.float64), "reference", axes)
    plain = run(make(*sizes, dtype=dtype), "reference", axes)
    assert_as_accurate(run(make(*sizes, dtype=dtype), impl, axes), plain, exact)


@pytest.mark.parametrize("axes", EXCHANGES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])  # an axis may have no first, middle or last position of its own
def test_the_factorised_form_is_an_identity(axes, size):
    inputs = make(2, 5, 4, size, dtype=torch.float64)
    torch.testing.assert_close(run(inputs, "torch", axes), run(inputs, "reference", axes), rtol=1e-12, atol=1e-12)


def _convolution_flops(x_shape, weight_shape, *_, out_shape=None, **__):
    return 2 * x_shape[0] * x_shape[2] * x_shape[3] * weight_shape.numel()


def _weights_flops(d_sum_shape, x_shape, *_, out_shape=None, **__):
    return 2 * x_shape[0] * x_shape[2] * x_shape[3] * out_shape.numel()


CONVOLUTIONS = {
    torch.ops.talk3d.conv3x3_bias_act: _convolution_flops,
    torch.ops.talk3d.conv3x3_weight_backward: _weights_flops,
}


def test_the_factorised_form_does_less_than_half_of_the_work():
    inputs = [tensor.detach() for tensor in make(batch=1, channels=8, out=8, size=64)]
    exchanges = arguments(grad=False)[3]
    counts = {}
    for form in (composed, reference):
        with FlopCounterMode(display=False, custom_mapping=CONVOLUTIONS) as counter:
            out = form.forward(*inputs, exchanges)
            form.backward(torch.ones_like(out), *inputs[:2], exchanges, [True, True, True])
        counts[form] = counter.get_total_flops()
    assert counts[reference] == 3 * (2 * 9 * 3 * 24 * 8 * 64**2)
    assert counts[composed] < 0.4 * counts[reference]


def test_an_empty_batch(impl):
    out, d_planes, d_weight, d_bias = run(make(0), impl)
    assert out.shape == (0, 3, 4, 6, 6)
    assert d_planes.shape == (0, 3, 3, 6, 6)
    assert not d_weight.any()
    assert not d_bias.any()


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_one_gradient_alone(impl, needed):
    inputs = make()
    every = run(inputs, impl)
    _, alone = run(tuple(t if index == needed else t.detach() for index, t in enumerate(inputs)), impl)
    torch.testing.assert_close(alone, every[1 + needed])


def test_without_a_bias(impl):
    planes, weight, bias = make()
    expected = run((planes, weight, torch.zeros_like(bias)), impl)
    found = outputs_and_gradients(lambda *tensors: rollout_conv(*tensors, axes="zy", impl=impl), (planes, weight))
    torch.testing.assert_close(found, expected[:3])


class TestLayouts:
    def test_any_strides(self, impl):
        # sums of another order round differently in float32; Triton's order is its own, whatever the strides
        planes, weight, bias = make(dtype=torch.float32 if impl == "triton" else torch.float64)
        plain = run((planes, weight, bias), impl)
        reordered = planes.detach().permute(1, 0, 3, 4, 2).contiguous().permute(1, 0, 4, 2, 3).requires_grad_()
        turned = weight.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        torch.testing.assert_close(run((reordered, turned, bias), impl), plain)

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_each_plane_comes_out_channels_last(self, impl, channels_last):
        planes, weight, bias = make()
        if channels_last:
            planes = planes.detach().permute(1, 0, 3, 4, 2).contiguous().permute(1, 0, 4, 2, 3).requires_grad_()
        out = rollout_conv(planes, weight, bias, axes="zy", impl=impl)
        (d_planes,) = torch.autograd.grad(out.square().sum(), planes)
        for result in (out, d_planes):
            assert result.permute(1, 0, 3, 4, 2).is_contiguous()

    def test_the_inputs_stay(self, impl):
        inputs = make()
        copies = [tensor.detach().clone() for tensor in inputs]
        run(inputs, impl)
        assert all(torch.equal(tensor, copied) for tensor, copied in zip(inputs, copies, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": torch.ones(2, 3, 4, 4)}, r"planes must have the shape .* got \[2, 3, 4, 4\]"),
        ({"planes": torch.ones(1, 2, 3, 4, 4)}, r"planes must have the shape .* got \[1, 2, 3, 4, 4\]"),
        ({"planes": torch.ones(1, 3, 3, 4, 5)}, r"planes must have the shape .* got \[1, 3, 3, 4, 5\]"),
        ({"planes": torch.ones(1, 3, 3, 0, 0)}, r"planes must be floating-point and not empty, .* \[1, 3, 3, 0, 0\]"),
        ({"planes": torch.ones(1, 3, 3, 4, 4).int()}, r"planes must be floating-point and not empty, got torch.int32"),
        (
            {"weight": torch.ones(3, 4, 3, 3, 3)},
            r"weight must have the shape \[3, out, 9, 3, 3\], got \[3, 4, 3, 3, 3\]",
        ),
        ({"weight": torch.ones(4, 9, 3, 3)}, r"weight must have the shape \[3, out, 9, 3, 3\], got \[4, 9, 3, 3\]"),
        (
            {"weight": torch.ones(3, 4, 9, 3, 3).double()},
            r"weight \(torch.float64, cpu\) must have the type .* of planes",
        ),
        ({"bias": torch.ones(4)}, r"bias must have the shape \[3, 4\], got \[4\]"),
        ({"bias": torch.ones(3, 4, device="meta")}, r"bias \(torch.float32, meta\) must have the type and device of"),
        ({"axes": "xy"}, r"axes must be one of zy, yz, original, published, got 'xy'"),
        ({"impl": "metal"}, r"no implementation 'metal'"),
    ],
)
def test_bad_input(change, message):
    planes, weight, bias = make()
    with pytest.raises(ValueError, match=message):
        rollout_conv(**{"planes": planes, "weight": weight, "bias": bias, "axes": "zy"} | change)


class TestContract:
    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_opcheck(self, impl, grad, with_bias):
        planes, weight, bias, exchanges = arguments(grad)
        bias = bias if with_bias else None
        opcheck(torch.ops.talk3d.rollout_conv.default, (planes, weight, bias, exchanges, impl))

    @pytest.mark.parametrize("needs", [[True, True, True], [True, False, False], [False, True, False], [False] * 3])
    def test_opcheck_backward(self, impl, needs):
        planes, weight, _, exchanges = arguments(grad=False)
        d_out = torch.randn(2, 3, 4, 6, 6)
        opcheck(torch.ops.talk3d.rollout_conv_backward.default, (d_out, planes, weight, exchanges, needs, impl))

    def test_second_derivative_is_refused(self, impl):
        planes, weight, bias = make()
        out = rollout_conv(planes, weight, bias, axes="zy", impl=impl)
        (slope,) = torch.autograd.grad(out.square().sum(), planes, create_graph=True)
        with pytest.raises(NotImplementedError, match="rollout_conv is differentiable once"):
            slope.sum().backward()

    def test_autocast_runs_in_bfloat16(self, impl):
        planes, weight, bias = make()
        with torch.autocast("cpu", torch.bfloat16):
            out = rollout_conv(planes, weight, bias, axes="zy", impl=impl)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
        assert planes.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32
        lower = [tensor.detach().bfloat16() for tensor in (planes, weight, bias)]
        torch.testing.assert_close(out, rollout_conv(*lower, axes="zy", impl=impl), rtol=0, atol=0)

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, impl, dynamic):
        def convolve(*tensors: Tensor) -> Tensor:
            return 2 * rollout_conv(*tensors, axes="zy", impl=impl)

        torch.compiler.reset()
        compiled = torch.compile(convolve, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for size in (6, 7):
            inputs = make(size=size)
            torch.testing.assert_close(outputs_and_gradients(compiled, inputs), outputs_and_gradients(convolve, inputs))
