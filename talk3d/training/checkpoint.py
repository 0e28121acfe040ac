"""Checkpoints: folders of safetensors and JSON that appear whole or not at all, from which a run goes on exactly."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from talk3d.beside import replacing

__all__ = ["Checkpoints", "Progress"]

VERSION = 1
_STEP = re.compile(r"(\d{8})")
_BEST = "best.json"
_ABOUT = "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """Where a stage is.

    Attributes:
        step: Steps that were done.
        best: The highest held-out score so far.
        figures: Held-out figures that were measured last.
    """

    step: int
    best: float | None = None
    figures: dict[str, float] | None = None


class Checkpoints:
    """The checkpoints of one stage: the last few, and the best.

    A checkpoint is written beside its place and renamed, and older ones are removed after that: whenever a run is
    killed, the last complete one is there.

    Args:
        folder: Where to; made when it is needed.
        keep: How many of the last ones stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, max(keep, 1)

    def save(
        self,
        progress: Progress,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        *,
        best: bool = False,
    ) -> None:
        """Write a checkpoint.

        Args:
            progress: Where the stage is.
            modules: What it trains.
            optimizer: Its optimiser.
            best: Keep it as the best one, too.

        Raises:
            OSError: If it cannot be written, in a sentence; what was there before is still there.
        """
        place = self.folder / f"{progress.step:08d}"
        try:
            self._sweep()
            if not place.exists():  # else a run that was resumed is back where it was
                with replacing(place) as unfinished:
                    unfinished.mkdir(parents=True)
                    _write(unfinished, progress, modules, optimizer)
            if best:
                with replacing(self.folder / _BEST) as pointer:
                    pointer.write_text(json.dumps({"step": progress.step}) + "\n")
        except (OSError, SafetensorError) as error:
            last = self.last()
            there = f"the last complete one is {last}" if last else "there is none yet"
            raise OSError(f"the checkpoint of step {progress.step} cannot be written ({error}); {there}") from error
        best_one = self.best()
        for old in self._all()[: -self.keep]:
            if old != best_one:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None) -> Progress | None:
        """Read the last checkpoint into modules and optimiser; returns None if there is none.

        Raises:
            ValueError: If it is damaged, of another version, or of other networks.
        """
        found = self.last()
        return None if found is None else _read(found, modules, optimizer)

    def load_best(self, modules: Mapping[str, nn.Module]) -> Progress | None:
        """Read the best checkpoint into modules; returns None if none was the best.

        Raises:
            ValueError: As :meth:`load`.
        """
        found = self.best()
        return None if found is None else _read(found, modules, None)

    def last(self) -> Path | None:
        """Folder of the last checkpoint."""
        found = self._all()
        return found[-1] if found else None

    def best(self) -> Path | None:
        """Folder of the best checkpoint; None if none was the best.

        Raises:
            ValueError: If the file that names it is damaged, or names one that is not there.
        """
        pointer = self.folder / _BEST
        rest = "remove it to go on without a best one"
        try:
            about = json.loads(pointer.read_text())
        except FileNotFoundError:
            return None
        except (OSError, RecursionError, ValueError):
            raise ValueError(f"{pointer} is damaged: it cannot be read as JSON; {rest}") from None
        step = about.get("step") if isinstance(about, dict) else None
        if type(step) is not int or step < 0:
            raise ValueError(f"{pointer} is damaged: it does not say which step was the best; {rest}")
        found = self.folder / f"{step:08d}"
        if not found.is_dir():
            raise ValueError(f"{pointer} is damaged: the best one, {found.name}, is not there; {rest}")
        return found

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _STEP.fullmatch(path.name))

    def _sweep(self) -> None:
        """Remove what a run that was killed left unfinished."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _write(
    folder: Path, progress: Progress, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    for part, module in modules.items():
        save_file(_tensors(module.state_dict()), folder / f"{part}.safetensors")
    tensors, numbers = _flat(optimizer.state_dict())
    save_file(tensors, folder / "optimizer.safetensors")
    about = {"version": VERSION, **asdict(progress), "parts": list(modules), "optimizer": numbers}
    (folder / _ABOUT).write_text(json.dumps(about) + "\n")
    # have the system write files to the disk: what is renamed after that is complete even if power fails
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(folder: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None) -> Progress:
    try:
        about = json.loads((folder / _ABOUT).read_text())
        if about["version"] != VERSION:
            raise ValueError(f"{folder} is of version {about['version']}, and this talk3d reads version {VERSION}")
        if about["parts"] != list(modules):
            raise ValueError(f"{folder} holds {', '.join(about['parts'])}, and this run trains {', '.join(modules)}")
        for part, module in modules.items():
            module.load_state_dict(load_file(folder / f"{part}.safetensors"))
        if optimizer is not None:
            optimizer.load_state_dict(_nested(load_file(folder / "optimizer.safetensors"), about["optimizer"]))
        return Progress(int(about["step"]), about["best"], about["figures"])
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from None
    except RuntimeError as error:
        raise ValueError(f"{folder} is of other networks; was the configuration changed? {error}") from None


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that own their memory: safetensors refuses those that share it."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name, and the rest of it, ready for JSON."""
    tensors = {
        f"{parameter}.{name}": value.detach().contiguous().clone()
        for parameter, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    numbers = {
        str(parameter): {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        for parameter, values in state["state"].items()
    }
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def _nested(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(parameter): dict(values) for parameter, values in numbers["state"].items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition(".")
        state[int(parameter)][key] = tensor
    return {"state": state, "param_groups": numbers["param_groups"]}
