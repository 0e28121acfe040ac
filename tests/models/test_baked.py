"""A baked avatar shows what the unbaked one shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from talk3d.cameras import rays, unpack
from talk3d.models import Conditions
from talk3d.models.baked import GRAPHS, _pencils
from talk3d.ops import border_planes
from talk3d.ops.pencil import pencil_rays

LIMIT = 1e-5  # relative L2 in float32: some rounding of a dozen layers


def drive(frames: int = 3, speech: int = 7) -> tuple[Tensor, Conditions]:
    """Speech features of some frames with their neighbours, and the head in them."""
    conditions = Conditions(torch.rand(frames), 10 * torch.randn(frames, 3), torch.rand(frames, 3, 2) - 0.5)
    return torch.randn(frames, 8, 16, speech), conditions


def cameras(avatar, frames: int = 3) -> Tensor:
    return torch.stack([avatar.identity.config.camera(yaw=10.0 * frame) for frame in range(frames)])


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("axes", ["zy", "yz", "original"])
def test_baked_is_unbaked(make_avatar, axes, border):
    avatar = make_avatar("aligned", axes=axes)
    features, conditions = drive()
    plain = avatar(features, conditions, cameras(avatar))
    baked = avatar.bake()
    if border:  # the layout that CUDA is given
        baked._rest = border_planes(avatar.identity.planes.detach(), axes)
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
    for some in (tokens[:, :1], tokens[:, :4]):  # one would serve all maps of the head, and nobody would know
        with pytest.raises(ValueError, match=f"made for 5 tokens, got {some.shape[1]}"):
            baked.frames(some, cameras(avatar))
    with pytest.raises(ValueError, match=r"tokens must have the shape \[batch, tokens, 64\], got \[3, 5, 63\]"):
        baked.frames(tokens[..., 1:], cameras(avatar))
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
def test_a_captured_frame_is_the_uncaptured_one(make_avatar, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")  # whose TF32 would hide what is wrong
    avatar = make_avatar("aligned")
    features, conditions = drive()
    expected = avatar(features, conditions, cameras(avatar)).image
    baked = avatar.bake(device="cuda")
    tokens = baked.tokens(features, conditions)
    for _ in range(2):
        found = baked.frames(tokens, cameras(avatar)).image
        baked.frames(-tokens, cameras(avatar))  # other inputs in the same buffers
    found = baked.frames(tokens, cameras(avatar)).image
    assert relative(found.cpu(), expected) <= 1e-4


class TestEightBits:
    def test_is_close_and_opt_in(self, make_avatar):
        avatar = make_avatar("aligned")
        for block in (avatar.identity.superresolution.block0, avatar.identity.superresolution.block1):
            block.to_rgb.weight.mul_(0.02)
        tokens, eyes = avatar.bake().tokens(*drive()), cameras(avatar)
        plain = avatar.bake(torch.bfloat16).frames(tokens, eyes).image
        found = avatar.bake(torch.bfloat16, superresolution="8bit").frames(tokens, eyes).image
        mse = (found - plain).square().mean()
        assert 0 < mse <= 4 / 10**4.5

    def test_is_refused_where_it_shows(self, make_avatar):
        avatar = make_avatar(None)
        for block in (avatar.identity.superresolution.block0, avatar.identity.superresolution.block1):
            block.to_rgb.weight.mul_(50)
        with pytest.raises(ValueError, match="below 45 dB it is not used"):
            avatar.bake(superresolution="8bit")
        with pytest.raises(ValueError, match=r"superresolution must be one of 'plain', .*'8bit', got '4bit'"):
            avatar.bake(superresolution="4bit")

    def test_a_device_without_it_is_a_sentence(self, make_avatar, monkeypatch):
        monkeypatch.setattr("talk3d.models.baked.why_not", lambda kind, device: f"{kind} is not there")
        with pytest.raises(ValueError, match="int8 is not there"):
            make_avatar(None).bake(superresolution="8bit")


class TestMemory:
    def test_a_batch_that_is_too_large_is_halved(self, make_avatar, monkeypatch):
        baked = make_avatar("aligned").bake()
        tokens, eyes = baked.tokens(*drive(5)), cameras(make_avatar("aligned"), 5)
        expected = baked.frames(tokens, eyes).image.clone()
        sizes, plain = [], type(baked)._frame

        def frame(self, tokens, pencils, side):
            sizes.append(len(pencils))
            if len(pencils) > 2:
                raise torch.OutOfMemoryError("no memory")
            return plain(self, tokens, pencils, side)

        monkeypatch.setattr(type(baked), "_frame", frame)
        with pytest.warns(UserWarning, match="no memory for 5 frames at a time: batches are halved"):
            found = baked.frames(tokens, eyes).image
        assert sizes == [5, 2, 2, 1]
        assert relative(found, expected) <= LIMIT
        baked.frames(tokens, eyes)  # said once, and not tried again
        assert sizes[4:] == [2, 2, 1]

    def test_one_frame_that_is_too_large_is_an_error(self, make_avatar, monkeypatch):
        baked = make_avatar(None).bake()

        def frame(*_):
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr(type(baked), "_frame", frame)
        with pytest.warns(UserWarning, match="halved"), pytest.raises(torch.OutOfMemoryError):
            baked.frames(None, cameras(make_avatar(None), 4))

    def test_the_graphs_that_were_used_last_are_kept(self, make_avatar, monkeypatch):
        captured = []

        class Graph:
            def __init__(self, baked, tokens, pencils, side):
                captured.append(len(pencils))

            def replay(self, tokens, pencils):
                return len(pencils)

        monkeypatch.setattr("talk3d.models.baked._Graph", Graph)
        baked = make_avatar("aligned").bake()
        for count in (1, 2, 3, 4, 1, 5, 1, 2):
            assert baked._captured(torch.zeros(count, 5, 64), torch.zeros(count, 4, 3), 16) == count
        assert captured == [1, 2, 3, 4, 5, 2]  # 2 was the one that waited longest when 5 came
        assert len(baked._graphs) == GRAPHS == 4


def test_rays_are_those_of_the_cameras(make_avatar):
    avatar = make_avatar(None)
    eyes = cameras(avatar)
    eyes[:, 17] = 0.1  # skew
    found = pencil_rays(_pencils(eyes), 7, avatar.identity.config.rendering).split((3, 3, 2), dim=2)
    for mine, theirs in zip(found, rays(*unpack(eyes), 7), strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_device_without_bfloat16_is_a_sentence(make_avatar, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(
        ValueError, match=r"cuda:1 has compute capability 7\.5 and bfloat16 needs 8\.0: bake with torch"
    ):
        make_avatar(None).bake(torch.bfloat16, device="cuda:1")
