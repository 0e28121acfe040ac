"""Which arithmetic of a training step is not left to autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["full_precision"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function of tensors that has to keep its digits: autocast is off in it, halves arrive as float32.

    A step runs under autocast on a GPU, where products of matrices have 8 bits: a camera, or a projected point, would
    be off by a hundredth of the picture, and a variance, which is a difference of squares, has no digit left.
    """

    @wraps(function)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        device = next(value.device.type for value in args if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(_widened, args), **options)  # type: ignore[arg-type]

    return run


def _widened(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value
