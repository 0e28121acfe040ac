"""Arguments: numbers and tensors together, and a sentence for what does not fit.

Shapes, types and devices are always checked. Values are not where looking would cost a wait or the graph: on a GPU, and
under ``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

__all__ = ["Scalar", "broadcast", "common_batch", "require", "require_finite", "require_matrix", "require_positive"]

Scalar = float | Tensor


def broadcast(**values: Scalar) -> tuple[Tensor, ...]:
    """Turn finite numbers and tensors into tensors of one shape, floating type and device."""
    for name, value in values.items():
        require_finite(name, value)
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    shape = common_batch(tensors)
    types = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    dtype = reduce(torch.promote_types, types) if types else torch.get_default_dtype()
    device = next((tensor.device for tensor in tensors.values()), None)
    # full, not tensor: a copy from the host would wait, and a CUDA graph could not capture it
    made = (
        value.to(dtype) if isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=device)
        for value in values.values()
    )
    return tuple(tensor.expand(shape) for tensor in made)


def common_batch(tensors: Mapping[str, Tensor], *, inner: int = 0) -> tuple[int, ...]:
    """Return the shape to which tensors of one device broadcast, without their last ``inner`` dimensions."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        listed = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"tensors must be on one device, got {listed}")
    batches = {name: tuple(tensor.shape[: tensor.ndim - inner]) for name, tensor in tensors.items()}
    try:
        return tuple(torch.broadcast_shapes(*batches.values()))
    except RuntimeError:
        listed = ", ".join(f"{name} {batch}" for name, batch in batches.items())
        raise ValueError(f"batches do not broadcast: {listed}") from None


def require(ok: Tensor, message: str) -> None:
    """Raise unless all elements are true."""
    if _may_look(ok) and not ok.all():
        raise ValueError(message)


def require_finite(name: str, value: Scalar) -> None:
    """Raise unless every value is finite."""
    if _may_look(value) and not torch.as_tensor(value).isfinite().all():
        raise ValueError(f"{name} must be finite, got {_shown(value)}")


def require_positive(**values: Scalar) -> None:
    """Raise unless every value is above 0."""
    for name, value in values.items():
        if _may_look(value) and not (torch.as_tensor(value) > 0).all():
            raise ValueError(f"{name} must be positive, got {_shown(value)}")


def require_matrix(name: str, matrix: Tensor, size: int) -> None:
    """Raise unless the last two dimensions are ``size`` and the numbers are finite and of a floating type."""
    if matrix.shape[-2:] != (size, size) or not matrix.is_floating_point():
        found = f"{tuple(matrix.shape)} {matrix.dtype}"
        raise ValueError(f"{name} must be [..., {size}, {size}] of a floating type, got {found}")
    require_finite(name, matrix)


def _may_look(value: Scalar) -> bool:
    return not torch.compiler.is_compiling() and not (isinstance(value, Tensor) and value.device.type != "cpu")


def _shown(value: Scalar) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
