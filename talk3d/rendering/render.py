"""A job from its first chunk to the video; what ``talk3d render`` does."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from talk3d.avatar import Avatar, BakedAvatar
from talk3d.beside import replacing
from talk3d.motion import ping_pong
from talk3d.profiling import annotate
from talk3d.rendering.cameras import camera_path
from talk3d.rendering.frames import Renderer
from talk3d.rendering.job import JobFolder, RenderJob
from talk3d.rendering.paste import Paster
from talk3d.rendering.video import SegmentWriter, join

__all__ = ["Rendered", "render", "render_chunk"]

_WAITING = 16  # pictures that may wait for the encoder: two thirds of a second, 50 MB at 1024 x 1024

Progress = Callable[[int, int], object]
"""Called with frames that are done, and frames that there are."""


@dataclass(frozen=True)
class Rendered:
    """What a job has come to.

    Attributes:
        frames: Frames of the whole video.
        chunks: Chunks of it.
        missing: Chunks that other shards have yet to render.
        out: The video, if nothing is missing.
        choice: Which super-resolution was the faster one, if that was asked for.
    """

    frames: int
    chunks: int
    missing: int
    out: Path | None
    choice: str | None = None


def render(
    job: RenderJob,
    *,
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Rendered:
    """Render a job, or go on with it: chunks that are there are not rendered again.

    Args:
        job: What is to be rendered.
        shard: ``(i, n)``: render every n-th chunk, from the i-th on. Shards may run at the same time in the same
            folder; the one that finds all chunks joins them.
        overwrite: Whether a video, or parts of another job, may be replaced.
        device: Where to render; by default a GPU if there is one.
        progress: Told after each frame.

    Raises:
        ValueError: If an input is missing or damaged, does not fit the others, or the video exists; or on
            super-resolution in 8 bits that the device does not multiply, or that can be seen.
        RuntimeError: If the super-resolution is to be compiled, and cannot be.
        OSError: If something cannot be written. What was rendered before stays, and running the job again goes on.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise ValueError(f"a shard is i/n with i from 1 to n, got {part}/{parts}")
    out = Path(job.out)
    job.require_free(overwrite=overwrite)
    if not Path(job.audio).is_file():
        raise ValueError(f"{job.audio} {'is a folder, not a sound' if Path(job.audio).is_dir() else 'does not exist'}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{out.absolute().parent} is no folder")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with annotate("io.load"):
        loaded = Avatar.load(job.avatar)
    dtype = getattr(torch, job.precision)
    avatar = loaded.bake(dtype, device=device, superresolution=job.superresolution, batch=job.batch)
    renderer = _renderer(job, avatar)
    folder = JobFolder(job)
    with folder.opened(fresh=overwrite):
        job.require_free(overwrite=overwrite)  # another process may have finished it meanwhile
        found = _chunk_by_chunk(job, renderer, folder, shard, progress)
    return found if avatar.choice is None else replace(found, choice=str(avatar.choice))


def _chunk_by_chunk(
    job: RenderJob, renderer: Renderer, folder: JobFolder, shard: tuple[int, int], progress: Progress
) -> Rendered:
    part, parts = shard
    features = _features(renderer.avatar, folder)
    chunks = -(-len(features) // job.chunk)
    mine = range(part - 1, chunks, parts)
    total = sum(len(_frames(job, len(features), index)) for index in mine)
    done, paster = 0, None

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for index in mine:
        if folder.chunk(index).exists():
            done += len(_frames(job, len(features), index))
            progress(done, total)
        else:
            paster = paster or _paster(job, renderer.avatar)
            render_chunk(job, renderer, features, index, folder.chunk(index), step, paster)
    missing = [index for index in range(chunks) if not folder.chunk(index).exists()]
    if missing:
        return Rendered(len(features), chunks, len(missing), None)
    with folder.alone() as unfinished:
        if unfinished:
            _finish(job, folder, [folder.chunk(index) for index in range(chunks)], len(features))
            folder.remove()
    return Rendered(len(features), chunks, 0, Path(job.out))


def render_chunk(
    job: RenderJob,
    renderer: Renderer,
    features: NDArray[np.float32],
    index: int,
    out: Path,
    step: Callable[[], object] = lambda: None,
    paster: Paster | None = None,
) -> None:
    """Render a chunk to a file of its own, which appears whole or not at all.

    Args:
        job: What it belongs to.
        renderer: Renders its frames.
        features: Speech of the whole job ``[N, 16, F]``.
        index: Which chunk.
        out: ``.mp4``, ``.mov``, or a folder of PNG files.
        step: Called after each frame.
        paster: Puts the frames into the clip, if they shall be; one for many chunks reads the clip once.
    """
    frames = _frames(job, len(features), index)
    pictures = renderer(features, frames)
    if paster := paster or _paster(job, renderer.avatar):
        pictures = paster(pictures, ping_pong(frames, len(paster.motion.blink)))
    if job.format == "png":
        _write_pngs(pictures, frames, out, step)
        return
    _write_segment(pictures, out, step)


def _paster(job: RenderJob, avatar: BakedAvatar) -> Paster | None:
    if job.paste_back is None or avatar.motion is None:
        return None
    return Paster(Path(job.paste_back), avatar.motion, int(avatar.facts.get("source", {}).get("first_frame", 0)))


def _renderer(job: RenderJob, avatar: BakedAvatar) -> Renderer:
    """Everything that may be wrong with a job is found out before anything is written."""
    if job.paste_back and avatar.motion is None:
        raise ValueError("this avatar does not know its clip: it cannot be pasted back")
    if job.paste_back and not Path(job.paste_back).is_file():
        raise ValueError(f"{job.paste_back} does not exist")
    camera = camera_path(job.camera, avatar.config)
    return Renderer(avatar, camera, background=job.background, batch=job.batch, side=job.resolution)


def _frames(job: RenderJob, count: int, chunk: int) -> range:
    return range(chunk * job.chunk, min((chunk + 1) * job.chunk, count))


def _features(avatar: BakedAvatar, folder: JobFolder) -> NDArray[np.float32]:
    """Speech features, made by the first who needs them and mapped into memory by all."""
    if not folder.features.exists():
        with replacing(folder.features) as unfinished:
            avatar.encode_speech(folder.job.audio, unfinished)
    found: NDArray[np.float32] = np.load(folder.features, mmap_mode="r")
    return found


class _Abandoned(Exception):
    """Whoever rendered has stopped."""


def _write_segment(pictures: Iterator[NDArray[np.uint8]], out: Path, step: Callable[[], object]) -> None:
    """Render, and encode in a thread meanwhile.

    It is not rendering that goes to the thread: beside the main thread's team of OpenMP's a second one renders a frame
    in 61 ms where the first takes 35 (two cores). The likely cause: more threads than cores sleep at barriers.
    """
    waiting: queue.Queue[NDArray[np.uint8] | _Abandoned | None] = queue.Queue(_WAITING)
    failed: list[BaseException] = []

    def encode(picture: NDArray[np.uint8] | _Abandoned | None) -> None:
        try:
            assert isinstance(picture, np.ndarray)
            with SegmentWriter(out, picture.shape[1], picture.shape[0]) as segment:
                while picture is not None:
                    if isinstance(picture, _Abandoned):
                        raise picture
                    segment.write(picture)
                    picture = waiting.get()
        except BaseException as error:  # the caller raises it
            failed.append(error)
            while isinstance(picture, np.ndarray):  # nobody shall wait for room
                picture = waiting.get()

    encoder = threading.Thread(target=encode, args=(next(pictures),), name="encoder", daemon=True)
    encoder.start()
    try:
        step()
        for picture in pictures:
            waiting.put(picture)
            step()
            if failed:
                break
    except BaseException:
        waiting.put(_Abandoned())
        encoder.join()
        raise
    waiting.put(None)
    encoder.join()
    if failed:
        raise failed[0]


def _write_pngs(pictures: Iterator[NDArray[np.uint8]], frames: range, out: Path, step: Callable[[], object]) -> None:
    with replacing(out) as unfinished:
        unfinished.mkdir()
        for frame, picture in zip(frames, pictures, strict=True):
            with annotate("io.encode"):
                Image.fromarray(picture).save(unfinished / f"{frame:06d}.png")
            step()


def _finish(job: RenderJob, folder: JobFolder, chunks: list[Path], frames: int) -> None:
    """Join the chunks in their folder, and rename: what is there already goes when the new one is whole."""
    out, joined = Path(job.out).absolute(), folder.path / f"joined{Path(job.out).suffix}"
    if job.format != "png":
        join(chunks, Path(job.audio), frames, joined)
        os.replace(joined, out)
        return
    joined.mkdir(exist_ok=True)  # if it is there, a run was killed while it did this; what it had moved is in it
    for chunk in chunks:
        for picture in sorted(chunk.iterdir()):
            os.replace(picture, joined / picture.name)
    if out.exists():
        os.replace(out, folder.path / "replaced")
    os.replace(joined, out)
