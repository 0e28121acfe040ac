"""``resample2d`` and ``bias_act`` keep their contracts, whichever implementation runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from talk3d.ops import bias_act, resample2d
from talk3d.testing import assert_as_accurate, assert_golden, golden, outputs_and_gradients

RESAMPLINGS = {
    "upsample": {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0},
    "downsample": {"down": 2, "padding": 1},
    "smooth": {"padding": 1},
    "crop": {"padding": (-1, 0, 1, -2)},
    "crop far": {"up": 2, "padding": (-5, 4, 6, -3)},
    "both": {"up": 2, "down": 3, "padding": (2, 1, 0, 3), "gain": 2.5},
    "unequal": {"up": (1, 2), "down": (2, 1), "padding": (-1, 2, 3, -1), "flip": True},
    "skip": {"up": 3, "down": (1, 4), "padding": (5, 0, 1, 7), "flip": True},
}
ACTIVATIONS = {
    "linear": {"act": "linear"},
    "linear, scaled": {"act": "linear", "gain": 0.5, "clamp": 0.4},
    "lrelu": {},
    "lrelu, clamped": {"gain": 2.0, "clamp": 1.5},
    "relu": {"alpha": 0.0, "gain": 1.0},
}


@pytest.fixture(params=["reference", "torch"])
def impl(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=RESAMPLINGS.values(), ids=RESAMPLINGS.keys())
def resampling(request: pytest.FixtureRequest) -> dict[str, object]:
    options: dict[str, object] = request.param
    return options


@pytest.fixture(params=ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def activation(request: pytest.FixtureRequest) -> dict[str, object]:
    options: dict[str, object] = request.param
    return options


def picture(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*(shape or (2, 3, 7, 6)), generator=generator, dtype=torch.float64).to(dtype)
    return x.to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_(grad)


def asymmetric(dtype: torch.dtype = torch.float32) -> Tensor:
    """A filter of 3 x 4 in which nothing is like anything else."""
    return (torch.arange(12, dtype=torch.float64) * 0.7 - 3).sin().view(3, 4).to(dtype)


def as_in(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.detach().to(dtype).requires_grad_(tensor.requires_grad) for tensor in tensors]


def hold_the_rule(run: Callable[..., Tensor], inputs: tuple[Tensor, ...], impl: str) -> None:
    """The accuracy rule, in the inputs' type, against the reference."""
    mine = outputs_and_gradients(lambda *t: run(*t, impl=impl), inputs)
    plain = outputs_and_gradients(lambda *t: run(*t, impl="reference"), inputs)
    exact = outputs_and_gradients(lambda *t: run(*t, impl="reference"), as_in(inputs, torch.float64))
    assert_as_accurate(mine, plain, exact)


class TestResample:
    def test_by_hand(self, impl):
        x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        kernel = torch.tensor([[1.0, 10.0]])  # of a convolution: the newer sample counts 1, the older 10
        assert resample2d(x, kernel, impl=impl).tolist() == [[[[12.0, 23.0]]]]
        assert resample2d(x, kernel, flip=True, impl=impl).tolist() == [[[[21.0, 32.0]]]]
        found = resample2d(x, kernel, padding=(1, 1, 0, 0), down=(2, 1), impl=impl)
        assert found.tolist() == [[[[1.0, 23.0]]]]
        found = resample2d(x, kernel, up=(2, 1), padding=(1, 0, 0, 0), gain=2.0, impl=impl)
        assert found.tolist() == [[[[2.0, 20.0, 4.0, 40.0, 6.0, 60.0]]]]
        assert resample2d(x, kernel, padding=(-1, 0, 0, 0), impl=impl).tolist() == [[[[23.0]]]]

    @pytest.mark.parametrize(
        ("name", "filter", "options"),
        [
            ("upsample2d", "filter2d", RESAMPLINGS["upsample"]),
            ("downsample2d", "filter2d", RESAMPLINGS["downsample"]),
            ("filter2d_out", "filter2d", {"padding": (2, 1, 2, 1)}),
            ("upfirdn_asym", "asym", RESAMPLINGS["both"]),
            ("upfirdn_asym_flip", "asym", RESAMPLINGS["unequal"]),
        ],
    )
    def test_golden(self, impl, name, filter, options):
        data = golden("eg3d/e2_resampling")
        assert_golden(resample2d(data["im"], data[filter], **options, impl=impl), data[name], 0, name)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("last", [False, True])
    def test_accuracy(self, resampling, dtype, last):
        def run(x: Tensor, *, impl: str) -> Tensor:
            return resample2d(x, asymmetric(x.dtype), **resampling, impl=impl)

        hold_the_rule(run, (picture(2, 3, 9, 11, dtype=dtype, last=last),), "torch")

    def test_derivatives(self, impl, resampling):
        def run(x: Tensor) -> Tensor:
            return resample2d(x, asymmetric(x.dtype), **resampling, impl=impl)

        x = picture(1, 1, 5, 5, dtype=torch.float64)
        assert gradcheck(run, (x,))
        assert gradgradcheck(run, (x,), fast_mode=True)

    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 5, 2, 13), (0, 3, 4, 4), (3, 1, 8, 1)])
    def test_odd_sizes(self, impl, shape):
        x = picture(*shape)
        y, d_x = outputs_and_gradients(
            lambda x: resample2d(x, asymmetric(), up=2, padding=(2, 1, 2, 1), impl=impl), (x,)
        )
        assert y.shape == (*shape[:2], 2 * shape[2] + 1, 2 * shape[3])
        assert d_x.shape == x.shape
        assert not y.isnan().any()

    def test_layout_is_kept(self, impl):
        x = picture(2, 4, 6, 5, last=True)
        y = resample2d(x, asymmetric(), up=2, padding=3, impl=impl)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (d_x,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(
            d_x, torch.autograd.grad(resample2d(x.contiguous(), asymmetric(), up=2, padding=3, impl=impl).sum(), x)[0]
        )
        turned = picture(2, 4, 5, 6).transpose(2, 3)
        torch.testing.assert_close(
            resample2d(turned, asymmetric(), padding=1, impl=impl),
            resample2d(turned.contiguous(), asymmetric(), padding=1, impl=impl),
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.ones(3, 4, 4)}, r"x must be \[batch, channels, height, width\] .* got \[3, 4, 4\]"),
            ({"x": torch.ones(1, 3, 0, 4)}, r"x must be .* got \[1, 3, 0, 4\]"),
            ({"x": torch.ones(1, 3, 4, 4).int()}, r"x must be .* of a floating type, got .* torch.int32"),
            ({"filter": torch.ones(4)}, r"filter must be \[height, width\], got \[4\]"),
            ({"filter": torch.ones(0, 4)}, r"filter must be \[height, width\], got \[0, 4\]"),
            (
                {"filter": torch.ones(2, 2).double()},
                r"filter \(torch.float64, cpu\) must have the type and device of x",
            ),
            ({"filter": torch.ones(2, 2, requires_grad=True)}, r"filter \[2, 2\] requires a gradient"),
            ({"up": 0}, r"up must be at least 1: .* got 0"),
            ({"down": (1, 2, 3)}, r"down must be at least 1: .* got \(1, 2, 3\)"),
            ({"padding": (1, 1)}, r"padding must be one number, or left, right, top and bottom, got \(1, 1\)"),
            ({"padding": -2}, r"nothing remains of x \[1, 3, 4, 4\] with up=1, padding=-2 under a filter \[2, 2\]"),
            ({"impl": "metal"}, r"no implementation 'metal'"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            resample2d(**{"x": torch.ones(1, 3, 4, 4), "filter": torch.ones(2, 2)} | change)


class TestBiasAct:
    def test_by_hand(self, impl):
        x, bias = torch.tensor([[-2.0, 1.0], [3.0, -1.0]]), torch.tensor([1.0, 0.0])
        found = bias_act(x, bias, "linear", gain=2.0, clamp=5.0, impl=impl)
        assert found.tolist() == [[-2.0, 2.0], [5.0, -2.0]]
        root = math.sqrt(2)
        torch.testing.assert_close(
            bias_act(x, bias, impl=impl), torch.tensor([[-0.2 * root, root], [4 * root, -0.2 * root]])
        )
        assert bias_act(x, act="linear", impl=impl).tolist() == x.tolist()

    @pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 5, 7)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_accuracy(self, activation, shape, dtype):
        bias = torch.tensor([0.3, -0.2, 0.1], dtype=dtype, requires_grad=True)

        def run(x: Tensor, bias: Tensor, *, impl: str) -> Tensor:
            return bias_act(x, bias, **activation, impl=impl)

        hold_the_rule(run, (picture(*shape, dtype=dtype), bias), "torch")

    @pytest.mark.parametrize("with_bias", [False, True])
    def test_derivatives(self, impl, activation, with_bias):
        x = picture(2, 3, 2, 1, dtype=torch.float64)
        inputs = (x, torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True))[: 1 + with_bias]

        def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
            return bias_act(x, bias, **activation, impl=impl)

        assert gradcheck(run, inputs)
        # the second derivative is 0 to what the activation sees, but not to what reaches it from behind
        assert gradgradcheck(lambda *t: run(*t) ** 2, inputs, fast_mode=True)

    def test_empty(self, impl):
        x = torch.empty(0, 3, 4, 4, requires_grad=True)
        y, d_x = outputs_and_gradients(lambda x: bias_act(x, torch.ones(3), impl=impl), (x,))
        assert y.shape == d_x.shape == x.shape

    def test_layout_is_kept(self, impl):
        x = picture(2, 4, 6, 5, last=True)
        y = bias_act(x, torch.ones(4), impl=impl)
        assert y.stride() == x.stride()
        (d_x,) = torch.autograd.grad(y.sum(), x)
        assert d_x.stride() == x.stride()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.ones(3)}, r"x must be \[batch, channels, \.\.\.\] of a floating type, got \[3\]"),
            ({"x": torch.ones(1, 3).int()}, r"x must be .* torch.int32"),
            ({"bias": torch.ones(4)}, r"bias must have the shape \[3\], got \[4\]"),
            ({"bias": torch.ones(3).half()}, r"bias \(torch.float16, cpu\) must have the type and device of x"),
            ({"act": "swish"}, r"act must be one of linear, lrelu, got 'swish'"),
            ({"act": "linear", "alpha": 0.1}, r"alpha is for act='lrelu'"),
            ({"alpha": -0.1}, r"alpha is .* 0 or more, got -0.1"),
            ({"gain": 0.0}, r"gain must be positive, got 0.0"),
            ({"clamp": float("nan")}, r"clamp must be positive, got nan"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            bias_act(**{"x": torch.ones(1, 3, 4, 4), "bias": torch.ones(3)} | change)


class TestContract:
    @pytest.mark.parametrize(("last", "grad"), [(True, True), (False, False)])
    @pytest.mark.parametrize(
        "arguments",
        [
            ([2, 2], [1, 1], [2, 1, 2, 1], 4.0, False),
            ([1, 1], [2, 2], [1, 1, 1, 1], 1.0, False),
            ([1, 2], [2, 1], [-1, 2, 3, -1], 1.0, True),
        ],
    )
    def test_opcheck_resample(self, impl, arguments, last, grad):
        x = picture(last=last, grad=grad)
        opcheck(torch.ops.talk3d.resample2d.default, (x, asymmetric(), *arguments, impl))

    @pytest.mark.parametrize("last", [False, True])
    @pytest.mark.parametrize("clamp", [None, 0.5])
    def test_opcheck_bias_act(self, impl, last, clamp):
        x, bias = picture(last=last), torch.ones(3, requires_grad=True)
        opcheck(torch.ops.talk3d.bias_act.default, (x, bias, 0.2, 2.0, clamp, impl))
        opcheck(torch.ops.talk3d.bias_act.default, (x.detach().transpose(0, 3), None, 1.0, 1.0, clamp, impl))
        y = x.detach() * 3
        opcheck(torch.ops.talk3d.bias_act_backward.default, (x, y, 0.2, 2.0, clamp, impl))

    def test_autocast_works_in_float32(self, impl):
        x = picture().detach().bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = bias_act(resample2d(x, asymmetric(), padding=1, impl=impl), torch.ones(3), impl=impl)
        assert y.dtype == torch.float32
        y.sum().backward()
        assert x.grad.dtype == torch.bfloat16

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, impl, dynamic):
        def run(x: Tensor, bias: Tensor) -> Tensor:
            y = resample2d(x, asymmetric(), up=2, padding=(2, 1, 2, 1), impl=impl)
            return 2 * bias_act(y, bias, clamp=1.0, impl=impl)

        torch.compiler.reset()
        compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for width in (5, 7):
            inputs = picture(2, 3, 5, width), torch.ones(3, requires_grad=True)
            torch.testing.assert_close(outputs_and_gradients(compiled, inputs), outputs_and_gradients(run, inputs))
