"""Gradients of texels in CUDA are added up over neighbouring rays before they go to memory, and come out the same."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from talk3d.ops import AXES
from talk3d.reference import volume
from talk3d.testing import head_planes

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc"))

from emulator import Emulator

SIZE, BOX = 48, 1.1
SETTINGS = [2 / BOX, 64.0, 8.0, 9.0, 0.0, 0.0, 1.0, 0.0]  # of talk3d.ops.volume._Settings: 8 and 9 samples
SAMPLES = 17
FOR_A_SAMPLE = 12 * 4 * 2  # tap by tap: of four threads, twice 16 bytes


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    if reason := Emulator.why_not():
        pytest.skip(reason)
    return Emulator(tmp_path_factory.mktemp("emulator"))


def picture(side: int, texels_apart: float, *, turned: float = 0.0) -> Tensor:
    """Rays [1, side * side, 8] of a camera at 2.7 in front of the box, so many texels from one to the next."""
    at = (torch.arange(side) + 0.5 - side / 2) * texels_apart * BOX / SIZE
    y, x = torch.meshgrid(at, at, indexing="ij")
    directions = torch.stack((x, y, torch.full_like(x, -2.7)), dim=2).view(-1, 3)
    turn = torch.tensor([[math.cos(turned), 0.0, math.sin(turned)], [0.0, 1.0, 0.0]])
    turn = torch.stack((turn[0], turn[1], torch.linalg.cross(turn[0], turn[1])))
    directions = torch.nn.functional.normalize(directions, dim=1) @ turn
    origins = (torch.tensor([0.0, 0.0, 2.7]) @ turn).expand_as(directions)
    limits = torch.tensor([2.3, 3.1]).expand(len(directions), 2)
    return torch.cat((origins, directions, limits), dim=1)[None]


def example(rays: Tensor, axes: str = "zy", dtype: torch.dtype = torch.float16) -> tuple[list, list[Tensor]]:
    """What the backward is given but for what it should find, and the planes' gradient in float64 and in `dtype`."""
    planes, decoder = head_planes(1, SIZE)
    texels = planes.permute(0, 1, 3, 4, 2).contiguous().to(dtype)
    saved = [texels, torch.cat([part.flatten() for part in decoder]), rays.contiguous()]
    pairs = list(AXES[axes])
    rendered = volume.forward(*saved, None, None, pairs, SETTINGS)
    saved += [found.float().contiguous() for found in rendered[3:]]
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(*rays.shape[:2], *shape, generator=generator) for shape in ((32,), (), ())]
    # depth is a quotient by the weight, of which halves may have no digits
    grads[1] *= rendered[2].float().where(rendered[2] > 1e-2, 0)
    found = []
    for kind in (torch.float64, dtype):
        mine = [[tensor.to(kind) for tensor in tensors] for tensors in (grads, saved)]
        found.append(volume.backward(*mine, pairs, SETTINGS, [True, False, False])[0].double())
    return [grads, saved, pairs, SETTINGS], found


def rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


FRONT, TURNED = picture(8, 1.25), picture(8, 1.25, turned=0.4)
CASES = {
    # how many times fewer additions than tap by tap: at least, at most
    "picture": (FRONT, "zy", 2.5, 5.0),
    "two planes": (FRONT, "original", 2.5, 5.0),
    "turned": (TURNED, "yz", 2.0, 5.0),
    "two cameras": (torch.cat((FRONT, TURNED)), "zy", 2.2, 5.0),
    "four blocks": (picture(16, 1.0), "zy", 2.5, 5.0),
    "a row": (FRONT[:, 5:42], "zy", 1.2, 5.0),
    "one ray": (FRONT[:, 27:28], "zy", 0.2, 5.0),
    "some apart": (picture(8, 3.0), "zy", 0.8, 1.6),  # boxes that are larger than it pays for
    "all apart": (picture(8, 6.0), "zy", 0.9, 1.5),
}


@pytest.mark.parametrize("in_order", [False, True], ids=["atomic", "in order"])
@pytest.mark.parametrize("case", CASES)
def test_neighbours_are_added_up_first(emulator, case, in_order):
    rays, axes, least, most = CASES[case]
    arguments, (exact, plain) = example(rays, axes)
    emulator.count_additions()
    found = emulator.backward(*arguments, [True, False, False, in_order])[0].double()
    slack = 4 * torch.finfo(torch.float16).eps * exact.abs().max()
    known = plain.isfinite()  # opaque intervals let nothing through that halves could divide by
    assert known.double().mean() > 0.7
    assert rms((found - exact)[known]) <= 2 * rms((plain - exact)[known]) + slack
    assert rms(found - exact) <= 5e-3 * rms(exact)
    if not in_order:
        planes = 2 if axes == "original" else 3
        tap_by_tap = rays.shape[0] * rays.shape[1] * SAMPLES * FOR_A_SAMPLE * planes / 3
        assert least <= tap_by_tap / emulator.count_additions() <= most


def test_what_is_not_finite_harms_no_neighbour(emulator):
    (grads, saved, *rest), _ = example(FRONT)
    clean = emulator.backward(grads, saved, *rest, [True, False, False])[0]
    grads[0][0, 27, 3] = math.nan
    found = emulator.backward(grads, saved, *rest, [True, False, False])[0]
    alone = (
        [part[:, 27:28].contiguous() for part in grads],
        saved[:2] + [part[:, 27:28].contiguous() for part in saved[2:]],
    )
    hit = emulator.backward(*alone, *rest, [True, False, False])[0].isnan()
    assert hit.any()
    assert torch.equal(found.isnan(), hit)
    others = ~hit
    assert rms(found[others] - clean[others]) <= 2e-3 * rms(clean)


def test_a_neighbour_may_have_a_far_larger_gradient(emulator):
    """Where one scale is for all, small gradients have the digits of the largest."""
    (grads, saved, *rest), _ = example(FRONT)
    grads[0][0, :32] *= 1e4
    mine = [[tensor.double() for tensor in tensors] for tensors in (grads, saved)]
    exact = volume.backward(*mine, *rest, [True, False, False])[0]
    found = emulator.backward(grads, saved, *rest, [True, False, False])[0].double()
    assert rms(found - exact) <= 5e-3 * rms(exact)
