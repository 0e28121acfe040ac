"""What ``talk3d convert`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from talk3d.ops.triplane import Axes
from talk3d.weights.convert import convert, listing
from talk3d.weights.recorded import printable

__all__ = ["show_conversion", "show_listing", "show_written"]


def show_conversion(source: Path, out: Path, given: Axes | None, *, as_json: bool = False) -> None:
    """Convert a checkpoint, and print what was written."""
    weights = convert(source, out, axes=given)
    parts = {name: len(tensors) for name, tensors in weights.parts.items()}
    if as_json:
        print(json.dumps({"out": str(out), "kind": weights.kind, "parts": parts, **weights.facts}, indent=2))
        return
    counted = ", ".join(f"{name} ({count} tensors)" for name, count in parts.items())
    axes = f", axes {weights.facts['axes']!r}" if weights.facts["axes"] else ""
    _print_written(f"{out}: {weights.kind}{axes}: {counted}", weights.facts["notes"])


def show_written(out: Path, kind: str, notes: Sequence[str], *, as_json: bool = False) -> None:
    """Print that a folder was written."""
    if as_json:
        print(json.dumps({"out": str(out), "kind": kind, "notes": list(notes)}, indent=2))
    else:
        _print_written(f"{out}: {kind}", notes)


def _print_written(line: str, notes: Sequence[str]) -> None:
    print(line)
    for note in notes:
        print(f"Note: {note}")


def show_listing(source: Path, *, as_json: bool = False) -> None:
    """Print what a checkpoint holds, without converting it."""
    found = listing(source)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['file']}: {found['holds']}, axes {found['axes'] or 'not said'}")
    for name, value in found["options"].items():
        print(f"  {printable(name)} = {printable(str(value))}")
    print(f"{len(found['tensors'])} tensors")
    for tensor in found["tensors"]:
        print(f"  {tensor['name']} {tensor['shape']} {tensor['dtype']}")
    print(f"Names that the file refers to, none of which was looked up: {', '.join(found['names'])}")
