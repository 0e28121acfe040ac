"""What a benchmark is: a problem, our side, the peer's side, and what of it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CHANNELS = 32  # of each plane
INPUT_SETS = 3

# grid_sample and convolutions take pictures in either order; the peer is measured with the one it is faster with
LAYOUTS = ("channels-last", "NCHW")

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]  # of a problem's leaves
Run = Callable[[], Tensors]  # what is timed: a function with everything it needs


class Size(NamedTuple):
    """Planes of ``planes`` squared texels, seen by ``rays`` squared rays with ``coarse + fine`` samples each."""

    planes: int
    rays: int
    coarse: int
    fine: int

    @property
    def planes_bytes(self) -> int:
        return 4 * 3 * self.planes**2 * CHANNELS

    @property
    def points(self) -> int:
        return self.rays**2 * self.coarse

    @property
    def samples(self) -> int:
        return self.rays**2 * (self.coarse + self.fine)


FULL = Size(planes=256, rays=128, coarse=48, fine=48)
QUICK = Size(planes=32, rays=16, coarse=8, fine=8)


class Problem(NamedTuple):
    """One set of inputs.

    Attributes:
        leaves: What functions take. Gradients go to those that ask for one. Where it has a layout, the first is
            channels-last ``[..., H, W, C]``.
        grads: A random gradient for each output.
    """

    leaves: Tensors
    grads: Tensors

    def to(self, device: str) -> Problem:
        """Move the numbers to a device, which makes them leaves again."""
        if device == "cpu":
            return self
        leaves = (leaf.detach().to(device).requires_grad_(leaf.requires_grad) for leaf in self.leaves)
        return Problem(tuple(leaves), tuple(grad.to(device) for grad in self.grads))

    def laid_out(self, layout: str) -> Problem:
        """Keep the numbers and change the order of the first leaf ``[..., H, W, C]`` in memory."""
        if layout == "channels-last":
            return self
        texels = self.leaves[0].detach().movedim(-1, -3).contiguous().movedim(-3, -1)
        return Problem((texels.requires_grad_(self.leaves[0].requires_grad), *self.leaves[1:]), self.grads)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operator, and what of it is timed.

    Attributes:
        problem: Makes random inputs from a size and a seed.
        ours: Makes our function from a size and the name of an implementation.
        peer: Makes the peer's function from a size.
        timed: Binds a function to a problem: :func:`forward`, :func:`backward` or :func:`forward_backward`.
        flop: Floating-point operations of the published algorithm, a multiplication and an addition being two. The
            backward counts as two forwards; what we skip is not taken off, what we recompute is not added.
        traffic: Bytes that any implementation must move: inputs read once, outputs written once, in float32.
        tolerance: Largest relative L2 error of any output or gradient against the peer's. It tells right from wrong;
            how accurate we are is for the tests.
        rounds: How often each side is timed; a multiple of the number of input sets.
        lossy: The case trades accuracy for speed: the PSNR of its first output is a result too.
        exact: Makes outputs and gradients of a problem in float64, where float32 has no tolerance that tells right from
            wrong: ours may then be off from them by twice what the peer is, and by ``tolerance``.
        layouts: Memory layouts of the first leaf, of which the peer gets the one it is faster with.
        gpu: The case is for GPUs alone.
    """

    problem: Callable[[Size, int], Problem]
    ours: Callable[[Size, str], Function]
    peer: Callable[[Size], Function]
    timed: Callable[[Function, Problem], Run]
    flop: Callable[[Size], float]
    traffic: Callable[[Size], float]
    tolerance: float
    rounds: int
    lossy: bool = False
    exact: Callable[[Size, Problem], Tensors] | None = None
    layouts: tuple[str, ...] = LAYOUTS
    gpu: bool = False


def finished(run: Run, device: str) -> Run:
    """Wait for the device before the clock stops."""
    if device == "cpu":
        return run

    def waiting() -> Tensors:
        found = run()
        torch.cuda.synchronize()
        return found

    return waiting


def forward(function: Function, problem: Problem) -> Run:
    """Time a function without gradients."""

    def run() -> Tensors:
        with torch.no_grad():
            return function(*problem.leaves)

    return run


def backward(function: Function, problem: Problem) -> Run:
    """Time the gradients alone; the forward happens here, once."""
    outputs = function(*problem.leaves)
    return lambda: torch.autograd.grad(outputs, _wanted(problem), problem.grads, retain_graph=True)


def forward_backward(function: Function, problem: Problem) -> Run:
    """Time a function and the gradients to the leaves that ask for them."""

    def run() -> Tensors:
        outputs = function(*problem.leaves)
        gradients = torch.autograd.grad(outputs, _wanted(problem), problem.grads)
        return *(output.detach() for output in outputs), *gradients

    return run


def _wanted(problem: Problem) -> list[Tensor]:
    return [leaf for leaf in problem.leaves if leaf.requires_grad]
