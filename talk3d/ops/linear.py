"""Linear layers of several planes, each with weights of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.registry import Operator
from talk3d.ops.resample import _check_alike

__all__ = ["plane_linear"]


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
            _check_alike(name, tensor, x)
    product: Tensor = _plane_linear(x, weight, bias, impl=impl)
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
_plane_linear.implement("torch", "talk3d.composed.linear:plane_linear")
_plane_linear.implement("reference", "talk3d.reference.linear:plane_linear")
