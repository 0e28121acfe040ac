"""What tests and benchmarks share: golden vectors, inputs, the accuracy rule, and a count of what autograd keeps."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "assert_as_accurate",
    "assert_golden",
    "assert_rule",
    "golden",
    "head_planes",
    "held",
    "outputs_and_gradients",
]


def golden(name: str) -> dict[str, Tensor]:
    """Load a file of golden vectors, such as ``"eg3d/c_decoder"``.

    They lie in ``tests/golden`` of the repository; ``TALK3D_GOLDEN`` names another folder of the same layout.
    """
    folder = Path(os.environ.get("TALK3D_GOLDEN", Path(__file__).parents[1] / "tests" / "golden"))
    with np.load(folder / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file if file[key].dtype.kind in "fiub"}


def assert_golden(actual: Tensor, expected: Tensor, published: float, what: str = "") -> None:
    """Compare with a golden array at 5 times the error that an independent implementation had.

    Args:
        actual: Our result.
        expected: The array of the file.
        published: Absolute error given in the README of the vectors ("indep.").
        what: A name for the message.

    Never asks for less than 2e-6 of the array's largest magnitude: some 16 roundings in float32.
    """
    expected = expected.reshape(actual.shape).to(actual.dtype)
    worst = (actual - expected).abs().max().item()
    budget = max(5 * published, 2e-6 * expected.abs().max().item())
    assert worst <= budget, f"{what}: off by {worst:.3g}, at most {budget:.3g} is allowed"


def outputs_and_gradients(function: Callable[..., object], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a function, then differentiate a random projection of its results with respect to its inputs.

    Returns:
        The results, then the gradient for each input that asks for one.
    """
    found = function(*inputs)
    outputs = tuple(found) if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)).sum()
        for out in outputs
        if isinstance(out, Tensor) and out.requires_grad
    )
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = torch.autograd.grad(loss, wanted) if wanted else ()  # type: ignore[arg-type]
    return *(out.detach() for out in outputs if isinstance(out, Tensor)), *gradients


def assert_as_accurate(mine: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """Assert the accuracy rule: at most twice the error of plain PyTorch in the same type, both against float64.

    Errors are root mean squares over a tensor: the largest element of a few is a matter of luck. Four roundings of the
    largest magnitude are granted on top, since the orders of summation differ.
    """
    for index, (m, p, e) in enumerate(zip(mine, plain, exact, strict=True)):
        assert torch.isfinite(m).all(), f"result {index} is not finite"
        if m.numel():
            slack = 4 * torch.finfo(m.dtype).eps * e.abs().max()
            budget = 2 * (p.double() - e).square().mean().sqrt() + slack
            error = (m.double() - e).square().mean().sqrt()
            assert error <= budget, f"result {index}: off by {error:.3g}, at most {budget:.3g} is allowed"


def assert_rule(run: Callable[..., Tensor], inputs: Sequence[Tensor], impl: str) -> None:
    """Assert the accuracy rule for an operator that is twice differentiable.

    Args:
        run: Called with the inputs and ``impl=``.
        inputs: All ask for a gradient.
        impl: What is measured against ``"reference"``: its result, gradients, and the gradients of those.
    """

    def found(impl: str, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        def run_and_differentiate(*inputs: Tensor) -> tuple[Tensor, ...]:
            y = run(*inputs, impl=impl)
            return y, *torch.autograd.grad(y.square().sum() / 2, inputs, create_graph=True)

        return outputs_and_gradients(run_and_differentiate, inputs)

    exact = found("reference", [tensor.detach().double().requires_grad_() for tensor in inputs])
    assert_as_accurate(found(impl, inputs), found("reference", inputs), exact)


def head_planes(batch: int = 1, size: int = 256, *, seed: int = 0) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Random planes and a decoder whose density is spread as in a trained head.

    The raw density has a median near -4 and a standard deviation near 14 inside the box, as in the golden vectors: most
    of the volume is empty, and rays end on surfaces.

    Returns:
        Planes ``[B, 3, 32, size, size]`` and ``(w0 [64, 32], b0 [64], w1 [33, 64], b1 [33])``.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    coarse = normal(batch * 3, 32, max(size // 8, 2), max(size // 8, 2))  # detail of 8 texels, as features have
    planes = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").unflatten(0, (batch, 3))
    w0, b0 = normal(64, 32) * 0.4, normal(64) * 0.3
    w1, b1 = normal(33, 64) * 0.125, normal(33) * 0.3
    features = planes.mean(1).flatten(2).transpose(1, 2)  # [B, H*W, 32]
    hidden = torch.nn.functional.softplus(features @ w0.T + b0)
    density = hidden @ w1[0] + b1[0]
    gain = 14 / density.std()
    w1[0] *= gain
    b1[0] = -4 - gain * (density.median() - b1[0])
    return planes, (w0, b0, w1, b1)


class _Saved:
    """What stands for a tensor in a graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output would hold the node that holds it


@contextmanager
def held(weights: Sequence[nn.Module] = ()) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd holds for a backward.

    Args:
        weights: Modules whose parameters and buffers do not count.

    Yields:
        Says how many when it is called: each storage once, what was freed by then not at all.
    """
    own = {t.untyped_storage()._cdata for m in weights for t in (*m.parameters(), *m.buffers())}
    found: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        found.add(saved)
        return saved

    def count() -> int:
        storages = {s._cdata: s.nbytes() for s in (saved.tensor.untyped_storage() for saved in found)}
        return sum(size for address, size in storages.items() if address not in own)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        yield count
