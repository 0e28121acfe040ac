"""A baked avatar shows what the unbaked one shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from talk3d.models import Conditions

LIMIT = 1e-5  # relative L2 in float32: some rounding of a dozen layers


def drive(frames: int = 3, speech: int = 7) -> tuple[Tensor, Conditions]:
    """Speech features of some frames with their neighbours, and the head in them."""
    conditions = Conditions(torch.rand(frames), 10 * torch.randn(frames, 3), torch.rand(frames, 3, 2) - 0.5)
    return torch.randn(frames, 8, 16, speech), conditions


def cameras(avatar, frames: int = 3) -> Tensor:
    return torch.stack([avatar.identity.config.camera(yaw=10.0 * frame) for frame in range(frames)])


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("axes", ["zy", "yz", "original"])
def test_baked_is_unbaked(make_avatar, axes):
    avatar = make_avatar("aligned", axes=axes)
    features, conditions = drive()
    plain = avatar(features, conditions, cameras(avatar))
    baked = avatar.bake()
    found = baked.frames(baked.tokens(features, conditions), cameras(avatar))
    for name, actual, expected in (
        ("image", found.image, plain.image),
        *zip(plain.view._fields, found.view, plain.view, strict=True),
    ):
        assert actual.shape == expected.shape
        assert relative(actual, expected) <= LIMIT, name
    still = avatar.identity(cameras(avatar))
    assert relative(still.image, plain.image) > 0.01, "the driver must move something"


def test_batch_norms_are_folded(make_avatar):
    avatar = make_avatar("published")
    features, conditions = drive()
    baked = avatar.bake()
    found = baked.frames(baked.tokens(features, conditions), cameras(avatar))
    assert relative(found.image, avatar(features, conditions, cameras(avatar)).image) <= LIMIT


@pytest.mark.parametrize("semantics", ["aligned", "published"])
def test_half_precision_is_close(make_avatar, semantics):
    avatar = make_avatar(semantics)
    features, conditions = drive()
    plain = avatar(features, conditions, cameras(avatar)).image
    baked = avatar.bake(torch.bfloat16)
    found = baked.frames(baked.tokens(features, conditions), cameras(avatar))
    assert found.image.dtype == found.view.features.dtype == torch.float32
    peak = (plain.amax() - plain.amin()).item()
    mse = (found.image - plain).square().mean().item()
    assert 10 * torch.log10(torch.tensor(peak**2 / mse)) >= 50


def test_a_track_is_encoded_at_once(make_avatar):
    avatar = make_avatar("aligned")
    track = torch.randn(20, 16, 7)
    _, conditions = drive(20)
    baked = avatar.bake()
    tokens = baked.tokens(track, conditions)
    padded = torch.nn.functional.pad(track, (0, 0, 0, 0, 4, 3))
    windows = torch.stack([padded[frame : frame + 8] for frame in range(20)])
    torch.testing.assert_close(tokens, baked.tokens(windows, conditions), rtol=1e-5, atol=1e-5)


def test_a_frame_does_not_depend_on_its_batch_or_on_what_came_before(make_avatar):
    avatar = make_avatar("aligned")
    baked = avatar.bake()
    tokens = baked.tokens(*drive())
    together = baked.frames(tokens, cameras(avatar)).view.features
    for frame in (2, 0, 1):
        alone = baked.frames(tokens[frame : frame + 1], cameras(avatar)[frame : frame + 1]).view.features
        assert relative(alone[0], together[frame]) <= LIMIT


def test_the_same_frame_twice_is_the_same_bits(make_avatar):
    avatar = make_avatar("aligned")
    baked = avatar.bake()
    tokens = baked.tokens(*drive())
    first = baked.frames(tokens, cameras(avatar)).image.clone()
    assert torch.equal(baked.frames(tokens, cameras(avatar)).image, first)


def test_at_rest(make_avatar):
    avatar = make_avatar(None)
    baked = avatar.bake()
    found = baked.frames(None, cameras(avatar), resolution=12)
    assert found.view.features.shape == (3, 32, 12, 12)
    assert relative(found.image, avatar.identity(cameras(avatar), resolution=12).image) <= LIMIT


def test_later_changes_do_not_arrive(make_avatar):
    avatar = make_avatar("published")
    baked = avatar.bake()
    features, conditions = drive()
    before = baked.frames(baked.tokens(features, conditions), cameras(avatar)).image.clone()
    for tensor in avatar.state_dict().values():
        tensor.zero_()
    assert torch.equal(baked.frames(baked.tokens(features, conditions), cameras(avatar)).image, before)


def test_wrong_use_is_said(make_avatar):
    avatar = make_avatar("aligned")
    baked = avatar.bake()
    tokens = baked.tokens(*drive())
    with pytest.raises(ValueError, match=r"cameras must have the shape \[batch, 25\], got \[3, 16\]"):
        baked.frames(tokens, torch.zeros(3, 16))
    with pytest.raises(ValueError, match=r"tokens must be \[2, tokens, width\], got \[3, 5, 64\]"):
        baked.frames(tokens, cameras(avatar, 2))
    with pytest.raises(
        ValueError, match=r"dtype must be one of torch\.float32, torch\.bfloat16 on cpu, got torch\.float64"
    ):
        avatar.bake(torch.float64)
    still = make_avatar(None).bake()
    with pytest.raises(ValueError, match="has no driver"):
        still.tokens(*drive())
    with pytest.raises(ValueError, match="has no driver"):
        still.frames(tokens, cameras(avatar))


@pytest.mark.gpu
def test_a_captured_frame_is_the_uncaptured_one(make_avatar):
    avatar = make_avatar("aligned")
    features, conditions = drive()
    expected = avatar(features, conditions, cameras(avatar)).image
    baked = avatar.bake(device="cuda")
    tokens = baked.tokens(features, conditions)
    for _ in range(2):
        found = baked.frames(tokens, cameras(avatar)).image
        baked.frames(-tokens, cameras(avatar))  # other inputs in the same buffers
    found = baked.frames(tokens, cameras(avatar)).image
    assert relative(found.cpu(), expected) <= 1e-3  # convolutions in TF32
