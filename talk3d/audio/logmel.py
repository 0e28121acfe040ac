"""Log-mel spectra: speech features that need no trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talk3d.audio.files import RATE, read_blocks

__all__ = ["BANDS", "log_mel"]

BANDS = 80
_WINDOW = 800  # samples, 50 ms
_HOP = 320  # samples: 50 steps a second, two for each frame
_LOWEST, _HIGHEST = 55.0, 7600.0  # Hz; the mel bands of Wav2Lip and its kind
_FLOOR = 1e-5  # of a magnitude: -100 dB


def log_mel(path: Path) -> Iterator[NDArray[np.float32]]:
    """Compute log10 magnitudes of mel bands, step k centred at k/50 seconds.

    Args:
        path: A wav of 16 kHz, one channel.

    Yields:
        Pieces ``[steps, 80]``, which follow one another.
    """
    import librosa

    bank = librosa.filters.mel(sr=RATE, n_fft=_WINDOW, n_mels=BANDS, fmin=_LOWEST, fmax=_HIGHEST)
    for block in read_blocks(path, block=3000 * _HOP, context=_WINDOW // 2):
        samples = len(block) - _WINDOW
        whole = np.pad(block, (0, -samples % _HOP))  # a step that begins within the sound is one
        spectra = np.abs(librosa.stft(whole, n_fft=_WINDOW, hop_length=_HOP, center=False))
        steps = np.log10(np.maximum(bank @ spectra, _FLOOR)).T
        yield steps[: -(-samples // _HOP)].astype(np.float32)
