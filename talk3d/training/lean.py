"""Losses that keep little for the backward: the sign of a difference, the gradient itself, or only what went in.

A step holds the activations of U-Net, renderer and super-resolution until its backward; what losses keep comes on top,
all of them together. A loss is one number, so that its gradient is known, but for a factor, when its value is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool2d, interpolate, pad

__all__ = ["absolute", "again", "at_once", "halved"]


def absolute(x: Tensor) -> Tensor:
    """Absolute value; keeps signs as bytes, a quarter of what ``abs`` keeps."""
    found: Tensor = _Absolute.apply(x) if _follows(x) else x.abs()  # type: ignore[no-untyped-call]
    return found


def at_once(loss: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """A loss whose gradient is computed with it: what its network keeps is free before the next loss begins.

    Nothing is computed twice. What is kept is as large as ``given``, however deep the network is.

    Args:
        loss: From ``given`` to one number. What else it uses gets no gradient.
        given: What gradients flow to, once.
    """
    if not _follows(*given):
        return loss(*given)
    found: Tensor = _AtOnce.apply(loss, *given)  # type: ignore[no-untyped-call]
    return found


def again(loss: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """A loss that is computed again for its gradient, once: it keeps what it was given, which others keep as well.

    Args:
        loss: From ``given`` to one number, without random numbers. What else it uses gets no gradient.
        given: What a gradient flows to.
    """
    if not _follows(given):
        return loss(given)
    found: Tensor = _Again.apply(loss, given)  # type: ignore[no-untyped-call]
    return found


def halved(x: Tensor) -> Tensor:
    """Pictures ``[B, C, H, W]`` averaged to half their size, as ``avg_pool2d(x, 2)`` does; keeps nothing."""
    found: Tensor = _Halved.apply(x)  # type: ignore[no-untyped-call]
    return found


def _follows(*given: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in given)


class _Absolute(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.sign().to(torch.int8))
        return x.abs()

    @staticmethod
    def backward(ctx: Any, d_found: Tensor) -> Tensor:
        (sign,) = ctx.saved_tensors
        return d_found * sign


class _AtOnce(Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], *given: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(need) for x, need in zip(given, ctx.needs_input_grad[1:], strict=True)]
            value = loss(*inputs)
        # a backward takes the types of its forward, also where autocast would choose others
        with torch.autocast(value.device.type, enabled=False):
            value.backward(inputs=[x for x in inputs if x.requires_grad])
        ctx.save_for_backward(*(x.grad for x in inputs))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_found: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(None if slope is None else d_found * slope for slope in ctx.saved_tensors))


class _Again(Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        ctx.loss, ctx.casts = loss, torch.is_autocast_enabled(given.device.type)
        ctx.save_for_backward(given)
        return loss(given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_found: Tensor) -> tuple[None, Tensor]:
        (given,) = ctx.saved_tensors
        device = given.device.type
        with torch.enable_grad(), torch.autocast(device, torch.get_autocast_dtype(device), enabled=ctx.casts):
            start = given.detach().requires_grad_()
            value = ctx.loss(start)
        (slope,) = torch.autograd.grad(value, start, d_found)
        return None, slope


class _Halved(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape[2:]
        return avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, d_found: Tensor) -> Tensor:
        spread = interpolate(d_found / 4, scale_factor=2.0, mode="nearest")
        rows, columns = (whole - part for whole, part in zip(ctx.size, spread.shape[2:], strict=True))
        return pad(spread, (0, columns, 0, rows)) if rows or columns else spread
