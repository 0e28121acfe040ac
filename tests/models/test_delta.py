"""The delta U-Net: what it caches and folds changes nothing, and an aligned one starts gently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from talk3d.models.delta import DeltaUNet, IdentityFeatures, fold_batch_norm
from talk3d.models.transformer import position_table
from talk3d.ops import AXES
from talk3d.ops.registry import operators, use

SEMANTICS = ("aligned", "published")


@pytest.fixture(params=SEMANTICS)
def semantics(request: pytest.FixtureRequest) -> str:
    return request.param


def make(semantics: str, *, lively: bool = True, dtype: torch.dtype = torch.float64, **options: Any) -> DeltaUNet:
    """A small network; a lively one has no zeros, nor norms and statistics that do nothing."""
    unet = DeltaUNet(**{"axes": "zy", "semantics": semantics, "channels": 4, "resolution": 16} | options).to(dtype)
    if lively:
        for name, tensor in unet.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor) * 0.2
                tensor.copy_(tensor + (noise.abs() if name.endswith("running_var") else noise))
    return unet


def inputs(unet: DeltaUNet, batch: int = 3, tokens: int = 5) -> tuple[Tensor, Tensor]:
    """Tokens, and the planes of one identity."""
    dtype = unet.down[0].conv0.weight.dtype
    shape = 1, 3, unet.channels, unet.resolution, unet.resolution
    return torch.randn(batch, tokens, unet.condition, dtype=dtype), torch.randn(shape, dtype=dtype)


class TestIdentity:
    @pytest.mark.parametrize("training", [True, False])
    def test_cached_is_uncached(self, semantics, training):
        unet = make(semantics).train(training)
        tokens, planes = inputs(unet)
        torch.testing.assert_close(unet(tokens, unet.encode(planes)), unet(tokens, planes), rtol=0, atol=0)

    def test_a_cache_serves_many_frames(self, semantics):
        unet = make(semantics).eval()
        tokens, planes = inputs(unet)
        features = unet.encode(planes)
        frames = torch.cat([unet(token[None], features) for token in tokens])
        torch.testing.assert_close(frames, unet(tokens, planes), rtol=1e-10, atol=1e-10)

    def test_once_per_step_is_once_per_sample(self, semantics):
        outcomes = []
        for shared in (True, False):
            torch.manual_seed(0)
            unet = make(semantics).train()
            tokens, planes = inputs(unet)
            tokens.requires_grad_()
            planes.requires_grad_()
            delta = unet(tokens, planes if shared else planes.repeat(3, 1, 1, 1, 1))
            delta.backward(torch.randn(delta.shape, dtype=delta.dtype))
            gradients = [tensor.grad for tensor in (tokens, planes, *unet.parameters())]
            outcomes.append((delta, gradients, dict(unet.named_buffers())))
        torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-8, atol=1e-9)

    def test_expanded_planes_are_encoded_once(self, semantics, monkeypatch):
        unet = make(semantics)
        tokens, planes = inputs(unet)
        seen = []
        encode = unet.encode
        monkeypatch.setattr(unet, "encode", lambda planes, copies: seen.append((len(planes), copies)) or encode(planes))
        unet(tokens, planes.expand(3, -1, -1, -1, -1))
        unet(tokens, planes.repeat(3, 1, 1, 1, 1))
        assert seen == [(1, 3), (3, 1)]

    def test_many_identities(self, semantics):
        unet = make(semantics).eval()
        tokens, planes = inputs(unet)
        planes = torch.cat([planes, 3 * planes.flip(3), planes.flip(4)])
        alone = [unet(tokens[index : index + 1], planes[index : index + 1]) for index in range(3)]
        torch.testing.assert_close(unet(tokens, planes), torch.cat(alone), rtol=1e-10, atol=1e-10)


class TestBatchNorm:
    @pytest.mark.parametrize("copies", [1, 3])
    def test_tracks_as_torch_does(self, copies):
        norm = make("published").down[0].norm0.train()
        theirs = [nn.BatchNorm2d(8).double().train() for _ in range(3)]
        for plane, layer in enumerate(theirs):
            layer.load_state_dict({name: tensor[plane] for name, tensor in norm.state_dict().items()})
        parts = tuple(torch.randn(2, 8, 3, 3, dtype=torch.float64) for _ in range(3))
        found = norm(parts, copies)
        for plane, (layer, part) in enumerate(zip(theirs, parts, strict=True)):
            expected = layer(part.repeat(copies, 1, 1, 1))[:2]
            torch.testing.assert_close(found[plane], expected)
            ours = {name: tensor[plane] for name, tensor in norm.state_dict().items()}
            torch.testing.assert_close(ours, dict(layer.state_dict()))

    def test_folded_is_the_same(self):
        unet = make("published").eval()
        tokens, planes = inputs(unet)
        expected = unet(tokens, planes)
        folded = fold_batch_norm(unet)
        torch.testing.assert_close(folded(tokens, planes), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(unet(tokens, planes), expected, rtol=0, atol=0)
        assert not any("norm" in name for name in folded.state_dict() if name.startswith(("down", "up")))

    def test_group_norms_stay(self):
        unet = make("aligned")
        tokens, planes = inputs(unet)
        torch.testing.assert_close(fold_batch_norm(unet)(tokens, planes), unet(tokens, planes), rtol=0, atol=0)


class TestAligned:
    def test_a_frame_does_not_depend_on_its_batch(self):
        unet = make("aligned").train()
        tokens, planes = inputs(unet)
        torch.testing.assert_close(unet(tokens[:1], planes), unet(tokens, planes)[:1], rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize(("pull", "scale"), [("up", 0.1), ("noise", 1.0), ("smooth", 10.0)])
    def test_the_first_delta_is_zero_and_the_second_small(self, pull, scale):
        unet = DeltaUNet(axes="zy", resolution=16)
        tokens, planes = inputs(unet, batch=2)
        planes = scale * planes
        optimizer = torch.optim.Adam(unet.parameters(), lr=5e-4)
        first = unet(tokens, planes)
        assert not first.any()
        smooth = nn.functional.interpolate(torch.randn(6, 32, 4, 4), scale_factor=4).view_as(first)
        first.backward({"up": torch.ones_like(first), "noise": torch.randn_like(first), "smooth": smooth}[pull])
        optimizer.step()
        second = unet(tokens, planes)
        assert 0 < second.std() < 0.01 * planes.std()

    def test_it_learns_what_the_tokens_say(self):
        unet = make("aligned", lively=False, dtype=torch.float32)
        tokens, planes = inputs(unet, batch=2)
        target = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1, 1)
        optimizer = torch.optim.Adam(unet.parameters(), lr=1e-2)
        errors = []
        for _ in range(15):
            error = (unet(tokens, planes) - target).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            errors.append(error.item())
        assert errors[-1] < 0.5 * errors[0]

    def test_the_delta_is_negative_too(self):
        tokens, planes = inputs(unet := make("aligned"))
        delta = unet(tokens, planes)
        assert delta.min() < -0.5 * delta.max()

    @pytest.mark.parametrize(("axes", "pairs"), AXES.items())
    def test_the_planes_meet_along_their_true_axes(self, axes, pairs):
        unet = make("aligned", axes=axes)
        profile = torch.randn(unet.channels, unet.resolution, dtype=torch.float64)
        planes = torch.zeros_like(inputs(unet)[1])
        for plane, (column, row) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            if 0 in (column, row):
                planes[:, plane] = profile[:, None] if column == 0 else profile[..., None]
        # what varies along x alone is received as such, but for the rim, which sees the padding
        received = unet.down[0].conv0(planes)[..., 1:-1, 1:-1]
        for plane, (column, row) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            for coordinate, axis in ((row, 2), (column, 3)):
                varies = received[:, plane].diff(dim=axis).abs().max() > 1e-6
                assert varies == (coordinate == 0)


class TestPublished:
    def test_the_first_delta_is_zero(self):
        unet = make("published", lively=False)
        assert not unet(*inputs(unet)).any()

    def test_other_planes_are_refused(self):
        with pytest.raises(
            ValueError, match="published weights were trained for planes of the convention 'zy', got 'yz'"
        ):
            DeltaUNet(axes="yz", semantics="published")


class TestMaps:
    def test_shape_and_sum(self, semantics):
        unet = make(semantics, resolution=32)
        maps = unet.attention_maps(*inputs(unet, batch=2, tokens=4))
        assert maps.shape == (2, 2, 4, 3, 4, 4)
        torch.testing.assert_close(maps.sum(2), torch.ones(2, 2, 3, 4, 4, dtype=maps.dtype))

    def test_a_map_is_where_a_token_is_looked_at(self):
        unet = make("aligned")
        attention = unet.transformer.blocks[0].cross_attention
        with torch.no_grad():
            # the second token is asked for by what is positive in channel 0, and only by that
            attention.query.zero_()[:, 0] = 50
            attention.norm.fill_(1)
            attention.norm_bias.zero_()
            attention.key.fill_(0)[:, 0] = 1
        tokens, planes = inputs(unet, batch=1, tokens=2)
        tokens[..., 0] = torch.tensor([0.0, 1.0])
        texels = unet.encode(planes).texels
        positive = nn.functional.layer_norm(texels, texels.shape[3:])[..., 0] > 0
        maps = unet.attention_maps(tokens, planes)[0, 0]  # of the first block
        assert positive.any()
        assert torch.equal(maps[1].flatten(1) > 0.5, positive[0])


class TestPositionTable:
    def test_by_hand(self):
        # two channels a coordinate; 4 texels, so that the missing coordinate is the mean of 1 and 2
        table = position_table(6, 4, ((1, 0), (2, 0), (1, 2))).unflatten(0, (4, 4))
        place, middle = torch.arange(4.0), torch.tensor([1.0, 2.0])
        row, column = place[:, None].expand(4, 4), place.expand(4, 4)
        waves = {
            "row": [row.sin(), row.cos()],
            "column": [column.sin(), column.cos()],
            "none": [middle.sin().mean().expand(4, 4), middle.cos().mean().expand(4, 4)],
        }
        for plane, order in enumerate(
            [("column", "row", "none"), ("column", "none", "row"), ("none", "row", "column")]
        ):
            expected = torch.stack([wave for name in order for wave in waves[name]], dim=2)
            torch.testing.assert_close(table[:, :, plane], expected)


class _Inside(TorchDispatchMode):
    """Shows a counter below it what happens inside our operators."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "talk3d":
            with self:  # operators call one another
                return operators()[func.__name__.split(".")[0]]._run(*args)
        return func(*args, **(kwargs or {}))


def gflop(function: Callable[[], object]) -> float:
    # torch counts nothing in the fused attention of a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, _Inside():
        function()
    return counter.get_total_flops() / 1e9


class TestWork:
    """GFLOP at full size, by torch's counter, on tensors without data."""

    @pytest.fixture
    def case(self, semantics) -> tuple[DeltaUNet, Tensor, Tensor]:
        with torch.device("meta"):
            unet = DeltaUNet(axes="zy", semantics=semantics)
            return unet, torch.empty(1, 5, 64), torch.empty(1, 3, 32, 256, 256)

    @torch.no_grad()
    def test_a_frame(self, case):
        unet, tokens, planes = case
        folded = fold_batch_norm(unet)
        features = folded.encode(planes)
        assert gflop(lambda: folded(tokens, features)) <= {"published": 25, "aligned": 28}[unet.semantics]
        with use("reference"):
            assert gflop(lambda: folded(tokens, planes)) > 150

    def test_a_training_step(self, case):
        unet, tokens, planes = case
        four = tokens.expand(4, -1, -1)
        once = gflop(lambda: unet(four, planes).sum().backward())
        with use("reference"):
            dense = 4 * gflop(lambda: unet(tokens, planes).sum().backward())
        assert dense > 3.2 * once


class TestBasis:
    """What is learned texel by texel, as strong as the tokens say."""

    def test_they_learn_from_the_first_step(self):
        unet = make("aligned", lively=False)
        tokens, planes = inputs(unet)
        delta = unet(tokens, planes)
        assert (delta == 0).all()
        (delta * torch.randn_like(delta)).sum().backward()
        assert unet.head.maps.grad.abs().min() > 0

    def test_each_frame_has_its_own_strength(self):
        unet = make("aligned", lively=False)
        tokens, planes = inputs(unet)
        maps, directions = unet.head.maps.data.normal_(), unet.head.directions
        strength = torch.stack([tokens[:, t] @ unet.head.strength[t] for t in range(5)], dim=1).flatten(1)
        expected = torch.einsum("pnm,pmc,bm->bpcn", maps, directions, strength).unflatten(3, (16, 16)) * planes.std()
        torch.testing.assert_close(unet(tokens, planes), expected)

    def test_each_belongs_to_one_token(self):
        unet = make("aligned", lively=False)
        tokens, planes = inputs(unet, batch=1)
        unet.head.maps.data[:, :, 8:16].normal_()  # those of the second
        other = torch.cat((torch.randn_like(tokens[:, :1]), tokens[:, 1:]), dim=1)
        assert torch.equal(unet(tokens, planes), unet(other, planes))
        other[:, 1] += 1
        assert not torch.equal(unet(tokens, planes), unet(other, planes))

    def test_another_number_of_tokens(self):
        unet = make("aligned")
        with pytest.raises(ValueError, match="this network was made for 5 tokens, got 4"):
            unet(*inputs(unet, tokens=4))
        unet = make("aligned", tokens=4)
        assert unet(*inputs(unet, tokens=4)).shape == (3, 3, 4, 16, 16)


class TestWidth:
    def test_is_twice_the_channels_by_default_as_published(self, semantics):
        assert make(semantics).options == make(semantics, width=8).options

    def test_levels_double_it(self, semantics):
        unet = make(semantics, width=16)
        tokens, planes = inputs(unet)
        found = unet.encode(planes)
        assert [part.shape[2] for part in (found.half, found.quarter, found.eighth)] == [16, 32, 64]
        assert unet(tokens, found).shape == (3, 3, 4, 16, 16)

    def test_options_carry_it(self, semantics):
        unet = make(semantics, width=16)
        again = DeltaUNet(**unet.options).double()
        again.load_state_dict(unet.state_dict())
        tokens, planes = inputs(unet)
        assert torch.equal(again(tokens, planes), unet(tokens, planes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": "xy"}, r"axes must be one of original, zy, yz, got 'xy'"),
        ({"semantics": "fixed"}, r"semantics must be 'aligned' or 'published', got 'fixed'"),
        ({"channels": 6}, r"channels must be a multiple of 4, and resolution of 8, got 6 and 16"),
        ({"resolution": 20}, r"channels must be a multiple of 4, and resolution of 8, got 4 and 20"),
        ({"width": 12}, r"width must be a multiple of 8, got 12"),
        ({"resolution": 0}, r"channels must be a multiple of 4, and resolution of 8, got 4 and 0"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        DeltaUNet(**{"axes": "zy", "channels": 4, "resolution": 16} | change)


@pytest.mark.parametrize(
    ("tokens", "identity", "message"),
    [
        ((2, 64), (1, 3, 4, 16, 16), r"tokens must have the shape \[batch, tokens, 64\], got \[2, 64\]"),
        ((2, 5, 32), (1, 3, 4, 16, 16), r"tokens must have the shape \[batch, tokens, 64\], got \[2, 5, 32\]"),
        ((2, 5, 64), (3, 4, 16, 16), r"identity must have the shape \[batch, 3, 4, 16, 16\], got \[3, 4, 16, 16\]"),
        ((2, 5, 64), (1, 3, 4, 8, 8), r"identity must have the shape \[batch, 3, 4, 16, 16\], got \[1, 3, 4, 8, 8\]"),
        ((2, 5, 64), (3, 3, 4, 16, 16), r"identity has a batch of 3, the tokens one of 2"),
    ],
)
def test_bad_input(tokens, identity, message):
    unet = DeltaUNet(axes="zy", channels=4, resolution=16)
    with pytest.raises(ValueError, match=message):
        unet(torch.zeros(tokens), torch.zeros(identity))


@pytest.mark.parametrize("axes", AXES)
def test_planes_lie_as_a_renderer_wants_them(axes):
    unet = make("aligned", axes=axes, dtype=torch.float32)
    tokens, planes = inputs(unet, batch=1)
    assert unet(tokens, planes).permute(0, 1, 3, 4, 2).is_contiguous()
    assert isinstance(unet.encode(planes), IdentityFeatures)


@pytest.mark.compile
def test_compiles_whole(semantics):
    unet = make(semantics, dtype=torch.float32).eval()
    tokens, planes = inputs(unet)
    features = unet.encode(planes)
    torch.compiler.reset()
    compiled = torch.compile(unet, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, features), unet(tokens, features))


def test_what_is_computed_again_has_the_same_gradients_and_keeps_less():
    torch.manual_seed(0)
    unet = DeltaUNet(axes="zy", channels=4, resolution=16)
    torch.nn.init.normal_(unet.head.weight)
    tokens, planes = torch.randn(2, 5, 64), torch.randn(1, 3, 4, 16, 16)
    found, kept = [], []
    for on in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            delta = unet.recompute(on)(tokens, planes)
        kept.append(sum(sizes))
        found.append([delta, *torch.autograd.grad(delta.square().sum(), list(unet.parameters()))])
    assert kept[1] < kept[0] / 4
    for again, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_batch_norms_refuse_to_be_computed_again():
    with pytest.raises(ValueError, match="count each batch twice"):
        DeltaUNet(axes="zy", semantics="published", channels=4, resolution=16).recompute()
