from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile

from talk3d.audio import FeaturesInfo, encode_speech, features, files, logmel
from talk3d.audio.files import RATE


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Twelve seconds of noise whose loudness and colour change."""
    random = np.random.default_rng(0)
    time = np.arange(12 * RATE) / RATE
    wave = 0.1 * random.normal(size=len(time)) * (1 + np.sin(3 * time)) + 0.2 * np.sin(2 * np.pi * 700 * time**1.3)
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, np.clip(wave, -1, 1), RATE)
    return path


def steps_of(path) -> np.ndarray:
    return np.concatenate(list(logmel.log_mel(path)))


def test_log_mel_is_what_its_definition_says(speech):
    wave, _ = soundfile.read(speech, dtype="float32")
    expected = librosa.feature.melspectrogram(
        y=wave, sr=RATE, n_fft=800, hop_length=320, n_mels=80, fmin=55, fmax=7600, power=1.0, pad_mode="constant"
    )
    expected = np.log10(np.maximum(expected, 1e-5)).T
    found = steps_of(speech)
    assert len(found) == 12 * 50
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-4)


def test_pieces_make_no_difference(speech, monkeypatch):
    whole = steps_of(speech)
    read = files.read_blocks
    monkeypatch.setattr(logmel, "read_blocks", lambda path, block, context: read(path, 77 * 320, context))
    np.testing.assert_allclose(steps_of(speech), whole, atol=1e-6)


def test_a_tone_is_in_its_band(tmp_path):
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE), RATE)
    band = steps_of(tmp_path / "tone.wav")[25].argmax()
    centers = librosa.mel_frequencies(82, fmin=55, fmax=7600)[1:-1]
    assert abs(centers[band] - 1000) < 60


@pytest.mark.parametrize("frames", [1, 300, 290, 320])
def test_windows_are_the_steps_around_each_frame(speech, tmp_path, frames, monkeypatch):
    monkeypatch.setattr(features, "_PIECE", 64)
    info = encode_speech(speech, tmp_path / "features.npy", frames)
    windows = np.load(tmp_path / "features.npy")
    assert windows.shape == (frames, 16, 80)
    assert windows.dtype == np.float32
    steps = (steps_of(speech) - info.mean) / info.scale
    for frame in {0, 1, 3, 63, 64, frames - 1} & set(range(frames)):
        for k, step in enumerate(range(2 * frame - 8, 2 * frame + 8)):
            expected = steps[step] if 0 <= step < len(steps) else np.zeros(80)
            np.testing.assert_allclose(windows[frame, k], expected, atol=1e-4)
    assert not list(tmp_path.glob(".*"))


def test_normalised_by_the_clip_and_the_same_for_other_speech(speech, tmp_path):
    info = encode_speech(speech, tmp_path / "a.npy", 300)
    inner = np.load(tmp_path / "a.npy")[10:-10]
    assert inner.mean() == pytest.approx(0, abs=0.1)
    assert inner.std() == pytest.approx(1, abs=0.1)
    louder = tmp_path / "louder.wav"
    wave, _ = soundfile.read(speech)
    soundfile.write(louder, 0.5 * wave, RATE)
    again = encode_speech(louder, tmp_path / "b.npy", 300, like=info)
    assert (again.mean, again.scale) == (info.mean, info.scale)
    difference = np.load(tmp_path / "b.npy")[10:-10] - inner
    np.testing.assert_allclose(np.median(difference), np.log10(0.5) / info.scale, atol=1e-3)


def test_silence_has_features(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(2 * RATE), RATE)
    info = encode_speech(tmp_path / "silence.wav", tmp_path / "features.npy", 50)
    assert info.mean == pytest.approx(-5)
    assert not np.load(tmp_path / "features.npy").any()


def test_imported_features_cannot_be_made_again(speech, tmp_path):
    with pytest.raises(ValueError, match="imported"):
        encode_speech(speech, tmp_path / "features.npy", 10, like=FeaturesInfo("imported", 44))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("spells", [False, True])
def test_trained_encoders_from_a_local_folder(speech, tmp_path, kind, spells):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 11,
    }
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}[kind]
    config = getattr(transformers, f"{name}Config")(**small)
    getattr(transformers, name + ("ForCTC" if spells else "Model"))(config).save_pretrained(tmp_path / "model")
    info = encode_speech(speech, tmp_path / "features.npy", 300, kind, model=str(tmp_path / "model"))
    windows = np.load(tmp_path / "features.npy")
    assert info == replace(info, name=kind, width=11 if spells else 24, mean=0.0, scale=1.0)
    assert windows.shape == (300, 16, info.width)
    assert np.isfinite(windows).all()
    assert windows[100].std() > 0
    other = "hubert" if kind == "wav2vec2" else "wav2vec2"
    with pytest.raises(ValueError, match=f"holds a {kind} model, not {other}"):
        encode_speech(speech, tmp_path / "other.npy", 10, other, model=str(tmp_path / "model"))


def test_a_model_that_is_not_there(speech, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(ValueError, match="cannot be loaded as a hubert model"):
        encode_speech(speech, tmp_path / "features.npy", 10, "hubert", model=str(tmp_path / "nowhere"))
