"""Pictures to video: segments that are encoded each for itself, and joined with sound without encoding them again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from talk3d.beside import beside, replacing
from talk3d.motion import FPS
from talk3d.profiling import annotate

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.packet import Packet

__all__ = ["SegmentWriter", "join"]

_RATES = (48000, 44100, 32000, 24000, 22050, 16000)  # of AAC; a sound keeps its own if it is one of these
_THREADS = 2  # x264's output depends on how many there are, so that a number that varies would vary the bytes

_PRORES = {"profile": "4444"}
# CRF 16 is where x264 is hard to tell from the original; one closed group of pictures for each segment. Of the demo's
# head "medium" makes files 1 % larger than "veryfast", "faster" 8 %, which are 0.4 and 0.2 dB closer to what was
# rendered (41.4 dB: 4:2:0 halves colours before); "faster" takes 1.4 times the processor's time of "veryfast". What is
# looked ahead has to be encoded after the last picture of a segment, while nothing is rendered
_X264 = {"crf": "16", "preset": "veryfast", "x264-params": "open-gop=0:scenecut=0:keyint=infinite:rc-lookahead=10"}


class SegmentWriter:
    """Encode pictures as a video without sound, which appears whole or not at all. A context manager.

    Args:
        path: ``.mp4`` (H.264, 4:2:0) or ``.mov`` (ProRes 4444 with alpha).
        width: Of the pictures, even.
        height: Likewise.
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        import av

        self._path, self._beside = path, beside(path)
        self._container = av.open(str(self._beside), "w")
        alpha = path.suffix == ".mov"
        stream = self._container.add_stream("prores_ks" if alpha else "libx264", rate=FPS)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuva444p10le" if alpha else "yuv420p"
        stream.codec_context.thread_count = _THREADS
        stream.options = dict(_PRORES if alpha else _X264)
        self._stream, self._count = stream, 0

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Encode a picture ``[H, W, 3]``, or ``[H, W, 4]`` where ``.mov`` shall be transparent."""
        import av

        with annotate("io.encode"):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = self._count, Fraction(1, FPS)
            self._count += 1
            self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with annotate("io.encode"):  # what the encoder held back
                    self._container.mux(self._stream.encode(None))
                self._container.close()
                os.replace(self._beside, self._path)
        finally:
            self._container.close()
            self._beside.unlink(missing_ok=True)


def join(segments: list[Path], audio: Path, frames: int, out: Path) -> None:
    """Join segments, and put sound beside them. Memory does not grow with their length.

    Args:
        segments: What :class:`SegmentWriter` wrote with the same arguments, in their order.
        audio: The sound; as much of it as there are pictures, silence where it ends before.
        frames: How many pictures there are in all.
        out: The video, written beside and renamed.
    """
    import av

    faststart = {"movflags": "+faststart"}
    with replacing(out) as unfinished, av.open(str(unfinished), "w", options=faststart) as container:
        with av.open(str(segments[0])) as first:
            video = container.add_stream_from_template(first.streams.video[0])
        sound = _sound_packets(container, audio, Fraction(frames, FPS))
        due = next(sound, None)
        for packet in _video_packets(segments, video):
            now = _time(packet)
            while due is not None and _time(due) <= now:
                container.mux(due)
                due = next(sound, None)
            container.mux(packet)
        while due is not None:
            container.mux(due)
            due = next(sound, None)


def _time(packet: Packet[Any]) -> Fraction:
    assert packet.dts is not None  # an encoder's packets have both
    assert packet.time_base is not None
    return packet.dts * packet.time_base


def _video_packets(segments: list[Path], stream: av.VideoStream) -> Iterator[Packet[Any]]:
    import av

    shown = 0
    for segment in segments:
        with av.open(str(segment)) as container:
            source = container.streams.video[0]
            assert source.time_base is not None  # a file's streams have one
            shift = round(Fraction(shown, FPS) / source.time_base)
            for packet in container.demux(source):
                if packet.dts is not None and packet.pts is not None:
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    packet.stream = stream
                    yield packet
            shown += source.frames


def _sound_packets(container: OutputContainer, audio: Path, seconds: Fraction) -> Iterator[Packet[Any]]:
    """Encode the first sound of a file as AAC, from time 0 on and just so long."""
    import av

    with av.open(str(audio)) as source:
        found = source.streams.audio[0]
        rate = found.rate if found.rate in _RATES else 48000
        layout = "mono" if found.channels == 1 else "stereo"
        stream = container.add_stream("aac", rate=rate, layout=layout)
        stream.bit_rate = 128_000 * (1 if layout == "mono" else 2) // 2 + 64_000
        size = stream.codec_context.frame_size or 1024
        fifo = av.AudioFifo()
        count, total = 0, round(seconds * rate)
        for samples in _samples(source, found, rate, layout, total):
            fifo.write(samples)
            for frame in fifo.read_many(size):
                frame.pts, frame.time_base = count, Fraction(1, rate)
                count += frame.samples
                yield from stream.encode(frame)
        rest = fifo.read(0)
        if rest is not None:
            rest.pts, rest.time_base = count, Fraction(1, rate)
            yield from stream.encode(rest)
        yield from stream.encode(None)


def _samples(
    source: av.container.InputContainer, found: av.AudioStream, rate: int, layout: str, total: int
) -> Iterator[av.AudioFrame]:
    """Just ``total`` samples from time 0 on: what is before is dropped, what is missing is silence."""
    import av

    channels = 1 if layout == "mono" else 2
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    written, skip = 0, None

    def frame_of(samples: NDArray[np.float32]) -> av.AudioFrame:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.rate = rate
        return frame

    def parts() -> Iterator[NDArray[np.float32]]:
        nonlocal skip
        try:
            for frame in source.decode(found):
                if skip is None:
                    skip = -round((frame.time or 0.0) * rate)
                    if skip < 0:
                        yield np.zeros((channels, -skip), np.float32)
                for part in resampler.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False)
            for part in resampler.resample(None):
                yield part.to_ndarray().astype(np.float32, copy=False)
        except av.error.FFmpegError:
            return  # a file that breaks off; what is missing is silence, as in its features

    for samples in parts():
        if skip is not None and skip > 0:
            dropped = min(skip, samples.shape[1])
            skip, samples = skip - dropped, samples[:, dropped:]
        samples = samples[:, : total - written]
        if samples.shape[1]:
            written += samples.shape[1]
            yield frame_of(samples)
        if written == total:
            return
    while written < total:
        silence = np.zeros((channels, min(total - written, rate)), np.float32)
        written += silence.shape[1]
        yield frame_of(silence)
