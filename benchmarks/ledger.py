"""Results in git: one CSV for each device, one row for each result, the latest."""

from __future__ import annotations

import csv
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch

from gates import Key, Result

HERE = Path(__file__).parent
KEY = ("case", "peer", "metric", "impl", "device")
COLUMNS = (
    *KEY,
    *("median", "q25", "q75", "min", "max", "noise_q25", "noise_q75"),
    *("rounds", "threads", "torch", "commit", "date"),
)


def device(threads: int, kind: str = "cpu") -> str:
    """Name what decides speed, and nothing that tells one machine of a kind from another."""
    if kind == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    instructions = torch.backends.cpu.get_cpu_capability().lower()  # avx512, avx2, default
    return f"cpu-{processor()}-{instructions}-{threads}threads"


def processor() -> str:
    """Name a processor's generation: of some, AVX-512 is twice as wide inside as of others."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if not {"vendor_id", "cpu family", "model"} <= facts.keys():
        return platform.machine()
    vendor = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(facts["vendor_id"], facts["vendor_id"].lower())
    return f"{vendor}-{facts['cpu family']}-{facts['model']}"


@cache
def commit() -> str:
    """Describe the checked-out commit; empty where there is none."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def row(key: Key, result: Result, impl: str, threads: int, kind: str = "cpu") -> dict[str, str]:
    """Write a result as a row; ``kind`` is that of the device."""
    spread, noise = result.spread, result.noise
    numbers = {
        "median": spread.median,
        **dict(zip(("q25", "q75"), spread.quartiles, strict=True)),
        "min": min(spread.values),
        "max": max(spread.values),
        **(dict(zip(("noise_q25", "noise_q75"), noise.quartiles, strict=True)) if noise else {}),
    }
    return {
        **key._asdict(),
        "impl": impl,
        "device": device(threads, kind),
        **{name: f"{number:.4g}" for name, number in numbers.items()},
        "rounds": str(len(spread.values)),
        "threads": str(threads),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def upsert(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Put rows in the place of those with the same key. A reader finds the old file or the new one, never a part."""
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    merged = {tuple(row[column] for column in KEY): row for row in [*old, *rows]}
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged[key] for key in sorted(merged))
    beside.replace(path)
