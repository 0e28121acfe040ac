"""What ``talk3d evaluate`` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from talk3d.beside import make_parent
from talk3d.evaluation.drawing import draw
from talk3d.evaluation.metrics import METRICS
from talk3d.evaluation.report import Report, number, table, write_report
from talk3d.evaluation.run import Options, evaluate

__all__ = ["Command", "show_evaluation"]


class Command(Protocol):
    """The options of the command, see :class:`talk3d.cli.Evaluate`."""

    avatar: Path
    data: Path
    out: Path
    split: Literal["train", "val", "test"]
    frames: int | None
    no_views: bool
    lpips: Path | None
    inception: Path | None
    syncnet: Path | None
    curricularface: Path | None
    precision: Literal["float32", "bfloat16", "float16"]
    batch: int
    overwrite: bool
    json: bool


def show_evaluation(command: Command) -> None:
    """Evaluate, with a progress bar, write the report, and print its numbers.

    Raises:
        ValueError: If an option is wrong, or the inputs do not fit each other.
    """
    out = command.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is no folder")
    if out.exists() and any(out.iterdir()) and not command.overwrite:
        raise ValueError(f"{out} exists already and is not empty; pass --overwrite to replace it")
    if out.exists() and any(out.iterdir()) and not (out / "report.json").is_file():
        raise ValueError(f"{out} holds something that is no report: it is not replaced; name another folder")
    make_parent(out)  # before what takes long
    options = Options(
        split=command.split,
        frames=command.frames,
        views=not command.no_views,
        lpips=command.lpips,
        inception=command.inception,
        syncnet=command.syncnet,
        curricularface=command.curricularface,
        precision=command.precision,
        batch=command.batch,
    )
    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=command.json) as bar:
        task = bar.add_task("evaluating", total=None)
        found = evaluate(
            command.avatar,
            command.data,
            options,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_report(found.report, draw(found), out)
    if command.json:
        print(json.dumps(found.report.to_dict(), indent=1, allow_nan=False))
    else:
        _print(found.report, out)


def _print(report: Report, out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    regions, rows = table(report)
    console.print(f"{report.frames} frames of {report.split}; floor: what the mean training frame scores")
    pictures = Table("", *regions, box=None, pad_edge=False)
    for column in pictures.columns[1:]:
        column.justify = "right"
    for metric, cells in rows:
        pictures.add_row(_label(metric), *(number(found.value if found else None) for found in cells))
        pictures.add_row("  floor", *(number(found.floor if found else None) for found in cells), style="dim")
    console.print(pictures)
    for found in report.measured:
        if not found.region and found.reason is None:
            floor = "" if found.floor is None else f" (floor: {number(found.floor)})"
            console.print(f"{_label(found.metric)}: {number(found.value)}{floor}", markup=False)
    reasons = dict.fromkeys((found.title, found.reason) for found in report.measured if found.reason is not None)
    for title, reason in reasons:
        console.print(f"{title}: not measured, {reason}", markup=False)
    console.print(f"look at {out / 'report.html'}", markup=False)


def _label(metric: str) -> str:
    known = METRICS[metric]
    return known.title + (f", {known.unit}" if known.unit else "")
