"""Token attention: the texels of three planes attend to a handful of condition tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import no_triton_type, require_alike
from talk3d.ops.registry import Operator

__all__ = ["Attended", "AttentionWeights", "token_attention"]


class AttentionWeights(NamedTuple):
    """What :func:`token_attention` learns: D is the width of the planes, E that of the tokens, I that of all heads.

    Attributes:
        norm: Gain of the layer norm, for each plane ``[3, D]``.
        norm_bias: Its bias ``[3, D]``.
        query: Projection of the texels ``[I, D]``, shared by the planes as everything below.
        key: Projection of the tokens ``[I, E]``.
        value: Projection of the tokens ``[I, E]``.
        out: Projection of what the heads found ``[D, I]``.
        out_bias: ``[D]``.
    """

    norm: Float[Tensor, "3 width"]
    norm_bias: Float[Tensor, "3 width"]
    query: Float[Tensor, "inner width"]
    key: Float[Tensor, "inner condition"]
    value: Float[Tensor, "inner condition"]
    out: Float[Tensor, "width inner"]
    out_bias: Float[Tensor, " width"]


class Attended(NamedTuple):
    """Result of :func:`token_attention`.

    Attributes:
        planes: ``[B, 3, N, D]``, plane by plane in memory: ``[3, B, N, D]``.
        map: Share of each token in each texel, mean over the heads ``[B, 3, N, T]``; it adds up to 1 over the tokens. A
            constant for the derivative. None unless asked for.
    """

    planes: Float[Tensor, "batch 3 texel width"]
    map: Float[Tensor, "batch 3 texel token"] | None


def token_attention(
    planes: Float[Tensor, "batch 3 texel width"],
    tokens: Float[Tensor, "batch token condition"],
    weights: AttentionWeights,
    *,
    heads: int,
    eps: float = 1e-5,
    with_map: bool = False,
    impl: str | None = None,
) -> Attended:
    r"""Add to each texel what it finds among the tokens (Talk3D's cross-attention).

    .. math:: x + W_o \, \mathrm{softmax}\!\left(\frac{(W_q\,\mathrm{LN}(x)) \cdot (W_k c)}{\sqrt{I / heads}}\right)
        W_v c + b_o

    With T tokens and a few heads, :math:`W_q^\top W_k c` and :math:`W_o W_v c` are matrices of ``heads * T`` columns:
    the implementations other than ``"reference"`` fold them once per sample, and project no texel.

    Args:
        planes: Texels ``[B, 3, N, D]``, any strides.
        tokens: Condition tokens ``[B, T, E]``, at least one.
        weights: See :class:`AttentionWeights`.
        heads: Into how many heads the inner width is divided.
        eps: Added to the variance in the layer norm.
        with_map: Also return where each token is looked at.
        impl: ``"triton"`` (not float64), ``"torch"`` or ``"reference"``; by default the fastest that accepts the
            inputs.

    Returns:
        The planes, and the map if asked for.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Differentiable once, to planes, tokens and weights. Under autocast it runs in bfloat16.

    Example:
        >>> planes, tokens = torch.zeros(1, 3, 4, 2), torch.ones(1, 5, 2)
        >>> weights = AttentionWeights(*torch.ones(2, 3, 2), *torch.ones(4, 2, 2), torch.zeros(2))
        >>> token_attention(planes, tokens, weights, heads=1, with_map=True).map[0, 0, 0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """
    _check(planes, tokens, weights, heads)
    attended, found = _forward(planes, tokens, list(weights), heads, eps, with_map, impl=impl)
    return Attended(attended, found if with_map else None)


def _check(planes: Tensor, tokens: Tensor, weights: AttentionWeights, heads: int) -> None:
    if planes.ndim != 4 or planes.shape[1] != 3 or not planes.shape[3] or not planes.dtype.is_floating_point:
        raise ValueError(
            f"planes must have the shape [batch, 3, texels, width] and be floating-point, "
            f"got {list(planes.shape)} {planes.dtype}"
        )
    if tokens.ndim != 3 or tokens.shape[0] != planes.shape[0] or not tokens.shape[1]:
        raise ValueError(f"tokens must have the shape [{planes.shape[0]}, tokens, width], got {list(tokens.shape)}")
    width, condition = planes.shape[3], tokens.shape[2]
    inner = weights.query.shape[0]
    if heads < 1 or not inner or inner % heads:
        raise ValueError(f"heads must divide the inner width {inner}, got {heads}")
    shapes = [[3, width], [3, width], [inner, width], [inner, condition], [inner, condition], [width, inner], [width]]
    for (name, weight), shape in zip(weights._asdict().items(), shapes, strict=True):
        if list(weight.shape) != shape:
            raise ValueError(f"weights.{name} must have the shape {shape}, got {list(weight.shape)}")
    for name, tensor in {"tokens": tokens, **{f"weights.{k}": v for k, v in weights._asdict().items()}}.items():
        require_alike(name, tensor, planes, "planes")


def _fake_forward(planes, tokens, weights, heads, eps, with_map):  # type: ignore[no-untyped-def]
    batch, _, texels, width = planes.shape
    return (
        planes.new_empty(3, batch, texels, width).transpose(0, 1),
        planes.new_empty((batch, 3, texels, tokens.shape[1]) if with_map else 0),
    )


def _fake_backward(d_out, planes, tokens, weights, heads, eps):  # type: ignore[no-untyped-def]
    batch, _, texels, width = planes.shape
    d_planes = planes.new_empty(3, batch, texels, width).transpose(0, 1)
    return d_planes, tokens.new_empty(tokens.shape), [weight.new_empty(weight.shape) for weight in weights]


_forward = Operator(
    # weights: the fields of AttentionWeights
    "token_attention(Tensor planes, Tensor tokens, Tensor[] weights, int heads, float eps, bool with_map)"
    " -> (Tensor planes_out, Tensor map)",
    fake=_fake_forward,
    autocast=torch.bfloat16,
)
_backward = Operator(
    "token_attention_backward(Tensor d_out, Tensor planes, Tensor tokens, Tensor[] weights, int heads, float eps)"
    " -> (Tensor d_planes, Tensor d_tokens, Tensor[] d_weights)",
    fake=_fake_backward,
    autocast=torch.bfloat16,
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    planes, tokens, weights, *ctx.options, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(planes, tokens, *weights)


def _differentiate(ctx, d_out, _):  # type: ignore[no-untyped-def]
    planes, tokens, *weights = ctx.saved_tensors
    return *_backward(d_out, planes, tokens, weights, *ctx.options, impl=ctx.impl), None, None, None


_forward.differentiate(_save, _differentiate)
_backward.refuse_derivative("token_attention is differentiable once; for more, use talk3d.reference.attention.forward")


def _triton(planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int) -> str | None:
    if reason := no_triton_type(planes):
        return reason
    width, keys, head = planes.shape[3], heads * tokens.shape[1], len(weights[2]) // heads
    if width > 512 or keys > 320 or width * keys > 2**14 or head > 128:  # what a program holds in shared memory
        return f"it takes few tokens and narrow texels, not {tokens.shape[1]}, {heads} heads of {head}, width {width}"
    return None


_forward.implement("triton", "talk3d.kernels.attention:forward", supports=lambda *arguments: _triton(*arguments[:4]))
_backward.implement(
    "triton", "talk3d.kernels.attention:backward", supports=lambda d_out, *arguments: _triton(*arguments[:4])
)
for _operator, _function in ((_forward, "forward"), (_backward, "backward")):
    _operator.implement("torch", f"talk3d.composed.attention:{_function}")
    _operator.implement("reference", f"talk3d.reference.attention:{_function}")
