"""Spectra that networks of others were trained on: of Wav2Lip's expert, and of SyncNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from talk3d.audio.files import RATE

__all__ = ["CEPSTRA_RATE", "EXPERT_RATE", "cepstra", "expert_mel", "read_wav"]

EXPERT_RATE, CEPSTRA_RATE = 80, 100  # steps a second
_EMPHASIS = 0.97
_WINDOW, _HOP = 400, 160  # samples: 25 and 10 ms
_FFT, _FILTERS, _KEPT, _LIFTER = 512, 26, 13, 22


def read_wav(path: Path) -> Float[NDArray[np.float32], " sample"]:
    """Read a wav of 16 kHz and one channel as numbers from -1 to 1.

    Raises:
        ValueError: If it cannot be read, or is another.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"{path} cannot be read as sound: {error}") from None
    if rate != RATE or samples.ndim != 1:
        raise ValueError(f"{path} must have {RATE} samples a second and one channel, got {rate} and {samples.shape}")
    return samples


def expert_mel(samples: Float[NDArray[np.float32], " sample"]) -> Float[NDArray[np.float32], "80 step"]:
    """Mel bands in decibels as Wav2Lip makes them, step k centred at k/80 seconds.

    With emphasis of high notes, magnitudes of windows of 50 ms, 80 bands from 55 to 7600 Hz; -100 to 0 dB, of full
    scale less 20, become -4 to 4. Beyond its ends the sound is silent, as librosa has it.

    Args:
        samples: Of 16 kHz, -1 to 1.
    """
    import librosa

    bank = librosa.filters.mel(sr=RATE, n_fft=800, n_mels=80, fmin=55.0, fmax=7600.0)
    spectra = np.abs(librosa.stft(_emphasised(samples), n_fft=800, hop_length=RATE // EXPERT_RATE))
    decibels = 20 * np.log10(np.maximum(bank @ spectra, 1e-5)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).astype(np.float32)


def cepstra(samples: Float[NDArray[np.float32], " sample"]) -> Float[NDArray[np.float32], "13 step"]:
    """Mel cepstra as SyncNet's were made (``python_speech_features``, its defaults), step k from k/100 seconds on.

    Args:
        samples: Of 16 kHz, -1 to 1; they are taken as 16-bit numbers, for the logarithms are not normalised.
    """
    from scipy.fft import dct

    sound = _emphasised(samples.astype(np.float64) * 32768)
    steps = 1 + max(-(-(len(sound) - _WINDOW) // _HOP), 0)
    padded = np.zeros((steps - 1) * _HOP + _WINDOW)
    padded[: len(sound)] = sound
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2 / _FFT
    least = np.finfo(float).eps  # in place of zeros, which have no logarithm
    energy, bands = power.sum(1), power @ _bank().T
    found = dct(np.log(np.where(bands == 0, least, bands)), type=2, axis=1, norm="ortho")[:, :_KEPT]
    found *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_KEPT) / _LIFTER)
    found[:, 0] = np.log(np.where(energy == 0, least, energy))
    return found.T.astype(np.float32)


def _emphasised(samples: NDArray[Any]) -> NDArray[Any]:
    """Less most of the sample before."""
    return np.concatenate((samples[:1], samples[1:] - _EMPHASIS * samples[:-1])).astype(samples.dtype)


def _bank() -> Float[NDArray[np.float64], "26 257"]:
    """Triangles between mel-spaced edges, which lie on bins of the spectrum."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * hertz / RATE)
    bins = np.arange(_FFT // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))
