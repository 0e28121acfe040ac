"""Where samples of ``render_rays`` lie when the box says how far rays go."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from talk3d.ops import RenderOptions, render_rays
from talk3d.ops.volume import _limits

OPTIONS = RenderOptions(axes="zy", near="auto", far="auto", coarse=7, fine=0)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_auto_limits_keep_all_samples_within_the_box(impl, jitter):
    """Where planes are one and nothing is dense but what lies beyond them, rays through the box see nothing."""
    planes = torch.ones(1, 3, 32, 8, 8)
    planes[..., [0, -1], :] = planes[..., :, [0, -1]] = 2  # which makes up for the half texel in which planes fade
    hidden, none = torch.zeros(64, 32), torch.zeros(64)
    hidden[0, 0] = 40.0
    output = torch.zeros(33, 64)
    output[0, 0] = -1.0
    decoder = (hidden, none, output, torch.cat((torch.tensor([20.0]), torch.zeros(32))))
    turn = torch.linspace(-0.1, 0.1, 5)
    directions = torch.nn.functional.normalize(torch.stack((turn, 0.7 * turn, -torch.ones(5)), 1), dim=1)[None]
    origins = torch.tensor([0.0, 0.05, 2.7]).expand(1, 5, 3)
    seen = render_rays(
        planes, decoder, origins, directions, OPTIONS, jitter=torch.full((1, 5, OPTIONS.coarse), jitter), impl=impl
    )
    torch.testing.assert_close(seen.weight, torch.zeros_like(seen.weight))


def test_limits_that_are_numbers_come_from_no_host():
    """A copy from the host waits for a GPU, and no CUDA graph can capture it."""
    copies = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                copies.append(args)
            return function(*args, **(kwargs or {}))

    with FakeTensorMode():  # needs no GPU
        directions = torch.zeros(1, 5, 3, device="cuda")
        with Watch():
            found = _limits(directions, directions, RenderOptions(axes="zy", near=2.25, far=3.3))
    assert found.shape == (1, 5, 2)
    assert found.is_cuda
    assert not copies
