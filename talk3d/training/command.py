"""The command ``talk3d fit``: where its settings come from, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from talk3d.training.config import PRESETS, FitConfig, Preset
from talk3d.training.config_file import CONFIG, read_config, run_folder

__all__ = ["Fit", "fit_defaults"]


@dataclass(frozen=True)
class Fit:
    """Make an avatar of a dataset: the person at rest, then what moves them."""

    data: tyro.conf.Positional[Path]
    """What talk3d prepare made."""

    out: Path
    """The folder of the avatar to make, such as avatars/ada. Beside it, avatars/ada.fit holds settings, checkpoints,
    pictures, and figures for TensorBoard."""

    preset: Preset | None = None
    """Settings to start from: demo or draft for a CPU, full for a GPU. By default draft or full, as there is a GPU."""

    config: Path | None = None
    """A TOML file with settings, over those of the preset; options are over both."""

    resume: bool = False
    """Go on where a run stopped, with its settings."""

    json: bool = False
    """For machines: print the result as JSON, and nothing else."""

    settings: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)

    def run(self) -> None:
        """Run the command."""
        # training is slow to import
        from talk3d.training.fit import fit

        try:
            result = fit(self.data, self.out, self.settings, resume=self.resume, quiet=self.json)
        except KeyboardInterrupt as stop:
            print(f"talk3d: {stop}", file=sys.stderr)
            raise
        if self.json:
            print(json.dumps(result, indent=2))


def fit_defaults(arguments: Sequence[str]) -> Fit:
    """The command with the settings that options are over: of its preset, its file, or the run that it resumes.

    Raises:
        ValueError: If the file, or the run's, cannot be read.
    """
    preset, file, out = (_value(arguments, option) for option in ("--preset", "--config", "--out"))
    resumed = run_folder(Path(out)) / CONFIG if out and "--resume" in arguments else None
    if resumed and not preset and resumed.exists():
        settings = read_config(resumed)
    elif preset in PRESETS:
        settings = PRESETS[preset]
    else:  # tyro says what it thinks of another name
        settings = PRESETS["full" if torch.cuda.is_available() else "draft"]
    if file:
        settings = read_config(Path(file), settings)
    return Fit(tyro.MISSING, tyro.MISSING, settings=settings)


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, whichever of both ways it is written in."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None
