"""``token_attention`` keeps its contract, whichever implementation runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from talk3d.composed import attention as composed
from talk3d.ops.attention import AttentionWeights, token_attention
from talk3d.ops.registry import operators
from talk3d.reference import attention as reference
from talk3d.testing import assert_as_accurate, outputs_and_gradients


@pytest.fixture(params=["reference", "torch", "triton"])
def impl(request: pytest.FixtureRequest) -> str:
    planes, tokens, *weights = make()
    if reason := operators()["token_attention"].why_not(request.param, planes, tokens, weights, 2, 1e-5, False):
        pytest.skip(reason)
    return request.param


takes_float64 = pytest.mark.parametrize("impl", ["reference", "torch"])


def make(
    batch: int = 2,
    texels: int = 7,
    width: int = 6,
    condition: int = 5,
    tokens: int = 4,
    inner: int = 8,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    """Planes, tokens and weights that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (batch, 3, texels, width), (batch, tokens, condition), (3, width), (3, width),
        (inner, width), (inner, condition), (inner, condition), (width, inner), (width,),
    )  # fmt: skip
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    )


def attend(*tensors: Tensor, heads: int = 2, with_map: bool = True, impl: str | None = None) -> tuple[Tensor, ...]:
    planes, tokens, *weights = tensors
    return token_attention(planes, tokens, AttentionWeights(*weights), heads=heads, with_map=with_map, impl=impl)


def run(inputs: tuple[Tensor, ...], impl: str, heads: int = 2) -> tuple[Tensor, ...]:
    """Planes and map, and the gradients to planes, tokens and weights."""
    return outputs_and_gradients(lambda *tensors: attend(*tensors, heads=heads, impl=impl), inputs)


def arguments(grad: bool) -> tuple[Any, ...]:
    """What the operator itself is called with: planes, tokens, weights, heads, eps."""
    planes, tokens, *weights = (tensor.detach().requires_grad_(grad) for tensor in make())
    return planes, tokens, weights, 2, 1e-5


def test_by_hand(impl):
    # normalised, the texels (1, 3) and (4, 0) are (-1, 1) and (1, -1); the second number is asked for, and the tokens'
    # keys are 0 and the logarithm of 3
    planes = torch.tensor([[1.0, 3.0], [4.0, 0.0]]).expand(1, 3, 2, 2)
    tokens = torch.tensor([[[0.0, 8.0], [math.log(3), 16.0]]])
    weights = AttentionWeights(
        norm=torch.ones(3, 2),
        norm_bias=torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),  # plane 1: the texels ask for 2 and for 0
        query=torch.tensor([[0.0, 1.0]]),
        key=torch.tensor([[1.0, 0.0]]),
        value=torch.tensor([[0.0, 1.0]]),
        out=torch.tensor([[1.0], [0.0]]),
        out_bias=torch.tensor([0.0, 100.0]),
    )
    out, shares = token_attention(planes, tokens, weights, heads=1, eps=0.0, with_map=True, impl=impl)
    quarter, tenth, half = [1 / 4, 3 / 4], [1 / 10, 9 / 10], [1 / 2, 1 / 2]
    expected = [[quarter, [3 / 4, 1 / 4]], [tenth, half], [quarter, [3 / 4, 1 / 4]]]
    torch.testing.assert_close(shares, torch.tensor([expected]))
    found = [[14.0, 10.0], [15.2, 12.0], [14.0, 10.0]]
    torch.testing.assert_close(out[0, :, :, 0], torch.tensor([[1.0, 4.0]] * 3) + torch.tensor(found))
    torch.testing.assert_close(out[0, :, :, 1], torch.tensor([[103.0, 100.0]] * 3))


@takes_float64
def test_against_the_layers_of_torch(impl):
    planes, tokens, *weights = make(width=8, inner=8, dtype=torch.float64)
    named = AttentionWeights(*weights)
    out, shares = attend(planes, tokens, *weights, impl=impl)
    for plane in range(3):
        norm = torch.nn.functional.layer_norm(planes[:, plane], (8,), named.norm[plane], named.norm_bias[plane])
        attention = torch.nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True, dtype=torch.float64)
        state = {
            "q_proj_weight": named.query, "k_proj_weight": named.key, "v_proj_weight": named.value,
            "in_proj_bias": torch.zeros(24), "out_proj.weight": named.out, "out_proj.bias": named.out_bias,
        }  # fmt: skip
        attention.load_state_dict(state)
        expected, expected_shares = attention(norm, tokens, tokens)
        torch.testing.assert_close(out[:, plane], planes[:, plane] + expected)
        torch.testing.assert_close(shares[:, plane], expected_shares)


@takes_float64
def test_gradcheck(impl):
    inputs = make(2, 3, 3, 2, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: attend(*tensors, impl=impl)[0], inputs)


@pytest.mark.parametrize("impl", ["torch", "triton"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("sizes", "heads"),
    [  # batch, texels, width, condition, tokens, inner
        ((1, 1, 1, 1, 1, 1), 1),
        ((2, 7, 6, 5, 4, 8), 2),
        ((1, 13, 33, 7, 5, 96), 3),
        ((3, 64, 64, 64, 5, 64), 4),
        ((2, 16, 8, 8, 40, 8), 8),
    ],
)
def test_as_accurate_as_the_reference(impl, dtype, sizes, heads):
    exact = run(make(*sizes, dtype=torch.float64), "reference", heads)
    plain = run(make(*sizes, dtype=dtype), "reference", heads)
    assert_as_accurate(run(make(*sizes, dtype=dtype), impl, heads), plain, exact)


def test_the_folded_form_is_an_identity():
    inputs = make(3, 9, 8, 4, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(run(inputs, "torch", 4), run(inputs, "reference", 4), rtol=1e-12, atol=1e-12)


def test_the_folded_form_does_a_tenth_of_the_work():
    planes, tokens, *weights = (tensor.detach() for tensor in make(1, 1024, 256, 64, 5, 256))
    counts = {}
    for form in (composed, reference):
        with FlopCounterMode(display=False) as counter:
            form.forward(planes, tokens, weights, 4, 1e-5, False)
        counts[form] = counter.get_total_flops()
    assert counts[composed] < 0.1 * counts[reference]


@pytest.mark.parametrize(("batch", "texels"), [(0, 7), (2, 0)])
def test_nothing_to_attend_with(impl, batch, texels):
    out, shares, d_planes, d_tokens, *d_weights = run(make(batch, texels), impl)
    assert out.shape == d_planes.shape == (batch, 3, texels, 6)
    assert shares.shape == (batch, 3, texels, 4)
    assert not any(gradient.any() for gradient in (d_tokens, *d_weights))


def test_the_map_is_made_when_asked_for(impl):
    inputs = make()
    attended = attend(*inputs, with_map=False, impl=impl)
    assert attended.map is None
    both = attend(*inputs, impl=impl)
    torch.testing.assert_close(attended.planes, both.planes, rtol=0, atol=0)
    assert both.map.shape == (2, 3, 7, 4)
    assert not both.map.requires_grad
    torch.testing.assert_close(both.map.sum(3), torch.ones(2, 3, 7))


def test_frozen_weights_leave_the_other_gradients(impl):
    planes, tokens, *weights = make()
    every = run((planes, tokens, *weights), impl)
    frozen = run((planes, tokens, *(weight.detach() for weight in weights)), impl)
    torch.testing.assert_close(frozen, every[:4])


def test_any_strides(impl):
    # sums of another order round differently in float32; Triton's order is its own, whatever the strides
    planes, tokens, *weights = make(dtype=torch.float32 if impl == "triton" else torch.float64)
    plain = run((planes, tokens, *weights), impl)
    reordered = planes.detach().permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1).requires_grad_()
    turned = [weight.detach().mT.contiguous().mT.requires_grad_() if weight.ndim == 2 else weight for weight in weights]
    torch.testing.assert_close(run((reordered, tokens, *turned), impl), plain)


def test_planes_lie_one_after_the_other(impl):
    assert attend(*make(), impl=impl)[0].transpose(0, 1).is_contiguous()


def test_a_texel_that_is_not_a_number_spoils_itself_alone(impl):
    inputs = [tensor.detach() for tensor in make()]
    expected, _ = attend(*inputs, impl=impl)
    inputs[0] = inputs[0].clone()
    inputs[0][1, 2, 3, 0] = torch.nan
    out, _ = attend(*inputs, impl=impl)
    assert out[1, 2, 3].isnan().all()
    out[1, 2, 3] = expected[1, 2, 3]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": torch.ones(2, 2, 7, 6)}, r"planes must have the shape .* got \[2, 2, 7, 6\] torch.float32"),
        ({"planes": torch.ones(3, 7, 6)}, r"planes must have the shape .* got \[3, 7, 6\] torch.float32"),
        ({"planes": torch.ones(2, 3, 7, 6).int()}, r"planes must .* be floating-point, got .* torch.int32"),
        ({"tokens": torch.ones(3, 4, 5)}, r"tokens must have the shape \[2, tokens, width\], got \[3, 4, 5\]"),
        ({"tokens": torch.ones(2, 0, 5)}, r"tokens must have the shape \[2, tokens, width\], got \[2, 0, 5\]"),
        ({"tokens": torch.ones(2, 4, 5).double()}, r"tokens \(torch.float64, cpu\) must have the type .* of planes"),
        ({"norm": torch.ones(6)}, r"weights.norm must have the shape \[3, 6\], got \[6\]"),
        ({"key": torch.ones(8, 6)}, r"weights.key must have the shape \[8, 5\], got \[8, 6\]"),
        (
            {"out_bias": torch.ones(6, device="meta")},
            r"weights.out_bias \(torch.float32, meta\) must have the type and",
        ),
        ({"heads": 3}, r"heads must divide the inner width 8, got 3"),
        ({"heads": 0}, r"heads must divide the inner width 8, got 0"),
        ({"impl": "metal"}, r"no implementation 'metal'"),
    ],
)
def test_bad_input(change, message):
    planes, tokens, *weights = make()
    named = AttentionWeights(*weights)._asdict()
    named |= {name: change[name] for name in change.keys() & named.keys()}
    others = {name: value for name, value in change.items() if name not in named}
    with pytest.raises(ValueError, match=message):
        token_attention(
            **{"planes": planes, "tokens": tokens, "weights": AttentionWeights(**named), "heads": 2} | others
        )


class TestContract:
    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("with_map", [True, False])
    def test_opcheck(self, impl, grad, with_map):
        opcheck(torch.ops.talk3d.token_attention.default, (*arguments(grad), with_map, impl))

    def test_opcheck_backward(self, impl):
        planes, *others = arguments(grad=False)
        opcheck(torch.ops.talk3d.token_attention_backward.default, (torch.randn(planes.shape), planes, *others, impl))

    def test_second_derivative_is_refused(self, impl):
        planes, *others = make()
        out, _ = attend(planes, *others, impl=impl)
        (slope,) = torch.autograd.grad(out.square().sum(), planes, create_graph=True)
        with pytest.raises(NotImplementedError, match="token_attention is differentiable once"):
            slope.sum().backward()

    def test_autocast_runs_in_bfloat16(self, impl):
        inputs = make()
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = attend(*inputs, impl=impl)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
        assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)
        lower, _ = attend(*(tensor.detach().bfloat16() for tensor in inputs), impl=impl)
        torch.testing.assert_close(out, lower, rtol=0, atol=0)

    @pytest.mark.compile
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_whole(self, impl, dynamic):
        def twice(*tensors: Tensor) -> tuple[Tensor, ...]:
            out, shares = attend(*tensors, impl=impl)
            return 2 * out, 2 * shares

        torch.compiler.reset()
        compiled = torch.compile(twice, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for texels in (7, 9):
            inputs = make(texels=texels)
            torch.testing.assert_close(outputs_and_gradients(compiled, inputs), outputs_and_gradients(twice, inputs))
