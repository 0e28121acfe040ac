"""The perceptual loss, with weights and without, and what it says of itself."""

from __future__ import annotations

import pytest
import torch

from talk3d.training import losses
from talk3d.training.perceptual import Perceptual

FOUND, TARGET = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_without_weights_it_is_structure_and_edges():
    perceptual = Perceptual()
    expected = losses.ms_ssim(FOUND, TARGET) + 0.5 * losses.edges(FOUND, TARGET)
    torch.testing.assert_close(perceptual(FOUND, TARGET), expected)
    assert "MS-SSIM" in perceptual.note


def test_large_pictures_are_halved():
    found, target = (torch.nn.functional.interpolate(part, scale_factor=4) for part in (FOUND, TARGET))
    twice = [torch.nn.functional.interpolate(part, scale_factor=2) for part in (FOUND, TARGET)]
    torch.testing.assert_close(Perceptual()(found, target), Perceptual()(*twice))


class TestLpips:
    @pytest.fixture
    def weights(self, tmp_path):
        """A trunk of random weights."""
        pytest.importorskip("lpips")
        shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
        torch.manual_seed(0)
        state = {
            f"features.{k}.weight": torch.randn(o, i, s, s) * (2 / (i * s * s)) ** 0.5
            for k, (o, i, s) in shapes.items()
        }
        state |= {f"features.{k}.bias": torch.zeros(o) for k, (o, _, _) in shapes.items()}
        torch.save(state, tmp_path / "alexnet.pth")
        return tmp_path / "alexnet.pth"

    def test_with_weights(self, weights):
        perceptual = Perceptual(weights)
        assert "LPIPS" in perceptual.note
        assert perceptual(FOUND, FOUND).abs() < 1e-6
        start = FOUND.clone().requires_grad_()
        before = perceptual(start, TARGET)
        (gradient,) = torch.autograd.grad(before, start)
        assert perceptual(start - 1e-2 * gradient / gradient.abs().max(), TARGET) < before
        assert not any(p.requires_grad for p in perceptual.parameters())

    def test_other_weights(self, weights, tmp_path):
        torch.save({"features.0.weight": torch.zeros(1)}, weights)
        with pytest.raises(ValueError, match=r"alexnet.pth does not hold the weights of torchvision's AlexNet"):
            Perceptual(weights)
        with pytest.raises(ValueError, match=r"none\.pth, which should hold the weights of .*, does not exist"):
            Perceptual(tmp_path / "none.pth")
        for content in (b"", b"\x80", b"\x80\x02.", b"<html>"):
            weights.write_bytes(content)
            with pytest.raises(ValueError, match=r"alexnet.pth does not hold the weights of [^\n]*$"):
                Perceptual(weights)

    def test_no_code_of_a_pickle_is_run(self, weights, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

        torch.save({"features.0.weight": Hostile()}, weights)
        with pytest.raises(ValueError, match="does not hold"):
            Perceptual(weights)
        assert not (tmp_path / "ran").exists()
