"""Under autocast, which a GPU trains with, geometry and statistics keep their digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from talk3d import cameras as cams
from talk3d.models.scene import View
from talk3d.training import losses
from talk3d.training.cameras import CameraTrack, rotation
from talk3d.training.pairs import Pair
from talk3d.training.perceptual import Perceptual
from talk3d.training.precision import full_precision
from talk3d.training.prior import _along, correction
from talk3d.training.targets import MOUTH
from talk3d.training.tracking import align
from talk3d.training.tuning import _length

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

    def differ(loss: Callable[..., Tensor]) -> Callable[[str], Tensor]:
        return lambda device: loss(*pictures(device))

    def within(device: str) -> Tensor:
        found, target = pictures(device)
        return Pair(found.requires_grad_(), target, torch.rand(2, 4, 32, 32, device=device)).within(MOUTH)

    def aligned(device: str) -> Tensor:
        view = View(pictures(device)[0], *(torch.full((2, 1, 32, 32), x, device=device) for x in (2.6, 1.0)))
        cameras, index = CameraTrack(ORBIT[:2].to(device)), torch.arange(2, device=device)
        with torch.no_grad():
            return align(pictures(device)[1], view, cameras, index, view.weight > 0.5)

    def codes(device: str) -> Tensor:
        return _along(torch.randn(64, 64, device=device), 1e-3 * torch.randn(64, 3, device=device))

    def planes(device: str) -> tuple[Tensor, Tensor]:
        return torch.randn(2, 3, 4, 8, 8, device=device), torch.randn(1, 3, 4, 8, 8, device=device)

    return {
        "l1": differ(losses.l1),
        "edges": differ(losses.edges),
        "temporal": differ(lambda one, two: losses.temporal(one[None], two[None])),
        "region": within,
        "perceptual": differ(lambda one, two: Perceptual()(one, two)),
        "delta": lambda device: losses.delta_size(*planes(device)),
        "correction": lambda device: correction(
            *(0.1 * torch.rand(3, 3, device=device) for _ in range(2)), torch.ones(3, device=device)
        ),
        "codes": codes,
        "distance of codes": lambda device: _length(
            torch.randn(3, 64, device=device), torch.randn(64, 64, device=device)
        ),
        "alignment": aligned,
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


@pytest.mark.parametrize(
    "name", sorted(cases().keys() - {"alignment"})
)  # which pins memory, for which a GPU must be there
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
