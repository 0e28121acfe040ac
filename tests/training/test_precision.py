"""Under autocast, which a GPU trains with, geometry and statistics keep their digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from talk3d import cameras as cams
from talk3d.training import losses
from talk3d.training.cameras import CameraTrack, rotation
from talk3d.training.precision import full_precision

ORBIT = cams.orbit(frames=5)


def cases() -> dict[str, Callable[[str], Tensor]]:
    def pictures(device: str) -> tuple[Tensor, Tensor]:
        first = 0.5 + 0.1 * torch.rand(2, 3, 32, 32, device=device)
        return first, first + 0.01 * torch.rand_like(first)

    def track(device: str) -> Tensor:
        cameras = CameraTrack(ORBIT.to(device))
        return cameras.corrected(torch.arange(5, device=device), 0.01 * torch.randn(5, 6, device=device))

    def points(device: str) -> Tensor:
        return 0.3 * torch.rand(5, 20, 3, device=device)

    def warped(device: str) -> Tensor:
        cameras = ORBIT[:2].to(device)
        rays = cams.rays(*cams.unpack(cameras), 32)
        return losses.warp(pictures(device)[0], torch.full((2, 1, 32, 32), 2.6, device=device), rays, cameras)[0]

    return {
        "ms_ssim": lambda device: losses.ms_ssim(*pictures(device)),
        "matte": lambda device: losses.matte(*(part[:, :1] for part in pictures(device))),
        "project": lambda device: losses.project(points(device), ORBIT[:5].to(device)),
        "landmarks": lambda device: losses.landmarks(points(device), ORBIT[:5].to(device), points(device)[..., :2]),
        "warp": warped,
        "cameras": track,
        "rotation": lambda device: rotation(0.1 * torch.rand(5, 3, device=device)),
    }


@pytest.mark.parametrize("name", cases())
def test_a_number_is_the_same_under_autocast(name):
    case = cases()[name]
    torch.manual_seed(0)
    expected = case("cpu")
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = case("cpu")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture
def autocast_on_a_gpu() -> Iterator[None]:
    """Its rules; on tensors that have no data, which need no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", torch.float16)


@pytest.mark.parametrize("name", cases())
def test_autocast_on_a_gpu_takes_it(name, autocast_on_a_gpu):
    """There are functions that it refuses, binary cross entropy for one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = cases()[name]("cuda")
    assert found.is_cuda
    assert found.dtype == torch.float32


def test_halves_are_widened():
    seen = []
    full_precision(lambda *given: seen.extend(given))(torch.ones(1, dtype=torch.bfloat16), torch.ones(1).double(), 3)
    assert [getattr(value, "dtype", value) for value in seen] == [torch.float32, torch.float64, 3]
