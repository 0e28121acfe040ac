"""Metrics of trained networks, here with random weights; nothing is downloaded, and no pickle runs code."""

from __future__ import annotations

import pytest
import torch

from talk3d.evaluation import networks
from talk3d.evaluation.networks import Fid, Inception, Lpips

CPU = torch.device("cpu")
SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture
def alexnet(tmp_path):
    """Random weights in the layout of torchvision's AlexNet."""
    pytest.importorskip("lpips")
    state = {f"features.{k}.weight": torch.randn(o, i, s, s) / (i * s * s) ** 0.5 for k, (o, i, s) in SHAPES.items()}
    state |= {f"features.{k}.bias": torch.zeros(o) for k, (o, _, _) in SHAPES.items()}
    torch.save(state, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


class TestLpips:
    def test_of_equal_pictures_is_nothing(self, alexnet):
        lpips = Lpips(alexnet, CPU)
        found, truth = torch.rand(2, 2, 3, 64, 64) * 2 - 1
        assert lpips(truth, truth).abs().max() < 1e-6
        assert lpips(found, truth).shape == (2,)
        assert lpips(found, truth).min() > 1e-3
        nearer = torch.lerp(truth, found, 0.3)
        assert (lpips(nearer, truth) < lpips(found, truth)).all()

    def test_another_file(self, alexnet, tmp_path):
        torch.save({"features.0.weight": torch.zeros(1)}, alexnet)
        with pytest.raises(ValueError, match=r"alexnet\.pth does not hold the weights of torchvision's AlexNet"):
            Lpips(alexnet, CPU)
        with pytest.raises(ValueError, match=r"none\.pth, which should hold the weights of .* AlexNet, does not exist"):
            Lpips(tmp_path / "none.pth", CPU)


class Hostile:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w')",))


@pytest.mark.parametrize("network", [Lpips, Inception])
def test_no_code_of_a_pickle_is_run(network, tmp_path):
    pytest.importorskip("lpips" if network is Lpips else "torch_fidelity")
    torch.save({"features.0.weight": Hostile(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match="does not hold"):
        network(tmp_path / "hostile.pth", CPU)
    assert not (tmp_path / "ran").exists()


def test_inception_reads_a_local_file(tmp_path, monkeypatch):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / "inception.pth"
    torch.save({}, path)
    with monkeypatch.context() as patch, torch.device("meta"):  # shapes alone
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        made = fidelity.FeatureExtractorInceptionV3("random", ["2048"], str(path)).state_dict()
    state = {k: torch.randn(v.shape) * 0.05 if v.ndim > 1 else torch.ones(v.shape) for k, v in made.items()}
    torch.save(state, path)
    inception = Inception(path, CPU)
    pictures = torch.rand(2, 3, 32, 32)
    features = inception(pictures)
    assert features.shape == (2, 2048)
    assert features.isfinite().all()
    torch.testing.assert_close(inception(pictures[1:]), features[1:], rtol=1e-3, atol=1e-4)
    for name, value in (("fc.bias", torch.zeros(1)), ("fc.bias", "text"), (5, torch.zeros(1))):
        torch.save(state | {name: value}, path)
        with pytest.raises(ValueError, match=f"does not hold the weights of FID's Inception: {name} [^\\n]*$"):
            Inception(path, CPU)
    torch.save({"fc.bias": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="does not hold the weights of FID's Inception"):
        Inception(path, CPU)


# what torch.load answers with IndexError, KeyError, struct.error, or a page of advice
BROKEN = {
    "nothing": b"",
    "text": b"<html>not found</html>",
    "zeros": bytes(1000),
    "one byte": b"\x80",
    "no pickle": b"\x80\x02",
    "an empty stack": b"\x80\x02.",
    "no such note": b"\x80\x02h\x05.",
    "an odd dictionary": b"\x80\x02}(K\x01u.",
    "a huge string": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",
    "a cut archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("network", [Lpips, Inception])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_a_sentence(network, content, tmp_path):
    pytest.importorskip("lpips" if network is Lpips else "torch_fidelity")
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pth does not hold the weights of [^\n]*$") as raised:
        network(tmp_path / "broken.pth", CPU)
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


class TestFid:
    @pytest.fixture(autouse=True)
    def few_features(self, monkeypatch):
        """A root of a matrix of 2048 by 2048 takes most of a minute."""
        monkeypatch.setattr(networks, "_FEATURES", 6)

    def test_of_a_shift_is_its_square(self):
        truth, fid = torch.randn(200, 6, dtype=torch.float64), Fid()
        for part in truth.split(7):
            fid.add(part + torch.tensor([1.0, -2, 0, 0, 0, 0.5]), part)
        assert fid.compute() == pytest.approx(1 + 4 + 0.25, rel=1e-4)

    def test_needs_two_frames(self):
        fid = Fid()
        fid.add(torch.zeros(1, 6), torch.zeros(1, 6))
        with pytest.raises(ValueError, match="two frames"):
            fid.compute()
