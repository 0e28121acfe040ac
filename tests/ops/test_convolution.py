"""``conv3x3_bias_act`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.nn.functional import conv2d

from talk3d.ops import Activation, conv3x3_bias_act
from talk3d.ops.convolution import _weight_backward
from talk3d.ops.registry import operators
from talk3d.testing import assert_rule, outputs_and_gradients

OPERATOR = operators()["conv3x3_bias_act"]
ACTIVATIONS = {
    "linear": Activation("linear", gain=0.5),
    "lrelu": Activation(),
    "lrelu, clamped": Activation(gain=2.0, clamp=1.5),
}
LINEAR = Activation("linear")
IMPLS = ["reference", "torch", "cpu", "cpu, 8 lanes", "cpu, 1 lane"]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str
    name, _, lanes = request.param.partition(", ")
    if reason := OPERATOR.why_not(name):
        pytest.skip(reason)
    if lanes:
        monkeypatch.setenv("TALK3D_LANES", lanes.split()[0])
    return name


rivals = pytest.mark.parametrize("impl", IMPLS[1:], indirect=True)  # of the reference, which is the measure
compiled = pytest.mark.parametrize("impl", IMPLS[2:], indirect=True)
takes_float64 = pytest.mark.parametrize("impl", ["reference", "torch"])


def inputs(
    *shape: int, out: int = 32, dtype: torch.dtype = torch.float32, last: bool = True, grad: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """A picture that has the offset and the skew of activations, weights that keep its deviation, and a bias."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = normal(*shape).abs() - 0.5, normal(out, shape[1], 3, 3) / (9 * shape[1]) ** 0.5, normal(out)
    x = x.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return tuple(part.to(dtype).requires_grad_(grad) for part in (x, weight, bias))


def test_by_hand(impl):
    # of 32 channels in, only channel 3 is there; of 32 out, channel 5 sees it shifted, channel 6 sums it up
    x, weight = torch.zeros(1, 32, 32, 32), torch.zeros(32, 32, 3, 3)
    x[0, 3, 0, 0], x[0, 3, 31, 30] = 2.0, -8.0
    weight[5, 3, 2, 1], weight[6, 3] = 1.0, 1.0  # the tap below: the picture moves up
    bias = torch.zeros(32)
    bias[5] = 1.0
    y = conv3x3_bias_act(x, weight, bias, Activation(alpha=0.5, gain=2.0, clamp=7.0), impl=impl)
    expected = torch.zeros(1, 32, 32, 32)
    expected[0, 5] = 2.0
    expected[0, 5, 30, 30] = -7.0
    expected[0, 6, :2, :2] = 4.0
    expected[0, 6, 30:, 29:] = -7.0
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@rivals
def test_accuracy(impl, dtype):
    def run(x: Tensor, weight: Tensor, bias: Tensor, *, impl: str) -> Tensor:
        return conv3x3_bias_act(x, weight, bias, Activation(clamp=1.5), impl=impl)

    assert_rule(run, inputs(2, 96, 25, 22, dtype=dtype), impl)


@compiled
def test_many_channels_are_no_less_accurate_than_the_plain_sum(impl):
    # of channels-last pictures, without the roundings that the accuracy rule grants: sums of sums make up for the
    # transforms
    x, weight, _ = inputs(1, 256, 32, 32, grad=False)
    exact = conv2d(x.double(), weight.double(), padding=1)
    error, plain = (
        (conv3x3_bias_act(x, weight, None, LINEAR, impl=name).double() - exact).norm() for name in (impl, "reference")
    )
    assert error < 1e-6 * exact.norm()
    assert error < 2 * plain


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
@rivals
def test_activations(impl, activation):
    x, weight, bias = inputs(1, 32, 32, 33, grad=False)
    for offset in (bias, None):
        found, expected = (conv3x3_bias_act(x, weight, offset, activation, impl=name) for name in (impl, "reference"))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1024, 32, 1, 1), (205, 32, 1, 5), (103, 32, 5, 2), (16, 32, 9, 8), (1, 32, 7, 150)])
def test_odd_sizes(impl, shape):
    tensors = inputs(*shape)
    found, expected = (
        outputs_and_gradients(lambda *t, name=name: conv3x3_bias_act(*t, LINEAR, impl=name), tensors)
        for name in (impl, "reference")
    )
    assert found[0].stride() == expected[0].stride()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5 * theirs.abs().max().item())


def test_empty():
    x, weight, bias = inputs(0, 32, 4, 5)
    y, d_x, d_weight, d_bias = outputs_and_gradients(lambda *t: conv3x3_bias_act(*t, LINEAR), (x, weight, bias))
    assert y.shape == d_x.shape == (0, 32, 4, 5)
    assert not d_weight.any()
    assert not d_bias.any()


@compiled
def test_any_strides(impl):
    _, weight, bias = inputs(1, 32, 1, 1, grad=False)
    wide, turned = inputs(2, 64, 32, 31, grad=False)[0][:, :32], inputs(1, 32, 31, 34, grad=False)[0].transpose(2, 3)
    for x, kernels in (
        (wide, weight),
        (turned, weight.to(memory_format=torch.channels_last)),
        (turned.contiguous(), weight.transpose(0, 1)),
        (turned.expand(3, -1, -1, -1), weight.transpose(2, 3)),
    ):
        found, expected = (conv3x3_bias_act(x, kernels, bias, LINEAR, impl=name) for name in (impl, "reference"))
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@compiled
def test_what_is_not_finite_reaches_the_pixels_that_see_it(impl, dtype):
    x, weight, bias = inputs(1, 32, 34, 35, dtype=dtype, grad=False)
    x[0, 3, 5, 6], x[0, 4, 20, 34], x[0, 5, 20, 0], x[0, 6, 33, 17] = torch.nan, torch.inf, -torch.inf, torch.nan
    found, expected = (conv3x3_bias_act(x, weight, bias, LINEAR, impl=name) for name in (impl, "reference"))
    assert torch.equal(found.isnan(), expected.isnan())
    assert found.isnan().any(1).sum() == 9 + 6
    assert torch.equal(found.isposinf(), expected.isposinf())
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2  # three bits of eight
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@compiled
def test_what_overflows_on_the_way_does_not_show(impl):
    x, weight, _ = inputs(1, 32, 32, 32, grad=False)
    scale = 2.0**126 / x.abs().max()  # the transforms of pixels would double that more than once
    weight = weight / 64
    found = conv3x3_bias_act(x * scale, weight, None, LINEAR, impl=impl) / scale
    torch.testing.assert_close(found, conv2d(x, weight, padding=1), rtol=1e-5, atol=1e-6)


def test_bits_do_not_depend_on_threads():
    x, weight, bias = inputs(1, 32, 75, 67, grad=False)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((conv3x3_bias_act(x, weight, bias, Activation()), _weight_backward(x, x)))
    finally:
        torch.set_num_threads(threads)
    for first, second, third in zip(*found, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


@takes_float64
def test_derivatives(impl):
    x, weight, bias = inputs(1, 2, 3, 2, out=2, dtype=torch.float64)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv3x3_bias_act(x, weight, bias, Activation(clamp=1.5), impl=impl)

    assert gradcheck(run, (x, weight, bias))
    assert gradcheck(lambda x: run(x, weight.detach(), None), (x,))
    assert gradcheck(lambda bias: run(x.detach(), weight.detach(), bias), (bias,))
    # the second derivative is 0 to what the activation sees, but not to what reaches it from behind
    assert gradgradcheck(lambda *t: run(*t) ** 2, (x, weight, bias), fast_mode=True)


class TestWeightGradient:
    def test_by_hand(self, impl):
        # only channel 3 comes in, and only channel 5 has a gradient: what the taps see for the pixels at (0, 0), (9, 7)
        x, d_sum = torch.zeros(1, 32, 32, 32), torch.zeros(1, 32, 32, 32)
        x[0, 3, 0, 0], x[0, 3, 8, 8], x[0, 3, 20, 20] = 2.0, -8.0, 100.0
        d_sum[0, 5, 0, 0], d_sum[0, 5, 9, 7] = 3.0, 0.5
        expected = torch.zeros(32, 32, 3, 3)
        expected[5, 3, 1, 1], expected[5, 3, 0, 2] = 6.0, -4.0
        torch.testing.assert_close(_weight_backward(d_sum, x, impl=impl), expected, rtol=0, atol=2e-5)

    @pytest.mark.parametrize(("shape", "out"), [((2, 32, 96, 96), 64), ((1, 32, 256, 256), 32)])
    @compiled
    def test_it_is_no_less_accurate_than_torch(self, impl, shape, out):
        """Of thousands of tiles, and without the roundings that the accuracy rule grants."""
        x, d_sum = inputs(*shape, grad=False)[0], torch.randn(shape[0], out, *shape[2:])
        exact = _weight_backward(d_sum.double(), x.double(), impl="torch")
        error, plain = (
            (_weight_backward(d_sum, x, impl=name).double() - exact).norm() / exact.norm() for name in (impl, "torch")
        )
        assert error < 1e-6
        assert error < 2 * plain

    @compiled
    def test_any_strides(self, impl):
        wide, turned = inputs(2, 64, 32, 31, grad=False)[0], inputs(2, 32, 31, 32, grad=False)[0].transpose(2, 3)
        for d_sum, x in ((wide[:, :32], turned), (turned, wide), (wide[:1].expand(2, -1, -1, -1), turned.contiguous())):
            found, expected = (_weight_backward(d_sum, x, impl=name) for name in (impl, "reference"))
            assert found.is_contiguous()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @compiled
    def test_what_is_not_finite_reaches_the_weights_that_meet_it(self, impl, dtype):
        x, d_sum = (inputs(1, 32, 34, 35, dtype=dtype, grad=False)[0] for _ in range(2))
        x[0, 3, 5, 6], x[0, 4, 0, 0], d_sum[0, 5, 9, 17] = torch.nan, torch.inf, -torch.inf
        found, expected = (_weight_backward(d_sum, x, impl=name) for name in (impl, "reference"))
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isposinf(), expected.isposinf())
        assert torch.equal(found.isneginf(), expected.isneginf())
        assert found[0, :3].isfinite().all()
        assert found[0, 4].isfinite().sum() == 5  # the corner is seen by four taps
        tolerance = 1e-4 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=30 * tolerance, equal_nan=True)

    @compiled
    def test_what_overflows_on_the_way_does_not_show(self, impl):
        x, d_sum = (inputs(1, 32, 32, 32, grad=False)[0] for _ in range(2))
        scale = 2.0**126 / x.abs().max()
        d_sum = d_sum / 4096
        found = _weight_backward(d_sum, x * scale, impl=impl) / scale
        expected = _weight_backward(d_sum, x, impl="reference")
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    @takes_float64
    def test_derivatives(self, impl):
        x, d_sum = inputs(2, 2, 3, 4, dtype=torch.float64)[0], inputs(2, 3, 3, 4, dtype=torch.float64)[0]

        def run(d_sum: Tensor, x: Tensor) -> Tensor:
            return _weight_backward(d_sum, x, impl=impl)

        assert gradcheck(run, (d_sum, x))
        assert gradcheck(lambda x: run(d_sum.detach(), x), (x,))
        assert gradgradcheck(run, (d_sum, x), fast_mode=True)

    def test_opcheck(self, impl):
        x, d_sum = inputs(1, 32, 33, 32)[0], inputs(1, 64, 33, 32, last=False)[0]
        opcheck(torch.ops.talk3d.conv3x3_weight_backward.default, (d_sum, x, impl))

    def test_the_compiled_one_says_what_it_does_not_take(self):
        if absent := OPERATOR.why_not("cpu"):
            pytest.skip(absent)
        thin, wide = inputs(1, 16, 32, 32, grad=False)[0], inputs(1, 32, 32, 32, grad=False)[0]
        with pytest.raises(ValueError, match=r"conv3x3_weight_backward, impl='cpu': .* multiples of 32, not 32 to 16"):
            _weight_backward(thin, wide, impl="cpu")


class TestContract:
    def test_opcheck(self, impl):
        tensors, options = inputs(1, 32, 33, 32), (0.2, 2.0, 0.5, impl)
        opcheck(torch.ops.talk3d.conv3x3_bias_act.default, (*tensors, *options))
        x, weight, _ = inputs(1, 32, 33, 32, out=64, last=False, grad=False)
        opcheck(torch.ops.talk3d.conv3x3_bias_act.default, (x, weight, None, 1.0, 1.0, None, impl))

    def test_opcheck_where_layouts_are_one(self, impl):
        tensors = inputs(1024, 32, 1, 1, grad=False)
        opcheck(torch.ops.talk3d.conv3x3_bias_act.default, (*tensors, 0.2, 2.0, 0.5, impl))

    def test_autocast_runs_in_bfloat16(self, impl):
        """As torch's own convolution does; gradients have the type of what they belong to."""
        x, weight, bias = inputs(1, 32, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            y = conv3x3_bias_act(x, weight, bias, LINEAR, impl=impl)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        assert x.grad.dtype == weight.grad.dtype == torch.float32

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("impl", ["reference", "torch", "cpu"], indirect=True)
    def test_compiles_whole(self, impl, dynamic):
        def run(*tensors: Tensor) -> Tensor:
            return conv3x3_bias_act(*tensors, Activation(clamp=1.0), impl=impl) * 2

        torch.compiler.reset()
        whole = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for width in (32, 35):
            tensors = inputs(1, 32, 33, width)
            torch.testing.assert_close(outputs_and_gradients(whole, tensors), outputs_and_gradients(run, tensors))

    @pytest.mark.parametrize(
        ("tensors", "reason"),
        [
            (inputs(1, 33, 32, 32), "it takes channels in multiples of 32, not 33 to 32"),
            (inputs(1, 32, 32, 32, out=16), "it takes channels in multiples of 32, not 32 to 16"),
            (inputs(1, 32, 31, 33), r"it pays from 1024 pixels on, not for \[1, 32, 31, 33\]"),
            (inputs(1, 32, 32, 32, dtype=torch.float64), "it takes float32 and bfloat16, not torch.float64"),
        ],
    )
    def test_the_compiled_one_says_what_it_does_not_take(self, tensors, reason):
        if absent := OPERATOR.why_not("cpu"):
            pytest.skip(absent)
        with pytest.raises(ValueError, match=f"talk3d::conv3x3_bias_act, impl='cpu': {reason}"):
            conv3x3_bias_act(*tensors, LINEAR, impl="cpu")
        conv3x3_bias_act(*tensors, LINEAR)

    def test_matrix_units_are_left_to_torch(self, monkeypatch):
        if absent := OPERATOR.why_not("cpu"):
            pytest.skip(absent)
        monkeypatch.setattr("talk3d.ops.convolution._has_amx", lambda: True)
        for dtype, taken in ((torch.float32, True), (torch.bfloat16, False)):
            reason = OPERATOR.why_not("cpu", *inputs(1, 32, 32, 32, dtype=dtype), 1.0, 1.0, None)
            assert (reason is None) == taken

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.ones(3, 4, 4)}, r"x must be \[batch, channels, height, width\] .* got \[3, 4, 4\]"),
            ({"x": torch.ones(1, 3, 0, 4)}, r"x must be .* got \[1, 3, 0, 4\]"),
            ({"x": torch.ones(1, 3, 4, 4).int()}, r"x must be .* of a floating type, got .* torch.int32"),
            ({"weight": torch.ones(2, 4, 3, 3)}, r"weight must have the shape \[out, 3, 3, 3\], got \[2, 4, 3, 3\]"),
            ({"weight": torch.ones(2, 3, 1, 1)}, r"weight must have the shape .* got \[2, 3, 1, 1\]"),
            ({"weight": torch.ones(0, 3, 3, 3)}, r"weight must have the shape .* got \[0, 3, 3, 3\]"),
            ({"weight": torch.ones(2, 3, 3, 3).half()}, r"weight \(torch.float16, cpu\) must have the type and device"),
            ({"bias": torch.ones(3)}, r"bias must have the shape \[2\], got \[3\]"),
            ({"activation": Activation(gain=-1.0)}, "gain must be positive, got -1.0"),
            ({"impl": "metal"}, "no implementation 'metal'"),
        ],
    )
    def test_bad_input(self, change, message):
        arguments = {
            "x": torch.ones(1, 3, 4, 4),
            "weight": torch.ones(2, 3, 3, 3),
            "bias": torch.ones(2),
            "activation": LINEAR,
        }
        with pytest.raises(ValueError, match=message):
            conv3x3_bias_act(**arguments | change)
