"""Spectra of others' networks, against what their definitions say, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile

from talk3d.audio.spectra import cepstra, expert_mel, read_wav


def chirp(seconds: float = 0.5) -> np.ndarray:
    t = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(0).normal(size=len(t))
    return (0.4 * np.sin(2 * np.pi * (200 + 1500 * t) * t) + 0.01 * noise).astype(np.float32)


def test_a_step_of_the_mel_by_hand():
    librosa = pytest.importorskip("librosa")
    samples = chirp()
    found = expert_mel(samples)
    assert found.shape == (80, len(samples) // 200 + 1)
    emphasised = samples.astype(np.float64)
    emphasised[1:] -= 0.97 * samples[:-1]
    step = 17
    frame = emphasised[200 * step - 400 : 200 * step + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800))
    spectrum = np.array([abs(sum(frame * np.exp(-2j * np.pi * k * np.arange(800) / 800))) for k in range(401)])
    bank = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    expected = [
        min(max(8 * (20 * math.log10(max(value, 1e-5)) - 20 + 100) / 100 - 4, -4), 4) for value in bank @ spectrum
    ]
    np.testing.assert_allclose(found[:, step], expected, atol=1e-4)


def test_silence_is_the_least_of_the_mel():
    assert (expert_mel(np.zeros(4000, np.float32)) == -4).all()


def literal_cepstrum(frame: np.ndarray) -> list[float]:
    """Of 400 emphasised 16-bit samples."""
    power = [
        abs(sum(frame[n] * np.exp(-2j * math.pi * k * n / 512) for n in range(400))) ** 2 / 512 for k in range(257)
    ]
    mel = [i * 2595 * math.log10(1 + 8000 / 700) / 27 for i in range(28)]
    edges = [math.floor(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    logs = []
    for j in range(26):
        total = 0.0
        for i in range(edges[j], edges[j + 1]):
            total += power[i] * (i - edges[j]) / (edges[j + 1] - edges[j])
        for i in range(edges[j + 1], edges[j + 2]):
            total += power[i] * (edges[j + 2] - i) / (edges[j + 2] - edges[j + 1])
        logs.append(math.log(total))
    found = []
    for k in range(13):
        scale = math.sqrt(1 / 26) if k == 0 else math.sqrt(2 / 26)
        value = scale * sum(log * math.cos(math.pi * k * (2 * n + 1) / 52) for n, log in enumerate(logs))
        found.append(value * (1 + 11 * math.sin(math.pi * k / 22)))
    found[0] = math.log(sum(power))
    return found


@pytest.mark.parametrize("step", [0, 7])
def test_cepstra_by_hand(step):
    samples = chirp()
    found = cepstra(samples)
    raw = samples.astype(np.float64) * 32768
    emphasised = np.concatenate((raw[:1], raw[1:] - 0.97 * raw[:-1]))
    assert found.shape == (13, 1 + math.ceil((len(samples) - 400) / 160))
    np.testing.assert_allclose(
        found[:, step], literal_cepstrum(emphasised[160 * step : 160 * step + 400]), rtol=1e-5, atol=1e-4
    )


def test_cepstra_of_silence_are_finite():
    assert np.isfinite(cepstra(np.zeros(3200, np.float32))).all()


def test_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    with pytest.raises(ValueError, match=r"a\.wav must have 16000 samples a second and one channel, got 8000"):
        read_wav(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.full(100, 0.5), 16000)
    assert abs(read_wav(tmp_path / "b.wav") - 0.5).max() < 1e-4
    (tmp_path / "c.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"c\.wav cannot be read as sound"):
        read_wav(tmp_path / "c.wav")
