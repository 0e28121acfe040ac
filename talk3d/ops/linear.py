"""Linear layers of several planes, each with weights of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import LARGEST, no_triton_type, require_alike
from talk3d.ops.registry import Operator

__all__ = ["plane_linear", "plane_linear_act"]


def plane_linear(
    x: Float[Tensor, "plane row in_channel"],
    weight: Float[Tensor, "plane out_channel in_channel"],
    bias: Float[Tensor, "plane out_channel"] | None = None,
    *,
    impl: str | None = None,
) -> Float[Tensor, "plane row out_channel"]:
    """Apply a linear layer to each plane: ``x[p] @ weight[p].T + bias[p]``.

    Args:
        x: Rows of each plane ``[P, N, D]``, of any floating type and strides.
        weight: ``[P, O, D]``.
        bias: ``[P, O]``, or None.
        impl: ``"torch"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        ``[P, N, O]``.

    Raises:
        ValueError: On wrong shapes, types or devices; with the name and shape of the argument.

    Note:
        Differentiable any number of times, to ``x``, ``weight`` and ``bias``. Under autocast it runs in bfloat16.

    Example:
        >>> plane_linear(torch.ones(2, 1, 3), torch.tensor([[[1.0, 1.0, 1.0]], [[2.0, 2.0, 2.0]]])).flatten()
        tensor([3., 6.])
    """
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be [planes, rows, channels] of a floating type, got {list(x.shape)} {x.dtype}")
    if weight.ndim != 3 or weight.shape[::2] != x.shape[::2]:
        raise ValueError(f"weight must have the shape [{len(x)}, out, {x.shape[2]}], got {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(f"bias must have the shape {list(weight.shape[:2])}, got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            require_alike(name, tensor, x)
    product: Tensor = _plane_linear(x, weight, bias, impl=impl)
    return product


def plane_linear_act(
    x: Float[Tensor, "plane row in_channel"],
    weight: Float[Tensor, "plane out_channel in_channel"],
    bias: Float[Tensor, "plane place out_channel"],
    residual: Float[Tensor, "plane row channel"] | None = None,
    *,
    normalise: bool = False,
    gate: bool = False,
    eps: float = 1e-5,
    impl: str | None = None,
) -> Float[Tensor, "plane row channel"]:
    r"""Layer norm without weights, linear layer, gated GELU, residual: what transformers are made of, for inference.

    .. math:: y = residual + g(W \cdot \mathrm{LN}(x) + bias)

    Args:
        x: Rows of each plane ``[P, N, D]``, of any floating type and strides.
        weight: ``[P, O, D]``. Gain and bias of a layer norm belong in here and in the bias.
        bias: ``[P, M, O]``: one for each of M places, which repeat along the rows; M divides N.
        residual: ``[P, N, O]``, or half as wide with ``gate``; or None.
        normalise: Whether rows get mean 0 and variance 1 first.
        gate: The first half of the outputs is multiplied by the GELU of the second half.
        eps: Added to the variance.
        impl: ``"triton"`` (one launch; not float64), ``"torch"`` or ``"reference"``; by default the fastest that
            accepts the inputs.

    Returns:
        ``[P, N, O]``, or half as wide with ``gate``.

    Raises:
        ValueError: On wrong shapes, types or devices; with the name and shape of the argument.

    Note:
        Not differentiable: :func:`plane_linear` is.

    Example:
        >>> x, weight = torch.tensor([[[1.0, 3.0]]]), torch.eye(2)[None]
        >>> plane_linear_act(x, weight, torch.zeros(1, 1, 2), x, normalise=True, eps=0.0)
        tensor([[[0., 4.]]])
    """
    if x.ndim != 3 or not x.is_floating_point() or not x.shape[2]:
        raise ValueError(f"x must be [planes, rows, channels] of a floating type, got {list(x.shape)} {x.dtype}")
    planes, rows, width = x.shape
    if weight.ndim != 3 or weight.shape[::2] != (planes, width) or (gate and weight.shape[1] % 2):
        even = ", out even," if gate else ""
        raise ValueError(f"weight must have the shape [{planes}, out, {width}]{even} got {list(weight.shape)}")
    out = weight.shape[1]
    if bias.ndim != 3 or bias.shape[::2] != (planes, out) or not bias.shape[1] or rows % bias.shape[1]:
        raise ValueError(f"bias must be [{planes}, places, {out}], places dividing {rows}, got {list(bias.shape)}")
    shape = [planes, rows, out // (1 + gate)]
    if residual is not None and list(residual.shape) != shape:
        raise ValueError(f"residual must have the shape {shape}, got {list(residual.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual)):
        if tensor is not None:
            require_alike(name, tensor, x)
    product: Tensor = _plane_linear_act(x, weight, bias, residual, normalise, gate, eps, impl=impl)
    return product


def _fake(x, weight, bias):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], weight.shape[1])


_plane_linear = Operator(
    "plane_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", fake=_fake, autocast=torch.bfloat16
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2])


def _back(ctx, d_y):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    d_x = _plane_linear(d_y, weight.mT, None, impl=ctx.impl) if needs_x else None
    d_weight = _plane_linear(d_y.mT, x.mT, None, impl=ctx.impl) if needs_weight else None
    return d_x, d_weight, d_y.sum(1) if needs_bias else None


_plane_linear.differentiate(_save, _back)


def _fake_act(x, weight, bias, residual, normalise, gate, eps):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], weight.shape[1] // (1 + gate))


def _triton(x: Tensor, *_: object) -> str | None:
    if reason := no_triton_type(x):
        return reason
    if sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True)) >= LARGEST:
        return "it counts in 32 bits inside a plane, and this one is too large"
    return None


_plane_linear_act = Operator(
    "plane_linear_act(Tensor x, Tensor weight, Tensor bias, Tensor? residual, bool normalise, bool gate, float eps)"
    " -> Tensor",
    fake=_fake_act,
)
_plane_linear_act.refuse_derivative("it is for inference; plane_linear is differentiable")
_plane_linear_act.implement("triton", "talk3d.kernels.linear:plane_linear_act", supports=_triton)
_plane_linear_act.implement("torch", "talk3d.composed.linear:plane_linear_act")
_plane_linear_act.implement("reference", "talk3d.reference.linear:plane_linear_act")
_plane_linear.implement("torch", "talk3d.composed.linear:plane_linear")
_plane_linear.implement("reference", "talk3d.reference.linear:plane_linear")
