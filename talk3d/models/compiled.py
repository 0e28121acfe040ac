"""Super-resolution by torch.compile: the peer of our kernels, and what renders where it is the faster of the two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, leaky_relu, pad

from talk3d.models.superresolution import FoldedSuperResolution, _FoldedBlock, _resize
from talk3d.nn import smoothing_filter

__all__ = ["MOST_ERROR", "Choice", "CompiledSuperResolution", "compiled", "faster"]

MOST_ERROR = 0.03  # relative L2 against the network itself: bfloat16 has 0.006 at the published sizes, wrong has more

_BACKEND = "inductor"
# "max-autotune" alone replays CUDA graphs of its own, which cannot be captured as a part of the frame's
_MODE = "max-autotune-no-cudagraphs"
_ROUNDS = 21  # that each side is timed
_CALLS = 5  # between two events of a GPU, whose clock has steps of half a microsecond

Run = Callable[[], object]


class CompiledSuperResolution(nn.Module):
    """A folded super-resolution, spelled out in PyTorch and compiled by ``torch.compile``, whole or not at all.

    Each size of a batch is compiled when it first comes, which takes a minute or more, and is kept. For inference.

    Args:
        network: What :meth:`talk3d.models.SuperResolution.fold` made; its weights are shared.
        backend: Of torch.compile.
    """

    def __init__(self, network: FoldedSuperResolution, *, backend: str | None = None) -> None:
        super().__init__()
        for block in (network.block0, network.block1):
            if block.filter is not None and not torch.equal(block.filter.cpu().float(), smoothing_filter()):
                raise ValueError("only StyleGAN's filter [1, 3, 3, 1] is spelled out")
        self.shape, self.network = network.shape, network
        self._backend = backend or _BACKEND
        self._made: dict[tuple[object, ...], Callable[..., Tensor]] = {}

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 out_height out_width"]:
        """Make pictures as :class:`talk3d.models.superresolution.FoldedSuperResolution` does.

        Raises:
            RuntimeError: If torch.compile fails; nothing falls back to what was not asked for.
        """
        features = _resize(features, self.shape)
        key = tuple(features.shape), features.dtype
        if key in self._made:
            return self._made[key](self.network.block0, self.network.block1, features)
        made = self._compile()
        try:
            picture = made(self.network.block0, self.network.block1, features)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).partition("Set TORCH")[0].split())
            raise RuntimeError(
                f"torch.compile cannot compile the super-resolution on {features.device} "
                f"({reason[:300].rstrip('. ')}): render with the plain one"
            ) from error
        self._made[key] = made
        return picture

    def _compile(self) -> Callable[..., Tensor]:
        # torch keeps what it compiled with the code of a function, 8 at most: each size gets a code of its own
        fresh = FunctionType(_spelled.__code__.replace(), _spelled.__globals__)
        mode = _MODE if self._backend == "inductor" else None
        # fullgraph: what torch.compile cannot trace raises, and does not run as it stands
        return torch.compile(fresh, backend=self._backend, mode=mode, fullgraph=True, dynamic=False)


@dataclass(frozen=True)
class Choice:
    """Which super-resolution was the faster one, and by how much.

    Attributes:
        kept: The one that renders.
        plain: Milliseconds of a batch by our operators; the median.
        compiled: The same by torch.compile.
        batch: Frames in it.
        device: Where.
    """

    kept: Literal["plain", "compiled"]
    plain: float
    compiled: float
    batch: int
    device: str

    def __str__(self) -> str:
        frames = f"{self.batch} frame{'s' * (self.batch > 1)}"
        return (
            f"super-resolution: {self.kept} is the faster one for {frames} on {self.device} "
            f"(plain {self.plain:.3g} ms, compiled {self.compiled:.3g} ms)"
        )


@torch.inference_mode()
def compiled(network: FoldedSuperResolution, features: Tensor) -> CompiledSuperResolution:
    """Compile a network for features of this size, and see that it computes the same.

    Raises:
        RuntimeError: If torch.compile fails, or what it made is off by more than :data:`MOST_ERROR`.
    """
    made = CompiledSuperResolution(network)
    right = network(features).double()
    error = float((made(features).double() - right).norm() / right.norm())
    if not error <= MOST_ERROR:
        raise RuntimeError(
            f"what torch.compile made of the super-resolution is off by {100 * error:.1f} %, and "
            f"{100 * MOST_ERROR:.0f} % is what rounding may do: render with the plain one"
        )
    return made


@torch.inference_mode()
def faster(network: FoldedSuperResolution, features: Tensor) -> tuple[nn.Module, Choice]:
    """Measure a network against what torch.compile makes of it, in turns, and keep the faster one.

    On a GPU both are replayed as CUDA graphs, as they are in a frame.

    Args:
        network: The folded network.
        features: Of a batch as it will be rendered, ``[B, C, H, W]``.

    Raises:
        RuntimeError: As in :func:`compiled`.
    """
    made = compiled(network, features)
    plain, other = (_ready(partial(side, features), features.device) for side in (network, made))
    taken = [(_seconds(plain, features.device), _seconds(other, features.device)) for _ in range(_ROUNDS)]
    ours, theirs = (1e3 * statistics.median(times) for times in zip(*taken, strict=True))
    kept: Literal["plain", "compiled"] = "compiled" if theirs < ours else "plain"
    choice = Choice(kept, ours, theirs, len(features), _name(features.device))
    return made if kept == "compiled" else network, choice


def _ready(run: Run, device: torch.device) -> Run:
    """Warm up; on a GPU, capture."""
    if device.type != "cuda":
        run()
        return run
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay


def _seconds(run: Run, device: torch.device) -> float:
    """Of one call."""
    if device.type != "cuda":
        before = time.perf_counter()
        run()
        return time.perf_counter() - before
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_CALLS):
            run()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / _CALLS


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _spelled(block0: _FoldedBlock, block1: _FoldedBlock, features: Tensor) -> Tensor:
    """What the network is in PyTorch's own operators, which a compiler sees through."""
    x, image = _block(block0, features.to(block0.conv0_weight.dtype), features[:, :3])
    return _block(block1, x, image)[1]


def _block(block: _FoldedBlock, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    if block.filter is None:
        x = conv2d(x, block.conv0_weight, padding=1)
    else:
        x = _smoothed(conv_transpose2d(x, block.conv0_weight, stride=2))
        image = _doubled(image)
    clamp = block.activation.clamp  # gains are folded
    x = _limited(leaky_relu(x + block.conv0_bias[:, None, None], 0.2), clamp)
    x = conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)  # type: ignore[arg-type]  # a FoldedConv
    x = _limited(leaky_relu(x, 0.2), clamp)
    rgb = conv2d(x, block.to_rgb_weight[:, :, None, None], block.to_rgb_bias)
    return x, image + _limited(rgb, clamp).to(image.dtype)


def _limited(x: Tensor, clamp: float | None) -> Tensor:
    return x if clamp is None else x.clamp(-clamp, clamp)


def _smoothed(x: Tensor) -> Tensor:
    """Filter with [1, 3, 3, 1] / 4 along both axes, beyond whose ends is a zero."""
    for axis, sides in ((2, (0, 0, 1, 1)), (3, (1, 1))):
        length = x.shape[axis] - 1
        first, second, third, fourth = (pad(x, sides).narrow(axis, tap, length) for tap in range(4))
        x = 0.25 * (first + fourth) + 0.75 * (second + third)
    return x


def _doubled(image: Tensor) -> Tensor:
    """Zeros inserted and filtered with [1, 3, 3, 1] / 4: bilinear, except that beyond the rim are zeros."""
    larger = interpolate(pad(image, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    return larger[:, :, 2:-2, 2:-2]
