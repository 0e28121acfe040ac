"""What ``talk3d prepare`` prints while it works, and in the end."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from talk3d.data.meta import Meta
from talk3d.data.prepare import Options, prepare

__all__ = ["show_preparation"]


def show_preparation(source: Path, out: Path, options: Options, *, as_json: bool = False) -> None:
    """Prepare a clip with a bar for each kind of work, and tell what became of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=as_json)
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        meta = prepare(source, out, options, tell)
    if as_json:
        print(json.dumps(asdict(meta), indent=2))
        return
    _print(meta, out)


def _print(meta: Meta, out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    parts = ", ".join(f"{name} {stop - start}" for name, (start, stop) in meta.splits.items())
    console.print(
        f"{out}: {meta.frames} frames of {meta.size} x {meta.size}, {meta.features.name} ({parts})", markup=False
    )
    for note in meta.notes:
        console.print(f"  {note.kind}: {note.text}", markup=False)
    if (out / "overview.png").exists():
        console.print(f"  look at {out / 'overview.png'}", markup=False)
