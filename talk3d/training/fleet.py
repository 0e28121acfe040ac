"""``talk3d fit --identities``: many people, one to a device, resumed as a whole."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from talk3d.avatar import Avatar
from talk3d.beside import replacing
from talk3d.training.config_file import run_folder

__all__ = ["Identity", "fit_fleet", "read_identities"]

State = Literal["waits", "runs", "done", "failed"]
_RUN = "run.json"  # in the folder of a run that has begun
_LOG = "fleet.log"  # beside it
_POLL = 0.2  # seconds


@dataclass
class Identity:
    """A person of a fleet.

    Attributes:
        data: What ``talk3d prepare`` made.
        out: The avatar.
        state: How far it is.
        device: Where it was trained, or is.
        note: What there is to say.
    """

    data: Path
    out: Path
    state: State = "waits"
    device: str = ""
    note: str = ""

    def row(self) -> dict[str, str]:
        """Everything, ready for JSON."""
        return {
            "data": str(self.data),
            "out": str(self.out),
            "state": self.state,
            "device": self.device,
            "note": self.note,
        }


def read_identities(path: Path) -> list[Identity]:
    """Read a list: in each line a dataset and the avatar to make of it; ``#`` begins a comment.

    Raises:
        ValueError: If it cannot be read, a line is something else, or two make the same avatar.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no list of datasets and avatars: it is not text") from None
    found: list[Identity] = []
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)  # names with spaces stand in quotes
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if not words:
            continue
        if len(words) != 2:
            wanted = "a dataset and an avatar, such as data/ada avatars/ada"
            raise ValueError(f"{path}, line {number} must be {wanted}, got {line!r}")
        one = Identity(Path(words[0]), Path(words[1]))
        if one.out in [other.out for other in found]:
            raise ValueError(f"{path}, line {number}: {one.out} is made twice")
        found.append(one)
    if not found:
        raise ValueError(f"{path} names nobody")
    return found


def fit_fleet(
    identities: Sequence[Identity],
    options: Sequence[str],
    *,
    table: Path,
    say: Callable[[str], None] = lambda text: None,
    command: Sequence[str] = (sys.executable, "-m", "talk3d"),
) -> list[dict[str, Any]]:
    """Train people, each in a process of its own, as many at a time as there are devices.

    Who is done already is left as they are, and a run that was begun goes on. If one fails the others go on; called
    again, it trains those that are not done.

    Args:
        identities: Who.
        options: Of ``talk3d fit``, for all.
        table: A file that always says how far each is.
        say: Told of each change.
        command: Which program.

    Returns:
        A row for each.
    """
    devices = [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]
    free, running = list(devices), dict[str, tuple[Identity, subprocess.Popen[bytes]]]()
    for one in identities:
        if _is_done(one.out):
            one.state, one.note = "done", "was there"
    waiting = [one for one in identities if one.state == "waits"]
    _write(table, identities)
    try:
        while waiting or running:
            while waiting and free:
                one, device = waiting.pop(0), free.pop(0)
                running[device] = one, _start(one, device, [*command], options)
                one.state, one.device = "runs", device
                say(f"{one.out}: {one.note} on {device}")
                _write(table, identities)
            time.sleep(_POLL)
            for device, (one, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[device]
                free.append(device)
                _end(one, code)
                say(f"{one.out}: {one.state}{f', {one.note}' if one.note else ''}")
                _write(table, identities)
    finally:
        for _, process in running.values():  # asked to stop, they save where they are
            process.terminate()
        for one, process in running.values():
            process.wait()
            one.state, one.note = "waits", "was stopped"
        _write(table, identities)
    return [one.row() for one in identities]


def _start(one: Identity, device: str, command: list[str], options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Begin, or go on with what was begun."""
    folder = run_folder(one.out)
    begun = (folder / _RUN).is_file()
    one.note = "goes on" if begun else "begins"
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if device != "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = _visible(int(device.removeprefix("cuda:")))
    arguments = [*command, "fit", str(one.data), "--out", str(one.out), "--json", *options]
    with (folder / _LOG).open("ab") as log:
        return subprocess.Popen(
            [*arguments, *(["--resume"] if begun else [])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def _visible(number: int) -> str:
    """What the system calls a device that this process calls by its number."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return allowed.split(",")[number] if allowed else str(number)


def _end(one: Identity, code: int) -> None:
    if code == 0 and _is_done(one.out):
        one.state, one.note = "done", ""
        return
    log = run_folder(one.out) / _LOG
    said = log.read_text(errors="replace").strip().splitlines()
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    one.state, one.note = "failed", f"{how}; {log} says: {said[-1] if said and code >= 0 else 'nothing'}"


def _is_done(out: Path) -> bool:
    """Whether there is an avatar: it appears whole or not at all."""
    try:
        Avatar.load(out)
    except (ValueError, OSError):
        return False
    return True


def _write(table: Path, identities: Sequence[Identity]) -> None:
    with replacing(table) as unfinished:
        unfinished.write_text(json.dumps([one.row() for one in identities], indent=1) + "\n")
