"""``resample2d``, ``bias_act`` and the two in one keep their contracts, whichever implementation runs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from talk3d.ops import Activation, Resampling, bias_act, resample2d, resample2d_bias_act
from talk3d.ops.registry import operators
from talk3d.testing import assert_golden, assert_rule, golden, outputs_and_gradients

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
IMPLS = ["reference", "torch", "cpu", "cpu, 8 lanes", "cpu, 1 lane", "triton"]


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str
    name, _, lanes = request.param.partition(", ")
    if reason := operators()["bias_act"].why_not(name, torch.ones(1, 1), None, 1.0, 1.0, None):
        pytest.skip(reason)
    if lanes:
        monkeypatch.setenv("TALK3D_LANES", lanes.split()[0])
    return name


rivals = pytest.mark.parametrize("impl", IMPLS[1:], indirect=True)  # of the reference, which is the measure
takes_float64 = pytest.mark.parametrize("impl", ["reference", "torch"])


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


def outer() -> Tensor:
    """A filter of 4 x 3 that is an outer product."""
    return torch.outer(torch.tensor([0.5, -1.0, 3.0, 0.7]), torch.tensor([1.0, 2.0, -0.3]))


def laid_out_for(impl: str, x: Tensor) -> Tensor:
    """What the implementation takes: the compiled one resamples channels-last pictures."""
    layout = torch.channels_last if impl == "cpu" else torch.preserve_format
    return x.detach().clone(memory_format=layout).requires_grad_(x.requires_grad)


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
        x = laid_out_for(impl, data["im"])
        assert_golden(resample2d(x, data[filter], **options, impl=impl), data[name], 0, name)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("filter", [asymmetric(), outer()], ids=["any", "outer"])
    @rivals
    def test_accuracy(self, impl, resampling, dtype, filter):
        def run(x: Tensor, *, impl: str) -> Tensor:
            return resample2d(x, filter.to(x.dtype), **resampling, impl=impl)

        # 100 channels: whole registers of every width, several at once and one by one, and some left
        for channels in (3, 21 if impl == "triton" else 100):
            assert_rule(run, (picture(2, channels, 9, 11, dtype=dtype, last=True),), impl)

    @pytest.mark.parametrize("impl", ["torch", "triton"], indirect=True)
    def test_accuracy_in_half_precision_and_contiguous(self, impl, resampling):
        def run(x: Tensor, *, impl: str) -> Tensor:
            return resample2d(x, asymmetric(x.dtype), **resampling, impl=impl)

        assert_rule(run, (picture(2, 3, 9, 11, dtype=torch.float16),), impl)
        assert_rule(run, (picture(2, 3, 9, 11),), impl)

    def test_pictures_larger_than_a_tile(self, impl):
        x = picture(1, 5 if impl == "triton" else 48, 67, 93, last=True)
        for options in (RESAMPLINGS["upsample"], RESAMPLINGS["downsample"], RESAMPLINGS["both"]):
            found = resample2d(x, outer(), **options, impl=impl)
            torch.testing.assert_close(found, resample2d(x, outer(), **options, impl="reference"))

    def test_what_is_not_a_number_stays_where_it_is(self, impl):
        x = laid_out_for(impl, picture(1, 2, 9, 9, grad=False))
        x[0, 1, 4, 4] = torch.nan
        x[0, 0, 2, 2] = torch.inf
        for filter in (asymmetric(), outer()):
            found = resample2d(x, filter, up=2, padding=(2, 1, 2, 1), impl=impl)
            plain = resample2d(x, filter, up=2, padding=(2, 1, 2, 1), impl="reference")
            # the zeros that the reference puts in make infinity more than the filter sees
            assert torch.equal(found[:, 1].isnan(), plain[:, 1].isnan())
            assert torch.equal(found[:, 0].isfinite(), plain[:, 0].isfinite())

    @takes_float64
    def test_derivatives(self, impl, resampling):
        def run(x: Tensor) -> Tensor:
            return resample2d(x, asymmetric(x.dtype), **resampling, impl=impl)

        x = picture(1, 1, 5, 5, dtype=torch.float64)
        assert gradcheck(run, (x,))
        assert gradgradcheck(run, (x,), fast_mode=True)

    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 5, 2, 13), (0, 3, 4, 4), (3, 1, 8, 1)])
    def test_odd_sizes(self, impl, shape):
        x = laid_out_for(impl, picture(*shape))
        y, d_x = outputs_and_gradients(
            lambda x: resample2d(x, asymmetric(), up=2, padding=(2, 1, 2, 1), impl=impl), (x,)
        )
        assert y.shape == (*shape[:2], 2 * shape[2] + 1, 2 * shape[3])
        assert d_x.shape == x.shape
        assert not y.isnan().any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_any_strides(self, dtype):
        turned = picture(2, 4, 5, 6, dtype=dtype).transpose(2, 3)
        wide = picture(2, 8, 6, 5, dtype=dtype, last=True)[:, :4]
        for x in (turned, wide, turned[:1].expand(3, -1, -1, -1)):
            torch.testing.assert_close(
                resample2d(x, asymmetric(dtype), padding=1), resample2d(x.contiguous(), asymmetric(dtype), padding=1)
            )

    def test_layout_is_kept_whatever_that_of_the_gradient(self, impl):
        x = picture(2, 4, 6, 5, last=True)
        y = resample2d(x, asymmetric(), padding=1, impl=impl)
        assert y.is_contiguous(memory_format=torch.channels_last)
        d_y = picture(*y.shape, grad=False)
        (d_x,) = torch.autograd.grad(y, x, d_y)
        (expected,) = torch.autograd.grad(resample2d(x, asymmetric(), padding=1, impl="reference"), x, d_y)
        torch.testing.assert_close(d_x, expected)
        assert d_x.stride() == x.stride()

    def test_the_compiled_one_says_what_it_does_not_take(self):
        for x, reason in (
            (picture(), "it takes channels-last pictures"),
            (picture(last=True).double(), "it takes float32"),
        ):
            with pytest.raises(ValueError, match=f"talk3d::resample2d, impl='cpu': {reason}"):
                resample2d(x, asymmetric(x.dtype), impl="cpu")

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

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @rivals
    def test_accuracy(self, impl, activation, dtype):
        def run(x: Tensor, bias: Tensor, *, impl: str) -> Tensor:
            return bias_act(x, bias, **activation, impl=impl)

        for shape in ((4, 3), (2, 3, 5), (2, 3, 5, 7), (1, 100, 4, 5)):
            x, bias = picture(*shape, dtype=dtype), torch.linspace(-0.3, 0.4, shape[1]).to(dtype).requires_grad_()
            assert_rule(run, (x, bias), impl)
            last = x.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
            assert_rule(run, (last, bias), impl)

    @rivals
    def test_any_strides(self, impl):
        wide = picture(2, 4, 6, 5)
        for x in (
            wide[:, :3],
            wide[:, ::2],
            wide[..., :1].expand(-1, -1, -1, 4),
            wide.transpose(1, 3),
            wide.movedim(0, 1),
        ):
            bias = torch.linspace(-1, 1, x.shape[1])
            found = bias_act(x, bias, clamp=1.0, impl=impl)
            assert found.stride() == torch.empty_like(x).stride()
            torch.testing.assert_close(found, bias_act(x.contiguous(), bias, clamp=1.0, impl="reference"))

    @rivals
    def test_more_than_one_thread_takes_at_once(self, impl):
        for x in (picture(2, 3, 150, 151), picture(2, 3, 150, 151, last=True)):
            bias = torch.tensor([0.3, -0.2, 0.1])
            torch.testing.assert_close(bias_act(x, bias, impl=impl), bias_act(x, bias, impl="reference"))

    def test_what_is_not_a_number_stays_where_it_is(self, impl):
        x = torch.tensor([[1.0, torch.nan, torch.inf, -torch.inf, 2.0]]).expand(8, -1).clone()
        for dtype in (torch.float32, torch.bfloat16):
            found = bias_act(x.to(dtype), gain=1.0, clamp=3.0, impl=impl)
            expected = torch.tensor([1.0, torch.nan, 3.0, -3.0, 2.0], dtype=dtype).expand(8, -1)
            torch.testing.assert_close(found, expected, equal_nan=True)

    @pytest.mark.parametrize("with_bias", [False, True])
    @takes_float64
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


class TestTogether:
    """The two in one pass are the one after the other."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        "options", [Resampling(padding=1, gain=4.0), Resampling(2, padding=(2, 1, 2, 1), flip=True)]
    )
    @rivals
    def test_accuracy(self, impl, activation, options, dtype):
        bias = torch.linspace(-0.3, 0.4, 37).to(dtype).requires_grad_()

        def run(x: Tensor, bias: Tensor, *, impl: str) -> Tensor:
            return resample2d_bias_act(x, outer().to(x.dtype), bias, options, Activation(**activation), impl=impl)

        assert_rule(run, (picture(1, 37, 6, 5, dtype=dtype, last=True), bias), impl)

    @takes_float64
    def test_derivatives(self, impl):
        x, bias = picture(1, 2, 4, 4, dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)

        def run(x: Tensor, bias: Tensor | None) -> Tensor:
            options = Resampling(up=2, padding=(2, 1, 2, 1), gain=4.0), Activation(clamp=1.5)
            return resample2d_bias_act(x, asymmetric(x.dtype), bias, *options, impl=impl)

        assert gradcheck(run, (x, bias.requires_grad_()))
        assert gradcheck(lambda bias: run(x.detach(), bias), (bias,))
        assert gradcheck(lambda x: run(x, None), (x,))
        assert gradgradcheck(lambda *t: run(*t) ** 2, (x, bias), fast_mode=True)

    def test_bad_input(self):
        x, kernel = torch.ones(1, 3, 4, 4), torch.ones(2, 2)
        for bias, options, message in (
            (torch.ones(4), (Resampling(), Activation()), r"bias must have the shape \[3\], got \[4\]"),
            (None, (Resampling(padding=-2), Activation()), "nothing remains of x"),
            (None, (Resampling(), Activation(gain=-1.0)), "gain must be positive, got -1.0"),
        ):
            with pytest.raises(ValueError, match=message):
                resample2d_bias_act(x, kernel, bias, *options)


class TestContract:
    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize(
        "arguments",
        [
            ([2, 2], [1, 1], [2, 1, 2, 1], 4.0, False),
            ([1, 1], [2, 2], [1, 1, 1, 1], 1.0, False),
            ([1, 2], [2, 1], [-1, 2, 3, -1], 1.0, True),
        ],
    )
    def test_opcheck_resample(self, impl, arguments, grad):
        x = picture(last=impl == "cpu" or grad, grad=grad)
        opcheck(torch.ops.talk3d.resample2d.default, (x, asymmetric(), *arguments, impl))
        bias = torch.ones(3, requires_grad=grad)
        together = (x, asymmetric(), bias, *arguments, 0.2, 2.0, 0.5, impl)
        opcheck(torch.ops.talk3d.resample2d_bias_act.default, together)

    @pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 3, 2)])
    def test_opcheck_where_layouts_are_one(self, impl, shape):
        arguments = ([2, 2], [1, 1], [2, 1, 2, 1], 4.0, False)
        opcheck(torch.ops.talk3d.resample2d.default, (picture(*shape), asymmetric(), *arguments, impl))

    @pytest.mark.parametrize("last", [False, True])
    @pytest.mark.parametrize("clamp", [None, 0.5])
    def test_opcheck_bias_act(self, impl, last, clamp):
        x, bias = picture(last=last), torch.ones(3, requires_grad=True)
        opcheck(torch.ops.talk3d.bias_act.default, (x, bias, 0.2, 2.0, clamp, impl))
        opcheck(torch.ops.talk3d.bias_act.default, (x.detach().transpose(0, 3), None, 1.0, 1.0, clamp, impl))
        y = x.detach() * 3
        opcheck(torch.ops.talk3d.bias_act_backward.default, (x, y, 0.2, 2.0, clamp, impl))

    def test_autocast_works_in_float32(self, impl):
        x = picture(last=impl == "cpu").detach().bfloat16().requires_grad_()
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
            y = 2 * bias_act(y, bias, clamp=1.0, impl=impl)
            return resample2d_bias_act(y, asymmetric(), bias, Resampling(padding=1), Activation(), impl=impl)

        torch.compiler.reset()
        compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for width in (5, 7):
            inputs = picture(2, 3, 5, width, last=impl == "cpu"), torch.ones(3, requires_grad=True)
            torch.testing.assert_close(outputs_and_gradients(compiled, inputs), outputs_and_gradients(run, inputs))
