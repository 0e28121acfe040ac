"""Pictures of a clip at 25 a second, whatever its own rate, by the times at which they are to be shown."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

__all__ = ["FPS", "Clip", "Picture", "Pictures", "Video", "ahead"]

FPS = 25.0  # of every dataset: two steps of speech features to a frame


class Picture(NamedTuple):
    """A picture on the grid of 25 a second.

    Attributes:
        frame: Its number on the grid.
        time: When the source shows it, in seconds after its first picture; up to half a source frame off the grid.
        pixels: Red, green, blue, uint8 ``[H, W, 3]``, upright.
    """

    frame: int
    time: float
    pixels: NDArray[np.uint8]


class Pictures(Protocol):
    """Whatever gives pictures: a video, or a folder of them."""

    def __iter__(self) -> Iterator[Picture]:
        """Begin again at the first picture."""
        ...


@dataclass
class Clip:
    """What is known of a video; complete after it was read to its end.

    Attributes:
        width: Of its upright pictures, in pixels.
        height: Likewise.
        fps: The mean rate that the file states.
        rotation: Quarter turns, clockwise in degrees, that were applied.
        aspect: Width over height of a pixel in the file; those of the pictures are square.
        start: Time of the first picture on the file's clock, in seconds.
        codec: Its name.
        promised: The length that the file states, in seconds; 0 if none.
        seconds: The length that was there.
        shown: Pictures in the file that were used.
        skipped: Pictures in the file that fell between two points of the grid.
        repeated: Points of the grid that show the picture before once more.
        broken: Why reading stopped before the end; empty if it did not.
    """

    width: int = 0
    height: int = 0
    fps: float = 0.0
    rotation: int = 0
    aspect: float = 1.0
    start: float = 0.0
    codec: str = ""
    promised: float = 0.0
    seconds: float = 0.0
    shown: int = 0
    skipped: int = 0
    repeated: int = 0
    broken: str = ""


class Video:
    """A video as pictures at 25 a second: to each point of the grid, the picture that is nearest in time.

    Args:
        path: Any file that FFmpeg reads.

    Raises:
        ValueError: If it cannot be read, or has no pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clip = Clip()
        self._steady = True  # no clock ran backwards, and there is one
        for _ in self._decode():
            return
        raise ValueError(f"{path} holds no pictures")

    def __iter__(self) -> Iterator[Picture]:
        """Decode from the beginning."""
        self.clip.shown = self.clip.skipped = self.clip.repeated = 0
        return self._pictures(self._decode(), 0)

    def since(self, frame: int) -> Iterator[Picture]:
        """The same pictures, but those at the beginning: from any picture before ``frame``, or ``frame``, to the last.

        Decodes from a key picture before it where the file lets itself be sought, and from the beginning where not.
        """
        back = 3 * max(1 / FPS, 1 / (self.clip.fps or FPS))  # seconds: what is nearest in time takes two neighbours
        if self._steady and frame / FPS > back:
            pictures = self._pictures(self._decode(frame / FPS - back), None)
            first = next(pictures, None)
            if first is not None and first.frame <= frame:
                yield first
                yield from pictures
                return
        yield from self

    def _pictures(self, decoded: Iterator[tuple[float, av.VideoFrame]], start: int | None) -> Iterator[Picture]:
        """From a point of the grid on; by default from the first whose picture is not the first decoded."""
        clip, index = self.clip, start
        before: tuple[float, av.VideoFrame] | None = None
        length = 1 / clip.fps if clip.fps else 1 / FPS
        for now in decoded:
            if before is not None:
                until = (before[0] + now[0]) / 2
                if index is None:
                    index = int(np.ceil(until * FPS - 1e-6))
                last = index
                yield from self._emit(before, index, until)
                index = max(index, int(np.ceil(until * FPS - 1e-6)))
                self._count(index - last)
                length = now[0] - before[0]
            before = now
        if start is None and (before is None or index is None):
            return
        if before is None or index is None:
            raise ValueError(f"{self.path} holds no pictures")
        clip.seconds = before[0] + length
        last, end = index, round(clip.seconds * FPS)
        yield from self._emit(before, index, (end - 0.5) / FPS)
        self._count(max(end - last, 0))

    def _count(self, shown: int) -> None:
        self.clip.shown += shown > 0
        self.clip.skipped += shown == 0
        self.clip.repeated += max(shown - 1, 0)

    def _emit(self, frame: tuple[float, av.VideoFrame], index: int, until: float) -> Iterator[Picture]:
        """The points of the grid from ``index`` on that are before ``until``."""
        count = int(np.ceil(until * FPS - 1e-6)) - index
        if count > 0:
            pixels = _upright(frame[1], self.clip)
            for k in range(count):
                yield Picture(index + k, frame[0], pixels)

    def _decode(self, since: float | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Pictures with their times, seconds after the first: all, or from a key picture at ``since`` or before it."""
        import av

        clip, clip.broken = self.clip, ""
        try:
            container = av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} cannot be read as a video: {error.strerror}") from None
        with container:
            if not container.streams.video:
                raise ValueError(f"{self.path} has no pictures, only sound")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            clip.codec, clip.fps = stream.codec_context.name, float(stream.average_rate or 0)
            clip.aspect = float(stream.sample_aspect_ratio or 1)
            clip.promised = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            previous, first, key = -1.0, since is None, since is None
            try:
                if since is not None and stream.time_base:
                    container.seek(int((clip.start + since) / stream.time_base), stream=stream)
                for frame in container.decode(stream):
                    key = key or frame.key_frame
                    if not key:  # it may refer to what was not decoded
                        continue
                    self._steady = self._steady and frame.time is not None
                    if frame.time is None:  # a raw stream has no clock: its rate must do
                        time = previous + 1 / (clip.fps or FPS) if not first else clip.start
                    else:
                        time = frame.time
                    if first:
                        clip.start, first = time, False
                        clip.rotation = -frame.rotation % 360
                        upright = _upright(frame, clip)
                        clip.height, clip.width = upright.shape[:2]
                    if time - clip.start <= previous:  # a clock that runs backwards shows nothing
                        self._steady = False
                        continue
                    previous = time - clip.start
                    yield previous, frame
            except av.error.FFmpegError as error:
                clip.broken = error.strerror or "damaged"
                if first:
                    raise ValueError(f"{self.path} cannot be decoded: {error.strerror}") from None


def ahead(pictures: Pictures, count: int = 4) -> Iterator[Picture]:
    """Decode in a thread, up to ``count`` pictures before they are asked for."""
    ready: queue.Queue[Picture | BaseException | None] = queue.Queue(count)
    stop = threading.Event()

    def put(item: Picture | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for picture in pictures:
                if not put(picture):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _upright(frame: av.VideoFrame, clip: Clip) -> NDArray[np.uint8]:
    """Red, green, blue with square pixels, turned as the file says."""
    pixels = frame.reformat(width=round(frame.width * clip.aspect), format="rgb24").to_ndarray()
    turned: NDArray[np.uint8] = np.ascontiguousarray(np.rot90(pixels, -clip.rotation // 90))
    return turned
