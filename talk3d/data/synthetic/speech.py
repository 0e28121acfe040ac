"""What the head says: bundled speech, the times of its phonemes, and the shapes of the mouth that follow from them.

The recordings were made by ``docs/make_speech.py`` with espeak-ng, which is no part of talk3d.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE", "SpeechName", "Utterance", "load", "mouth"]

RATE = 16000
SpeechName = Literal["talk", "held_out"]

_FINE = 200  # steps a second in which curves are smoothed
_CLOSED = frozenset("pbm")
_CLOSURE, _RELEASE = 0.07, 0.035  # seconds: lips stay closed for a frame at least, and part or meet within
_OPENING_BLUR, _WIDTH_BLUR = 0.035, 0.055  # seconds: the lips' width anticipates more than the jaw
# phoneme of espeak-ng: opening 0 to 1, and width from -1 (rounded) to 1 (spread). Longest beginning wins.
_SHAPES = {
    "": (0.0, 0.0),  # pause
    "_": (0.0, 0.0),
    "a": (0.85, 0.3),
    "a#": (0.45, 0.0),
    "aI": (0.8, 0.4),
    "aU": (0.8, -0.3),
    "A": (1.0, 0.0),
    "E": (0.62, 0.35),
    "e": (0.55, 0.5),
    "i": (0.28, 0.9),
    "I": (0.36, 0.5),
    "o": (0.55, -0.7),
    "O": (0.68, -0.6),
    "0": (0.75, -0.25),
    "u": (0.26, -1.0),
    "U": (0.32, -0.7),
    "V": (0.66, 0.1),
    "@": (0.4, 0.0),
    "3": (0.38, -0.35),
    "p": (0.0, 0.0),
    "b": (0.0, 0.0),
    "m": (0.0, 0.0),
    "f": (0.1, 0.2),
    "v": (0.1, 0.2),
    "w": (0.16, -1.0),
    "r": (0.26, -0.45),
    "l": (0.34, 0.15),
    "t": (0.2, 0.25),
    "tS": (0.22, -0.55),
    "d": (0.22, 0.25),
    "dZ": (0.22, -0.5),
    "n": (0.22, 0.2),
    "s": (0.16, 0.45),
    "z": (0.16, 0.45),
    "S": (0.2, -0.6),
    "Z": (0.2, -0.6),
    "T": (0.22, 0.15),
    "D": (0.24, 0.1),
    "k": (0.3, 0.1),
    "g": (0.3, 0.1),
    "N": (0.3, 0.1),
    "h": (0.4, 0.0),
    "j": (0.22, 0.7),
    ";": (0.22, 0.5),
}


@dataclass(frozen=True)
class Utterance:
    """Bundled speech.

    Attributes:
        samples: Mono, at :data:`RATE`, -1 to 1 ``[S]`` (float32).
        text: What is said.
        phonemes: espeak-ng's names; a pause is "" or begins with "_".
        starts: When each phoneme begins, seconds ``[P]``; it lasts until the next, the last until the end.
    """

    samples: NDArray[np.float32]
    text: str
    phonemes: tuple[str, ...]
    starts: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / RATE

    def fit(self, seconds: float) -> Utterance:
        """Repeat it or cut it off, so that it lasts so long."""
        length = round(seconds * RATE)
        times = -(-length // len(self.samples))
        starts = np.concatenate([self.starts + k * self.seconds for k in range(times)])
        keep = starts < seconds
        phonemes = tuple(p for p, kept in zip(self.phonemes * times, keep, strict=True) if kept)
        return Utterance(np.tile(self.samples, times)[:length], self.text, phonemes, starts[keep])


def load(name: SpeechName = "talk") -> Utterance:
    """Load bundled speech: ``"talk"`` (24 s, what the clip says) or ``"held_out"`` (10 s of other sentences).

    Raises:
        ValueError: There is no speech of this name.
    """
    if name not in ("talk", "held_out"):
        raise ValueError(f"speech must be 'talk' or 'held_out', got {name!r}")
    import soundfile

    assets = resources.files("talk3d.data") / "assets"
    samples, rate = soundfile.read(BytesIO((assets / f"speech_{name}.flac").read_bytes()), dtype="float32")
    assert rate == RATE
    record = json.loads((assets / f"speech_{name}.json").read_text(encoding="utf-8"))
    phonemes, starts = zip(*record["phonemes"], strict=True)
    return Utterance(samples, record["text"], phonemes, np.array(starts, float))


def mouth(utterance: Utterance, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shape the mouth.

    Each phoneme has an opening and a width (its viseme). Both are blurred in time, so that neighbours colour each other
    (coarticulation), after which p, b and m close the lips entirely.

    Args:
        utterance: What is said.
        times: When, seconds ``[N]``.

    Returns:
        Opening, 0 to 1, and width, -1 (rounded) to 1 (spread), ``[N]`` each.
    """
    fine = np.arange(0, utterance.seconds, 1 / _FINE)
    ends = np.append(utterance.starts[1:], utterance.seconds)
    which = np.clip(np.searchsorted(utterance.starts, fine, side="right") - 1, 0, None)
    shapes = np.array([_shape(phoneme) for phoneme in utterance.phonemes])[which]
    opening, width = _blur(shapes[:, 0], _OPENING_BLUR), _blur(shapes[:, 1], _WIDTH_BLUR)
    for phoneme, start, end in zip(utterance.phonemes, utterance.starts, ends, strict=True):
        if phoneme[:1] in _CLOSED:
            half = max(end - start, _CLOSURE) / 2
            beyond = np.abs(fine - (start + end) / 2) - half
            opening = np.minimum(opening, np.clip(beyond / _RELEASE, 0, 1))
    return np.interp(times, fine, opening), np.interp(times, fine, width)


def _shape(phoneme: str) -> tuple[float, float]:
    """Opening and width of the longest beginning of a name that is known; unknown names are as @."""
    known = (phoneme[:length] for length in range(len(phoneme), 0, -1))
    return next((_SHAPES[name] for name in known if name in _SHAPES), _SHAPES["@" if phoneme else ""])


def _blur(values: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """Smooth by a Gaussian of this standard deviation."""
    reach = int(4 * seconds * _FINE)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (seconds * _FINE)) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
