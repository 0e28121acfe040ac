"""How many kernels a frame asks a GPU for, counted on a CPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from talk3d.bench.launches import launches
from talk3d.models.baked import _pencils
from talk3d.ops import Activation, conv3x3_bias_act
from talk3d.profiling import annotate

MOST = 60


def test_counts_what_launches():
    x, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)

    def run() -> None:
        y = x.view(2, 16).t()  # a view
        torch.empty_like(y)
        with annotate("a"):
            y + 1
            conv3x3_bias_act(x, weight, torch.ones(3), Activation())
            torch.nn.functional.conv2d(x.contiguous(memory_format=torch.channels_last), weight, torch.ones(3))

    found = launches(run)
    assert found["other", "add"] == found["other", "view"] == 0
    assert found["a", "add"] == 1
    assert found["a", "conv3x3_bias_act"] == 2
    assert found["a", "convolution"] == 3  # the weights are rearranged, and the bias is added


@pytest.mark.parametrize("limits", ["fixed", "auto"])
@pytest.mark.parametrize(("semantics", "expected"), [("published", 40), ("aligned", 56)])
def test_a_baked_frame_takes_few_launches(make_avatar, semantics, expected, limits):
    """What a captured graph holds. Of the published sizes it is one less: they need no resampling of the features."""
    avatar = make_avatar(semantics)
    if limits == "auto":  # as avatars that are fitted to a clip alone have them
        scene = avatar.identity.config
        avatar.identity.config = replace(scene, rendering=replace(scene.rendering, near="auto", far="auto"))
    baked = avatar.bake(torch.bfloat16)
    camera = avatar.identity.config.camera(yaw=10.0)[None]
    inputs = torch.randn(1, 5, 64), _pencils(camera), 16
    baked._frame(*inputs)  # what is made once
    found = launches(lambda: baked._frame(*inputs))
    by_range: Counter[str] = Counter()
    for (name, _), kernels in found.items():
        by_range[name] += kernels
    print(semantics, sum(by_range.values()), dict(by_range))
    assert sum(by_range.values()) == expected <= MOST
