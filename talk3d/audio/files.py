"""Sound from any file that FFmpeg reads, as 16 kHz mono, written and read in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import soundfile
    from av.container import InputContainer

__all__ = ["RATE", "Sound", "decode_sound", "has_sound", "read_blocks"]

RATE = 16000  # what every speech encoder of the field was trained on
_BLOCK = 60 * RATE  # samples in memory at a time


@dataclass(frozen=True)
class Sound:
    """What :func:`decode_sound` found.

    Attributes:
        seconds: How long it sounds after time 0.
        loudness: Root mean square in decibels below full scale.
        rate: Samples a second in the file.
        channels: How many there are in the file; their mean is taken.
        broken: Whether the file breaks off before its end.
        more: Seconds of sound beyond the length that was asked for, as the file states them.
    """

    seconds: float
    loudness: float
    rate: int
    channels: int
    broken: bool
    more: float


def decode_sound(path: Path, out: Path, *, start: float = 0.0, seconds: float | None = None) -> Sound | None:
    """Decode the first sound of a file to a 16-bit wav of 16 kHz, one channel.

    Args:
        path: A sound or a video.
        out: The wav to write.
        start: Time of the file at which ``out`` begins, in seconds of its own clock; where the sound begins later,
            there is silence before it.
        seconds: Length of ``out``; shorter sounds are filled with silence. By default to the end of the sound.

    Returns:
        What was there; None if the file has no sound.

    Raises:
        ValueError: If the file cannot be read at all, or has samples that are not finite.
    """
    import av
    import soundfile  # datasets are read where it is not installed

    with _open(path) as container, soundfile.SoundFile(out, "w", RATE, 1, "PCM_16") as wav:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        sound = _Writer(wav, None if seconds is None else round(seconds * RATE))
        # packed: av reads beyond the planes of 8 channels and more
        resampler = av.AudioResampler(format="flt", layout=stream.codec_context.layout, rate=RATE)
        channels = stream.codec_context.channels
        broken = False
        first = True
        try:
            for frame in container.decode(stream):
                if first:  # the resampler counts on from here; gaps within a file are rare, and its encoder's fault
                    sound.skip(round(((frame.time or 0.0) - start) * RATE))
                    first = False
                for part in resampler.resample(frame):
                    sound.write(part.to_ndarray().reshape(-1, channels).mean(1))
                if sound.full:
                    break
            else:
                for part in resampler.resample(None):
                    sound.write(part.to_ndarray().reshape(-1, channels).mean(1))
        except av.error.FFmpegError:
            broken = True
        if not np.isfinite(sound.energy):
            raise ValueError(f"{path} has samples that are not finite numbers")
        sound.finish()
        ends = float(((stream.start_time or 0) + (stream.duration or 0)) * (stream.time_base or 0)) - start
        return Sound(
            seconds=sound.heard / RATE,
            loudness=float(10 * np.log10(max(sound.energy / max(sound.heard, 1), 1e-12))),
            rate=stream.codec_context.sample_rate,
            channels=channels,
            broken=broken,
            more=max(ends - sound.written / RATE, 0.0),
        )


def has_sound(path: Path) -> bool:
    """Tell whether a file has sound.

    Raises:
        ValueError: If it cannot be read at all.
    """
    with _open(path) as container:
        return bool(container.streams.audio)


def read_blocks(path: Path, block: int = _BLOCK, context: int = 0) -> Iterator[NDArray[np.float32]]:
    """Read a wav of one channel in blocks, each with ``context`` samples more on both sides, zeros beyond the ends.

    Yields:
        ``[context + block + context]`` samples; the last block may be shorter.
    """
    import soundfile

    with soundfile.SoundFile(path) as wav:
        for begin in range(0, wav.frames, block):
            end = min(begin + block, wav.frames)
            wav.seek(max(begin - context, 0))
            samples = wav.read(min(end + context, wav.frames) - wav.tell(), dtype="float32")
            yield np.pad(samples, (max(context - begin, 0), max(end + context - wav.frames, 0)))


def _open(path: Path) -> InputContainer:
    import av

    try:
        return av.open(str(path))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as sound or video: {error.strerror}") from None


class _Writer:
    """Writes samples from time 0 up to a length, and measures them."""

    def __init__(self, wav: soundfile.SoundFile, length: int | None) -> None:
        self.wav, self.length = wav, length
        self.written = 0  # samples in the file
        self.heard = 0  # up to where they came from the sound
        self.energy = 0.0
        self._drop = 0  # samples before time 0

    @property
    def full(self) -> bool:
        return self.length is not None and self.written >= self.length

    def skip(self, offset: int) -> None:
        self._drop = max(-offset, 0)
        self._silence(max(offset, 0))

    def write(self, samples: NDArray[np.float32]) -> None:
        dropped = min(self._drop, len(samples))
        self._drop -= dropped
        samples = samples[dropped:]
        if self.length is not None:
            samples = samples[: self.length - self.written]
        self.wav.write(np.clip(samples, -1, 1))
        self.written += len(samples)
        self.heard = self.written
        self.energy += float(np.square(samples, dtype=np.float64).sum())

    def finish(self) -> None:
        if self.length is not None:
            self._silence(self.length - self.written)

    def _silence(self, samples: int) -> None:
        while samples > 0:
            part = min(samples, _BLOCK)
            if self.length is not None:
                part = min(part, self.length - self.written)
                if part <= 0:
                    return
            self.wav.write(np.zeros(part, np.float32))
            self.written += part
            samples -= part
