"""Super-resolution by torch.compile: it computes the same, and is chosen by a clock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from talk3d.models import SuperResolution, compiled
from talk3d.models.compiled import CompiledSuperResolution
from talk3d.models.superresolution import FoldedSuperResolution

LIMIT = 1e-5  # relative L2 in float32
FRAMES = 2


def folded(variant: str = "2x", clamp: float | None = 256.0) -> tuple[FoldedSuperResolution, Tensor]:
    """A network for one person, and features as the renderer leaves them."""
    network = SuperResolution(variant, w_dim=4, clamp=clamp)
    side = network.shape.size // 4
    features = torch.randn(FRAMES, side, side, 32).permute(0, 3, 1, 2)
    return network.fold(torch.randn(4)), features


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and run: what it computes does not need a compiler, which takes a minute."""
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")


def drive(baked, frames: int = FRAMES) -> tuple[Tensor, Tensor]:
    return torch.randn(frames, 5, 64), torch.stack([baked.config.camera(yaw=9.0 * k) for k in range(frames)])


@pytest.mark.compile
@pytest.mark.parametrize("variant", ["2x", "4x", "small"])  # the others are wider
def test_it_computes_the_same(variant):
    network, features = folded(variant, clamp=0.5)
    with torch.inference_mode():
        expected = network(features)
        made = CompiledSuperResolution(network, backend="aot_eager")
        assert relative(made(features), expected) <= LIMIT
        assert relative(made(features[:1]), expected[:1]) <= LIMIT  # a size of its own
    assert relative(folded(variant, clamp=None)[0](features), expected) > 0.01, "the clamp must bite"


@pytest.mark.compile
def test_half_precision_is_as_close_as_its_type():
    network, features = folded()
    network = network.to(torch.bfloat16)
    found = CompiledSuperResolution(network, backend="aot_eager")(features)
    assert found.dtype == torch.float32
    assert relative(found, network(features)) <= 0.01


@pytest.mark.compile
def test_any_number_of_sizes_is_compiled():
    """Torch alone would stop after eight, and refuse the ninth."""
    network, features = folded("small")
    made = CompiledSuperResolution(network, backend="aot_eager")
    with torch.inference_mode():
        for count in range(1, 10):
            frames = features[:1].expand(count, -1, -1, -1)
            assert relative(made(frames)[-1], network(features[:1])[0]) <= LIMIT
    assert len(made._made) == 9


@pytest.mark.compile
def test_inductor_once():
    network, features = folded("small")
    features = features[..., :8, :8]
    with torch.inference_mode():
        assert relative(compiled.compiled(network, features)(features), network(features)) <= LIMIT


@pytest.mark.compile
def test_a_baked_avatar_is_compiled(make_avatar, monkeypatch):
    eager(monkeypatch)
    avatar = make_avatar("aligned")
    plain, baked = avatar.bake(), avatar.bake(superresolution="compiled", batch=FRAMES)
    assert isinstance(baked._superresolution, CompiledSuperResolution)
    assert baked.choice is None
    assert baked.side == plain.side == 128
    inputs = drive(baked)
    assert relative(baked.frames(*inputs).image, plain.frames(*inputs).image) <= LIMIT
    assert len(baked._superresolution._made) == 1, "what was compiled at bake is what renders"
    inputs = drive(baked, 3)
    assert relative(baked.frames(*inputs).image, plain.frames(*inputs).image) <= LIMIT


@pytest.mark.compile
@pytest.mark.parametrize(("seconds", "kept"), [((0.002, 0.001), "compiled"), ((0.001, 0.002), "plain")])
def test_the_faster_one_is_kept(make_avatar, monkeypatch, seconds, kept):
    eager(monkeypatch)
    turns = iter(seconds * 100)
    monkeypatch.setattr(compiled, "_seconds", lambda run, device: run() is None or next(turns))
    baked = make_avatar("aligned").bake(superresolution="fastest", batch=3)
    assert isinstance(baked._superresolution, CompiledSuperResolution) == (kept == "compiled")
    assert isinstance(baked._superresolution, FoldedSuperResolution) == (kept == "plain")
    assert (baked.choice.kept, baked.choice.batch, baked.choice.device) == (kept, 3, "cpu")
    assert (baked.choice.plain, baked.choice.compiled) == tuple(1e3 * each for each in seconds)
    figures = " ms, compiled ".join(f"{1e3 * each:.3g}" for each in seconds)
    assert str(baked.choice) == (f"super-resolution: {kept} is the faster one for 3 frames on cpu (plain {figures} ms)")


@pytest.mark.compile
def test_the_clock_counts_both_sides_in_turns(monkeypatch):
    eager(monkeypatch)
    network, features = folded("small")
    ran = []
    network.register_forward_hook(lambda *_: ran.append("plain"))
    plain = CompiledSuperResolution.forward
    monkeypatch.setattr(
        CompiledSuperResolution, "forward", lambda self, features: ran.append("compiled") or plain(self, features)
    )
    _, choice = compiled.faster(network, features)
    assert choice.plain > 0 < choice.compiled
    assert ran[-2 * compiled._ROUNDS :] == ["plain", "compiled"] * compiled._ROUNDS


@pytest.mark.compile
class TestNothingFallsBack:
    def test_a_compiler_that_fails_is_a_sentence(self, make_avatar, monkeypatch):
        def broken(graph, inputs):
            raise NotImplementedError("this machine has no compiler")

        monkeypatch.setattr(compiled, "_BACKEND", broken)
        for kind in ("compiled", "fastest"):
            with pytest.raises(
                RuntimeError, match=r"cannot compile the super-resolution on cpu .*has no compiler"
            ) as e:
                make_avatar(None).bake(superresolution=kind)
            assert "\n" not in str(e.value)

    def test_what_is_wrong_is_not_used(self, make_avatar, monkeypatch):
        monkeypatch.setattr(compiled, "_BACKEND", lambda graph, inputs: lambda *args: (torch.zeros(1, 3, 128, 128),))
        with pytest.raises(RuntimeError, match=r"is off by 100\.0 %"):
            make_avatar(None).bake(superresolution="compiled")

    def test_no_memory_is_not_a_compiler_that_fails(self, monkeypatch):
        def frugal(*_):
            raise torch.OutOfMemoryError("no memory")

        network, features = folded("small")
        made = CompiledSuperResolution(network, backend="aot_eager")
        monkeypatch.setattr(made, "_compile", lambda: frugal)
        with pytest.raises(torch.OutOfMemoryError):
            made(features)

    def test_wrong_use(self, make_avatar, monkeypatch):
        eager(monkeypatch)
        with pytest.raises(ValueError, match="batch must be positive, got 0"):
            make_avatar(None).bake(superresolution="fastest", batch=0)
        baked = make_avatar(None).bake(superresolution="compiled")
        for again in (baked.compile, baked.quantise):
            with pytest.raises(ValueError, match="is not the plain one any more: bake again"):
                again()


@pytest.mark.gpu
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Inductor, on what a GPU has or lacks
@pytest.mark.parametrize("kind", ["compiled", "fastest"])
def test_a_compiled_network_is_captured_with_the_frame(make_avatar, monkeypatch, kind):
    monkeypatch.setattr(compiled, "_MODE", "default")  # the code of torch.compile, without minutes of tuning
    avatar = make_avatar("aligned")
    plain, baked = (avatar.bake(torch.bfloat16, device="cuda", superresolution=each) for each in ("plain", kind))
    for count in (1, 3):
        tokens, eyes = drive(baked, count)
        expected = plain.frames(tokens, eyes).image.clone()
        baked.frames(-tokens, eyes)
        assert relative(baked.frames(tokens, eyes).image, expected) <= 0.01
    assert len(baked._graphs) == 2
    assert (baked.choice is None) == (kind == "compiled")
