"""``plane_linear`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.nn.functional import gelu, layer_norm, linear

from talk3d.ops import plane_linear
from talk3d.ops.linear import plane_linear_act
from talk3d.ops.registry import operators
from talk3d.testing import assert_as_accurate, assert_rule, outputs_and_gradients


@pytest.fixture(params=["reference", "torch"])
def impl(request: pytest.FixtureRequest) -> str:
    return request.param


def make(
    rows: int = 5, width: int = 7, out: int = 4, *, dtype: torch.dtype = torch.float32, grad: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of three planes, weights that keep their deviation, and a bias."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3, rows, width), (3, out, width), (3, out))
    )
    return tuple(part.to(dtype).requires_grad_(grad) for part in (x, weight / width**0.5, bias))


def test_each_plane_is_a_linear_layer(impl):
    layers = make(grad=False)
    expected = torch.stack([linear(*layer) for layer in zip(*layers, strict=True)])
    torch.testing.assert_close(plane_linear(*layers, impl=impl), expected)
    torch.testing.assert_close(plane_linear(*layers[:2], impl=impl), expected - layers[2][:, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (37, 64, 65), (256, 96, 32), (650, 128, 130)])
def test_accuracy(dtype, sizes):
    assert_rule(plane_linear, make(*sizes, dtype=dtype), "torch")


def test_derivatives(impl):
    layers = make(3, 2, 2, dtype=torch.float64)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return plane_linear(x, weight, bias, impl=impl)

    assert gradcheck(run, layers)
    assert gradgradcheck(lambda *t: run(*t) ** 2, layers)
    for index in range(3):
        one = [layer.detach().requires_grad_(index == k) for k, layer in enumerate(layers)]
        assert gradcheck(run, one)


def test_no_rows(impl):
    y, d_x, d_weight, d_bias = outputs_and_gradients(lambda *t: plane_linear(*t, impl=impl), make(rows=0))
    assert y.shape == (3, 0, 4)
    assert d_x.shape == (3, 0, 7)
    assert not d_weight.any()
    assert not d_bias.any()


def test_any_strides(impl):
    x, weight, bias = make(dtype=torch.float64, grad=False)
    plain = plane_linear(x, weight, bias, impl=impl)
    found = plane_linear(x.mT.contiguous().mT, weight.mT.contiguous().mT, bias.T.contiguous().T, impl=impl)
    assert found.is_contiguous()
    torch.testing.assert_close(found, plain)
    expanded = plane_linear(x[:1].expand(3, -1, -1), weight[:, :, :1].expand(-1, -1, 7), bias, impl=impl)
    torch.testing.assert_close(expanded, plane_linear(x[[0, 0, 0]], weight[:, :, [0] * 7], bias, impl=impl))


class TestContract:
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_opcheck(self, impl, with_bias):
        x, weight, bias = make()
        opcheck(torch.ops.talk3d.plane_linear.default, (x, weight, bias if with_bias else None, impl))

    def test_autocast_runs_in_bfloat16(self, impl):
        layers = make()
        with torch.autocast("cpu", torch.bfloat16):
            y = plane_linear(*layers, impl=impl)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        assert {layer.grad.dtype for layer in layers} == {torch.float32}

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, impl, dynamic):
        def run(*layers: Tensor) -> Tensor:
            return plane_linear(*layers, impl=impl) * 2

        torch.compiler.reset()
        whole = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for rows in (5, 6):
            layers = make(rows)
            torch.testing.assert_close(outputs_and_gradients(whole, layers), outputs_and_gradients(run, layers))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.ones(5, 7)}, r"x must be \[planes, rows, channels\] of a floating type, got \[5, 7\]"),
            ({"x": torch.ones(3, 5, 7).int()}, r"x must be .* of a floating type, got .* torch.int32"),
            ({"weight": torch.ones(3, 4, 6)}, r"weight must have the shape \[3, out, 7\], got \[3, 4, 6\]"),
            ({"weight": torch.ones(2, 4, 7)}, r"weight must have the shape \[3, out, 7\], got \[2, 4, 7\]"),
            ({"weight": torch.ones(3, 4, 7).half()}, r"weight \(torch.float16, cpu\) must have the type and device"),
            ({"bias": torch.ones(4)}, r"bias must have the shape \[3, 4\], got \[4\]"),
            ({"bias": torch.ones(3, 4, device="meta")}, r"bias \(torch.float32, meta\) must have the type and device"),
            ({"impl": "metal"}, "no implementation 'metal'"),
        ],
    )
    def test_bad_input(self, change, message):
        x, weight, bias = make(grad=False)
        with pytest.raises(ValueError, match=message):
            plane_linear(**{"x": x, "weight": weight, "bias": bias} | change)


SIZES = [(1, 1, 1, 1), (5, 7, 4, 5), (6, 70, 66, 2)]  # rows, width, out, places; the last in several blocks


@pytest.fixture(params=["reference", "torch", "triton"])
def fused(request: pytest.FixtureRequest) -> str:
    if reason := operators()["plane_linear_act"].why_not(request.param, torch.ones(1, 1, 1)):
        pytest.skip(reason)
    return request.param


def make_act(
    rows: int, width: int, out: int, places: int, *, gate: bool, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Rows whose mean is large, weights, a bias of each place, and a residual whose strides are not its own."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, rows, width), (3, (1 + gate) * out, width), (3, places, (1 + gate) * out), (rows, 3, out)
    x, weight, bias, residual = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [part.to(dtype) for part in (x + 2, weight / width**0.5, bias, residual.transpose(0, 1))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("normalise", "gate"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("sizes", SIZES)
def test_fused_layers_are_as_accurate_as_the_reference(fused, sizes, normalise, gate, dtype):
    options = {"normalise": normalise, "gate": gate}
    exact = plane_linear_act(*make_act(*sizes, gate=gate, dtype=torch.float64), **options, impl="reference")
    inputs = make_act(*sizes, gate=gate, dtype=dtype)
    plain = plane_linear_act(*inputs, **options, impl="reference")
    assert_as_accurate([plane_linear_act(*inputs, **options, impl=fused)], [plain], [exact])


def test_a_gated_layer_is_what_it_says(fused):
    x, weight, bias, residual = make_act(4, 6, 3, 2, gate=True)
    layer = zip(layer_norm(x, (6,)), weight, bias, strict=True)
    value, gate = torch.stack([linear(*part) + offset.repeat(2, 1) for *part, offset in layer]).chunk(2, dim=2)
    expected = value * gelu(gate)
    found = plane_linear_act(x, weight, bias, normalise=True, gate=True, impl=fused)
    torch.testing.assert_close(found, expected)
    found = plane_linear_act(x, weight, bias, residual, normalise=True, gate=True, impl=fused)
    torch.testing.assert_close(found, expected + residual)


def test_fused_layers_of_no_rows(fused):
    x, weight, bias, _ = make_act(0, 3, 2, 1, gate=False)
    assert plane_linear_act(x, weight, bias, normalise=True, impl=fused).shape == (3, 0, 2)


def test_a_row_that_is_not_a_number_spoils_itself_alone(fused):
    x, weight, bias, _ = make_act(3, 4, 2, 1, gate=False)
    x[0, 1, 2] = torch.nan
    found = plane_linear_act(x, weight, bias, normalise=True, impl=fused).isnan()
    assert found[0, 1].all()
    assert found.sum() == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 4)}, r"x must be \[planes, rows, channels\] .* got \[3, 4\]"),
        ({"weight": torch.ones(3, 5, 4)}, r"weight must have the shape \[3, out, 4\], out even, got \[3, 5, 4\]"),
        ({"bias": torch.ones(3, 4, 6)}, r"bias must be \[3, places, 6\], places dividing 2, got \[3, 4, 6\]"),
        ({"residual": torch.ones(3, 2, 6)}, r"residual must have the shape \[3, 2, 3\], got \[3, 2, 6\]"),
        ({"bias": torch.ones(3, 1, 6).double()}, r"bias \(torch.float64, cpu\) must have the type and device of x"),
    ],
)
def test_bad_fused_layers(change, message):
    given = {"x": torch.ones(3, 2, 4), "weight": torch.ones(3, 6, 4), "bias": torch.ones(3, 1, 6), "gate": True}
    with pytest.raises(ValueError, match=message):
        plane_linear_act(**given | change)


def test_opcheck_fused(fused):
    opcheck(torch.ops.talk3d.plane_linear_act.default, (*make_act(5, 7, 4, 5, gate=True), True, True, 1e-5, fused))


def test_the_derivative_of_a_fused_layer_is_refused(fused):
    x, *others = make_act(5, 7, 4, 5, gate=False)
    with pytest.raises(NotImplementedError, match="it is for inference"):
        plane_linear_act(x.requires_grad_(), *others, impl=fused).sum().backward()
