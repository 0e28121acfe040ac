"""Make the speech of the synthetic clip: ``talk3d/data/assets/speech_*.flac`` and the times of its phonemes.

Run ``python docs/make_speech.py`` where espeak-ng 1.51 or later is installed (``apt-get install libespeak-ng1``). The
sentences are our own. espeak-ng is under the GPL 3; nothing of it is copied or linked by talk3d, and what a
synthesiser says is not covered by its licence, so the recordings are under ours.
"""

from __future__ import annotations

import ctypes
import json
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

OUT = Path(__file__).parents[1] / "talk3d" / "data" / "assets"
RATE = 16000
# name: length in seconds, voice, what is said; pauses fill up to the length
SPEECH = {
    "talk": (
        24.0,
        "Hello! My name is Ada, and I am made of numbers. "
        "Every time I speak, my lips move with the words. "
        "Please watch my mouth: baby, mama, bumper, papa, map. "
        "Now I smile and say cheese, then round my lips: you, blue, moon, window. "
        "Far above the harbour, a white bird follows the boat. "
        "Sometimes we stop, and think.",
    ),
    "held_out": (
        10.0,
        "These words were never shown. Maybe a bigger problem is how I open my mouth. "
        "Five women bought apples, and two men paid for the whole box.",
    ),
}
VOICE, SPEED, PITCH = "en-us+f3", 160, 48  # words a minute; espeak's units
LEAD = 0.4  # seconds of silence in front

SENTENCE, END, PHONEME = 2, 6, 7  # espeak_EVENT_TYPE, from the public interface
RETRIEVAL, PHONEME_EVENTS, UTF8, END_PAUSE = 1, 1, 1, 0x1000
RATE_PARAMETER, PITCH_PARAMETER = 1, 3


class Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


class Synthesiser:
    """espeak-ng's library, asked for samples and phoneme events."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.library.espeak_Initialize(RETRIEVAL, 0, None, PHONEME_EVENTS)
        assert self.rate > 0, "espeak-ng does not start"
        self.samples: list[NDArray[np.int16]] = []
        self.events: list[tuple[float, str]] = []
        self.callback = CALLBACK(self._take)  # kept, as the library calls it
        self.library.espeak_SetSynthCallback(self.callback)
        assert self.library.espeak_SetVoiceByName(VOICE.encode()) == 0, f"espeak-ng has no voice {VOICE}"
        self.library.espeak_SetParameter(RATE_PARAMETER, SPEED, 0)
        self.library.espeak_SetParameter(PITCH_PARAMETER, PITCH, 0)

    def say(self, text: str) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
        """Return samples in [-1, 1] at ``self.rate`` and the start of each phoneme in seconds; a pause has no name."""
        self.samples, self.events = [], []
        data = text.encode() + b"\0"
        assert self.library.espeak_Synth(data, len(data), 0, 1, 0, UTF8 | END_PAUSE, None, None) == 0
        self.library.espeak_Synchronize()
        return np.concatenate(self.samples) / 32768.0, self.events

    def _take(self, wave: ctypes.Array[ctypes.c_short], count: int, events: ctypes.Array[Event]) -> int:
        if wave and count:
            self.samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        for event in events:
            if event.type == 0:
                break
            if event.type == PHONEME:
                self.events.append((event.audio_position / 1000, event.name.decode("utf-8", "ignore")))
        return 0


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    synthesiser = Synthesiser()
    for name, (seconds, text) in SPEECH.items():
        said, events = synthesiser.say(text)
        step = gcd(RATE, synthesiser.rate)
        said = resample_poly(said, RATE // step, synthesiser.rate // step)
        samples = np.zeros(round(seconds * RATE))
        start, free = round(LEAD * RATE), len(samples) - len(said) - round(LEAD * RATE)
        assert free >= 0, f"{name}: {len(said) / RATE:.2f} s do not fit, {seconds} s with {LEAD} s in front"
        samples[start : start + len(said)] = said * (0.7 / np.abs(said).max())
        soundfile.write(OUT / f"speech_{name}.flac", samples, RATE, subtype="PCM_16")
        phonemes = [["", 0.0], *([phoneme.strip(), round(time + LEAD, 3)] for time, phoneme in events)]
        record = {"text": text, "voice": f"espeak-ng {VOICE}", "seconds": seconds, "phonemes": phonemes}
        (OUT / f"speech_{name}.json").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}: {len(said) / RATE:.2f} s said, {free / RATE:.2f} s left, {len(phonemes)} phonemes")


if __name__ == "__main__":
    main()
