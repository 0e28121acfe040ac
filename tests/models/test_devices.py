"""Several devices: an avatar renders where it was baked, whatever the current device and wherever its inputs are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from talk3d.ops import Activation, Resampling, bias_act, resample2d_bias_act
from talk3d.ops.registry import operators

GPUS = torch.cuda.device_count()
several = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, and torch finds {GPUS}")


def drive(baked, frames: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(frames, 5, 64), torch.stack([baked.config.camera(yaw=9.0 * k) for k in range(frames)])


def relative(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return ((actual - expected).norm() / expected.norm()).item()


def test_tensors_on_two_devices_are_a_sentence():
    """A device that has shapes and no data stands for another one."""
    x, bias = torch.zeros(1, 2, 3, 3), torch.zeros(2, device="meta")
    with pytest.raises(ValueError, match=r"talk3d::bias_act: tensors must be on one device, got cpu, meta"):
        operators()["bias_act"](x, bias, 0.2, 1.0, None)
    with pytest.raises(ValueError, match="on one device, got meta, cpu"):
        operators()["bias_act"](x.to("meta"), torch.zeros(2), 0.2, 1.0, None)
    with pytest.raises(ValueError, match="on one device, got cpu, meta"):  # in a list, too
        operators()["render_rays_backward"]._same_device([[x, None, x.to("meta")], [0, 1]])
    assert operators()["bias_act"](x.to("meta"), bias, 0.2, 1.0, None).device.type == "meta"


def test_a_device_keeps_its_number(make_avatar, monkeypatch):
    """What is the current device may change between baking and rendering."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr("talk3d.models.baked.copy.deepcopy", lambda identity: identity)
    found = []

    class Stop(Exception):
        pass

    def to(self, device, dtype):
        found.append(device)
        raise Stop

    avatar = make_avatar(None)
    monkeypatch.setattr(type(avatar.identity), "to", to)
    for asked in ("cuda", "cuda:0", "cpu"):
        with pytest.raises(Stop):
            avatar.bake(device=asked)
    assert found == [torch.device("cuda:1"), torch.device("cuda:0"), torch.device("cpu")]


def test_a_device_that_is_not_there_is_a_sentence(make_avatar, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="there is no cuda:2: torch finds 2 GPUs, from cuda:0 on"):
        make_avatar(None).bake(device="cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="there is no GPU for the device 'cuda'"):
        make_avatar(None).bake(device="cuda")


def test_inputs_without_data_are_a_sentence(make_avatar):
    baked = make_avatar("aligned").bake()
    tokens, eyes = drive(baked)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor; no data"):
        baked.frames(tokens.to("meta"), eyes)


@pytest.mark.gpu
@several
class TestTwoGpus:
    @pytest.mark.parametrize("graph", [False, True])
    def test_an_avatar_beside_the_current_device(self, make_avatar, graph):
        avatar = make_avatar("aligned")
        here = avatar.bake()
        tokens, eyes = drive(here)
        expected = here.frames(tokens, eyes).image
        with torch.cuda.device(0):
            there = avatar.bake(device="cuda:1")
            for place in ("cpu", "cuda:0", "cuda:1"):
                found = there.frames(tokens.to(place), eyes.to(place), graph=graph).image
                assert found.device == torch.device("cuda:1")
                assert relative(found, expected) <= 1e-3  # convolutions in TF32
            assert torch.cuda.current_device() == 0

    def test_two_avatars_in_turns(self, make_avatar):
        avatars = [make_avatar("aligned") for _ in range(2)]
        plain = [avatar.bake() for avatar in avatars]
        baked = [avatar.bake(device=f"cuda:{index}") for index, avatar in enumerate(avatars)]
        for count in (3, 1, 3):
            inputs = drive(plain[0], count)
            for mine, theirs in zip(plain, baked, strict=True):
                expected, found = mine.frames(*inputs).image, theirs.frames(*inputs).image
                assert found.device == theirs.device
                assert relative(found, expected) <= 1e-3

    def test_cuda_is_what_was_current_at_bake(self, make_avatar):
        with torch.cuda.device(1):
            baked = make_avatar("aligned").bake(device="cuda")
        with torch.cuda.device(0):
            assert baked.frames(*drive(baked)).image.device == torch.device("cuda:1")

    def test_pictures_wait_for_their_own_device(self, make_avatar):
        pytest.importorskip("av", reason="videos need PyAV")
        from talk3d.rendering.cameras import camera_path
        from talk3d.rendering.frames import Renderer

        avatar = make_avatar("aligned", speech=80)
        speech = np.random.default_rng(0).normal(size=(6, 16, 80)).astype(np.float32)
        found = []
        with torch.cuda.device(0):
            for device in ("cuda:0", "cuda:1"):
                baked = avatar.bake(device=device)
                render = Renderer(baked, camera_path("fixed:0,0", baked.config), batch=2)
                found.append(np.stack(list(render(speech, range(6)))))
        assert np.abs(found[0].astype(int) - found[1]).max() <= 1

    @pytest.mark.parametrize("impl", ["triton", "torch"])
    def test_operators_beside_the_current_device(self, impl):
        x, filter, bias = torch.randn(1, 8, 12, 12), torch.rand(4, 4), torch.randn(8)
        with torch.cuda.device(0):
            for run in (
                lambda x, filter, bias, impl: bias_act(x, bias, "lrelu", impl=impl),
                lambda x, filter, bias, impl: resample2d_bias_act(
                    x, filter, bias, Resampling(), Activation(), impl=impl
                ),
            ):
                expected = run(x, filter, bias, "reference")
                found = run(*(each.to("cuda:1") for each in (x, filter, bias)), impl)
                assert relative(found, expected) <= 1e-5
