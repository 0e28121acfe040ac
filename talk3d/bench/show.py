"""What ``talk3d bench`` prints."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from talk3d.avatar import Avatar
from talk3d.bench.frame import FRAME, Budget, Side, Spread, measure, published_avatar

__all__ = ["show_budget"]

_WHAT = {
    "audio": "speech window to its token",
    "tokens": "blink, angles, landmarks",
    "unet": "identity and tokens to delta planes",
    "unet.id_cache": "the way down; cached by bake",
    "compose": "identity plus delta planes",
    "render": "volume renderer",
    "sr": "super-resolution",
    "backdrop": "the clip's background",
    "io": "composite, to 8 bits, to the host",
    "other": "in no range",
}

_OVERSUBSCRIBED = 8  # threads to a core, at most
_WIDE = 115  # columns of a terminal that the notes fit into


def show_budget(
    avatar: Path | None,
    *,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    threads: int | None = None,
    rounds: int = 7,
    as_json: bool = False,
) -> None:
    """Measure, with a progress bar, and print the budget.

    Args:
        avatar: The folder of an avatar; None for networks of the published sizes with random weights.
        precision: Type of the baked networks.
        device: Where to render; by default a GPU if there is one.
        threads: Of a CPU; by default as many as torch takes.
        rounds: How often each frame is measured.
        as_json: Print it for machines, and no progress.

    Raises:
        ValueError: If an option is wrong, or the avatar cannot be loaded.
    """
    place = _device(device)
    if threads is not None:
        # more than there are take turns; far more, and the library that starts them ends the process
        most = _OVERSUBSCRIBED * (os.cpu_count() or 1)
        if not 1 <= threads <= most:
            raise ValueError(f"threads must be from 1 to {most}, {_OVERSUBSCRIBED} to a core, got {threads}")
        torch.set_num_threads(threads)
    person = published_avatar() if avatar is None else Avatar.load(avatar)
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        budget = measure(
            person,
            dtype=getattr(torch, precision),
            device=place,
            rounds=rounds,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    facts = {
        "avatar": "published sizes, random weights" if avatar is None else str(avatar),
        "device": _name(place),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "rounds": rounds,
    }
    if as_json:
        print(json.dumps(facts | _plain(budget), indent=2, allow_nan=False))
    else:
        _print(budget, facts, Console(highlight=False))


def _device(name: str | None) -> torch.device:
    there = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if there else "cpu"))
    except RuntimeError:
        raise ValueError(f"a device is cpu, cuda or such as cuda:1, not {name!r}") from None
    if device.type == "cuda" and not there:
        raise ValueError(f"there is no GPU for the device {name!r}; talk3d info says why")
    return device


def _plain(budget: Budget) -> dict[str, Any]:
    plain = asdict(budget)
    plain["psnr"] = None if math.isinf(budget.psnr) else budget.psnr
    return plain


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _print(budget: Budget, facts: dict[str, Any], console: Console) -> None:
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    console.print(f"{facts['avatar']}; baked in {facts['precision']}", markup=False)
    console.print(f"{facts['device']}, {threads}, torch {facts['torch']}\n", markup=False)
    console.print(_table(budget, notes=console.width >= _WIDE))
    rounds = f"{facts['rounds']} round{'s' * (facts['rounds'] > 1)}"
    console.print(
        f"\nMilliseconds: medians of {rounds}, baked and unbaked in turns; ± is half the interquartile range.\n"
        f"Baking takes {budget.bake:.0f} ms, once; {budget.id_cache:.0f} of them are unet.id_cache."
    )
    if budget.replay:
        console.print(f"Replayed as a CUDA graph, the baked frame takes {' ± '.join(_numbers(budget.replay))} ms.")
    same = "are the same" if math.isinf(budget.psnr) else f"differ by a PSNR of {budget.psnr:.0f} dB"
    console.print(f"The pictures of both {same}.")


def _table(budget: Budget, *, notes: bool) -> Table:
    baked, unbaked = budget.baked, budget.unbaked
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    for heading in ("baked\nms", "\n±", "\n%", "\nGFLOP", "unbaked\nms", "\n±", "\nGFLOP", "unbaked\n/ baked"):
        table.add_column(heading, justify="right", no_wrap=True)
    if notes:
        table.add_column("", style="dim", no_wrap=True)
    for name in _rows(unbaked.milliseconds, baked.milliseconds):
        ratio = budget.ratio.get(name)
        table.add_row(
            "  " * name.count(".") + name.rpartition(".")[2],
            *_time(baked, name),
            _share(baked, name),
            _gflop(baked, name),
            *_time(unbaked, name),
            _gflop(unbaked, name),
            f"{ratio.median:.1f} x" if ratio else "",
            *([_WHAT.get(name, "")] if notes else []),
            style="bold" if name == FRAME else None,
        )
    return table


def _rows(*sides: Any) -> list[str]:
    """Name all stages, each under what it belongs to, in the order of the frame; the whole and the rest come last."""
    names = list(dict.fromkeys(name for side in sides for name in side))
    children: dict[str, list[str]] = {}
    for name in names:
        children.setdefault(name.rpartition(".")[0], []).append(name)

    def below(name: str) -> list[str]:
        return [name, *(deeper for child in children.get(name, []) for deeper in below(child))]

    found = [name for top in children[""] if top not in (FRAME, "other") for name in below(top)]
    return [*found, "other", FRAME]


def _time(side: Side, name: str) -> tuple[str, str]:
    spread = side.milliseconds.get(name)
    return _numbers(spread) if spread else ("", "")


def _numbers(spread: Spread) -> tuple[str, str]:
    """Write median and spread, with the digits that the median deserves."""
    digits = 0 if spread.median >= 1000 else 1 if spread.median >= 100 else 2
    return f"{spread.median:.{digits}f}", f"{(spread.high - spread.low) / 2:.{digits}f}"


def _share(side: Side, name: str) -> str:
    spread = side.milliseconds.get(name)
    return f"{100 * spread.median / side.milliseconds[FRAME].median:.1f}" if spread else ""


def _gflop(side: Side, name: str) -> str:
    work = side.gflop.get(name, 0.0)
    return f"{work:.2f}" if work >= 0.005 else ""
