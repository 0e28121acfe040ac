"""The demo: the whole way from a clip to a report, on the synthetic clip, by the commands that a user types."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from talk3d.beside import make_parent, replacing
from talk3d.data import synthetic
from talk3d.data.synthetic import SyntheticClip, speech
from talk3d.training.config_file import run_folder

__all__ = ["run_demo"]

_SIZE = 256  # of the clip's pictures, and of the crops
_SECONDS = 24.0

Command = Callable[[Sequence[str]], int]


def run_demo(out: Path, command: Command, *, preset: str = "demo", seconds: float = _SECONDS) -> int:
    """Film, prepare, fit, render and evaluate; what is there already is not made again.

    Args:
        out: Folder for everything that is made, but for the clip, which lies in the cache.
        command: Runs a command of the command line and returns its exit code.
        preset: Of ``talk3d fit``.
        seconds: Length of the clip.

    Returns:
        The exit code: that of the first command that failed.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If the folder cannot be made.
    """
    console, start = Console(), time.monotonic()
    make_parent(out / "data")
    clip = _film(seconds, console)
    sound = out / "speech.wav"
    if not sound.exists():
        utterance = speech.load("held_out")
        with replacing(sound) as unfinished:
            soundfile.write(unfinished, utterance.samples, speech.RATE, subtype="PCM_16")
    data, avatar, video, report = out / "data", out / "avatar", out / "talking.mp4", out / "report"
    resume = ["--resume"] if run_folder(avatar).exists() else []
    steps: list[tuple[Path, list[str]]] = [
        (data, ["prepare", str(clip.video), "--out", str(data), "--size", str(_SIZE)]),
        (avatar, ["fit", str(data), "--out", str(avatar), "--preset", preset, *resume]),
        (video, ["render", str(avatar), "--audio", str(sound), "--camera", "orbit", "--out", str(video)]),
        (report, ["evaluate", str(avatar), str(data), "--out", str(report)]),
    ]
    for made, arguments in steps:
        if made.exists():
            console.print(f"{made} is there already", highlight=False)
            continue
        console.print(f"\n[bold]$ talk3d {shlex.join(arguments)}[/]", highlight=False, soft_wrap=True)
        if code := command(arguments):
            return code
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    console.print(
        f"\nDone in {minutes} min {seconds} s. The person never was, and never said this in the clip.\n"
        f"  look:  {video}, and {report / 'report.html'}\n"
        f"  next:  talk3d render {avatar} --audio YOUR.wav --camera fixed:25,5 --out yours.mp4\n"
        "         talk3d prepare YOUR_CLIP.mp4 --out data/you && talk3d fit data/you --out avatars/you",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _film(seconds: float, console: Console) -> SyntheticClip:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Filming a person who never was", total=None)
        clip = synthetic.cached(
            size=_SIZE, seconds=seconds, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    console.print(f"The clip: {clip.video}", highlight=False)
    return clip
