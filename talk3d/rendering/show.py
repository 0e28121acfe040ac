"""What ``talk3d render`` prints."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from talk3d.motion import FPS
from talk3d.rendering.job import RenderJob
from talk3d.rendering.render import Rendered, render

__all__ = ["Options", "show_render"]


class Options(Protocol):
    """The options of the command, see :class:`talk3d.cli.Render`."""

    avatar: Path
    audio: Path
    out: Path
    camera: str
    background: str
    paste_back: Path | None
    resolution: int | None
    precision: Literal["float32", "bfloat16", "float16"]
    superresolution: Literal["plain", "compiled", "fastest", "8bit"]
    batch: int
    shard: str
    overwrite: bool
    json: bool


def show_render(options: Options) -> None:
    """Render, with a progress bar, and print what has come of it.

    Raises:
        ValueError: If an option is wrong.
    """
    job = RenderJob(
        avatar=str(options.avatar),
        audio=str(options.audio),
        out=str(options.out),
        camera=options.camera,
        background=options.background,
        paste_back=None if options.paste_back is None else str(options.paste_back),
        resolution=options.resolution,
        precision=options.precision,
        superresolution=options.superresolution,
        batch=options.batch,
    )
    columns = (
        TextColumn("rendering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=options.json) as bar:
        task = bar.add_task("rendering", total=None)
        try:
            found = render(
                job,
                shard=_shard(options.shard),
                overwrite=options.overwrite,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            bar.stop()
            print("talk3d: stopped; the same command goes on after the last whole chunk", file=sys.stderr)
            raise
    if options.json:
        print(json.dumps(asdict(found), default=str, indent=2))
    else:
        print(_sentence(job, found))
        if found.choice:
            print(found.choice)


def _sentence(job: RenderJob, found: Rendered) -> str:
    if found.out is None:
        return f"{found.missing} of {found.chunks} chunks are yet to come from other shards; the last one joins them."
    return f"{job.out}: {found.frames} frames, {found.frames / FPS:.2f} s"


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ValueError(f"a shard is i/n, such as 1/4, not {text!r}")
    return int(part), int(parts)
