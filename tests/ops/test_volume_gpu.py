"""``render_rays`` and ``sample_triplane`` on a GPU: graphs, streams, devices, sizes; and what is said without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from talk3d import native
from talk3d.ops import RenderOptions, pack_planes, render_rays, sample_triplane
from talk3d.ops.registry import operators
from talk3d.testing import head_planes

OPTIONS = RenderOptions(axes="zy", near=0.7, far=1.9, coarse=8, fine=8, box_warp=1.1)
TYPES = [torch.float32, torch.float16]


def make(rays: int, device: str, dtype: torch.dtype = torch.float32, size: int = 16) -> tuple[Tensor, ...]:
    """Planes that ask for a gradient, the decoder, origins and directions."""
    planes, decoder = head_planes(1, size)
    origins = torch.nn.functional.normalize(torch.randn(1, rays, 3), dim=2) * 1.3
    directions = torch.nn.functional.normalize(0.3 * torch.randn(1, rays, 3) - origins, dim=2)
    others = (part.to(device) for part in (*decoder, origins, directions))
    return planes.to(device, dtype).requires_grad_(), *others


def render(planes: Tensor, *others: Tensor, impl: str = "cuda") -> tuple[Tensor, Tensor]:
    """Features, and the gradient of the planes to a sum that weighs them."""
    w0, b0, w1, b1, origins, directions = others
    seen = render_rays(planes, (w0, b0, w1, b1), origins, directions, OPTIONS, impl=impl)
    weights = torch.linspace(-1, 1, seen.features.numel(), device=planes.device).view_as(seen.features)
    gradient = torch.autograd.grad((seen.features * weights).sum(), planes)[0]
    return seen.features.detach(), gradient  # what autograd kept of a stream or a graph must not outlive it


def close(mine: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    error = torch.linalg.vector_norm(mine.double() - theirs.double())
    assert error <= tolerance * torch.linalg.vector_norm(theirs.double())


def captured(run: Callable[[], tuple[Tensor, ...]]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """Warm up on another stream, then capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found


@pytest.mark.gpu
@pytest.mark.parametrize("in_order", [False, True], ids=["atomic", "in order"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_graph_sees_inputs_that_change(dtype, in_order):
    torch.use_deterministic_algorithms(in_order)
    inputs = make(100, "cuda", dtype)
    graph, found = captured(lambda: render(*inputs))
    with torch.no_grad():
        inputs[0].mul_(0.5)
        inputs[-2].mul_(1.05)
    graph.replay()
    for mine, theirs in zip(found, render(*inputs), strict=True):
        close(mine, theirs, dtype)


@pytest.mark.gpu
def test_a_graph_of_samples_sees_inputs_that_change():
    planes, points = make(4, "cuda")[0], torch.rand(1, 50, 3, device="cuda")
    packed = pack_planes(planes.detach(), "zy")
    graph, (found,) = captured(lambda: (sample_triplane(packed, points, box_warp=1.1, impl="cuda"),))
    points.mul_(-0.7)
    graph.replay()
    close(found, sample_triplane(packed, points, box_warp=1.1, impl="reference"), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("rays", "size"), [(1, 16), (15, 16), (65, 13), (100, 100), (1024, 57)])
def test_any_number_of_rays_and_texels(rays, size, dtype):
    inputs = make(rays, "cuda", dtype, size)
    for mine, theirs in zip(render(*inputs), render(*inputs, impl="reference"), strict=True):
        close(mine, theirs, dtype)


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    inputs = make(64, "cuda")
    expected = render(*inputs)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # clocks: who does not wait for it reads zeros
        later = torch.zeros_like(inputs[0]).copy_(inputs[0].detach()).requires_grad_()
        found = render(later, *inputs[1:])
    torch.cuda.current_stream().wait_stream(stream)
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs, torch.float32)


@pytest.mark.gpu
def test_runs_on_the_device_of_its_inputs():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = make(64, "cuda:1")
    with torch.cuda.device(0):
        assert render(*inputs)[0].device == torch.device("cuda:1")


@pytest.mark.gpu
def test_offsets_beyond_31_bits():
    """Planes of 4.8 GB, of which only the last set is not zero."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GB of memory")
    planes, *decoder, origins, directions = make(4, "cuda", torch.float16, 1024)
    many = torch.zeros(24, 3, 32, 1024, 1024, dtype=torch.float16, device="cuda")
    many[-1] = planes.detach()[0]
    assert many.numel() > 2**31
    seen = render_rays(many, tuple(decoder), *(part.expand(24, -1, -1) for part in (origins, directions)), OPTIONS)
    alone = render_rays(planes.detach(), tuple(decoder), origins, directions, OPTIONS)
    close(seen.features[-1:], alone.features, torch.float16)


def test_tensors_on_different_devices_are_refused():
    planes, w0, b0, w1, b1, origins, directions = make(4, "cpu")
    with pytest.raises(ValueError, match="must have one type and one device"):
        render_rays(planes.to("meta"), (w0, b0, w1, b1), origins, directions, OPTIONS)
    with pytest.raises(ValueError, match=r"w0 \(torch.float32, meta\) must have the type and device of origins"):
        render_rays(planes, (w0.to("meta"), b0, w1, b1), origins, directions, OPTIONS)


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    """A tensor that says it is on a GPU, which this machine need not have."""

    class OnGpu(Tensor):
        is_cuda = True

    monkeypatch.setattr(native, "available", lambda name: None)
    monkeypatch.setattr("talk3d.ops.registry._device", lambda arguments: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    planes = torch.zeros(1, 3, 8, 8, 32).as_subclass(OnGpu)
    decoder, rays = torch.zeros(64 * 33 + 33 * 65), torch.zeros(1, 4, 8)
    numbers = [2 / 1.1, 64.0, 7.0, 5.0, 0.0, 0.0, 1.0, 0.0]
    reason = operators()["render_rays"].why_not("cuda", planes, decoder, rays, None, None, [0, 1, 0, 2, 2, 1], numbers)
    assert reason == "it needs compute capability 8.0, and this GPU has 7.5"
