"""The command ``talk3d fit``: where its settings come from, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from talk3d.training.config import PRESETS, FitConfig, Preset
from talk3d.training.config_file import CONFIG, read_config, run_folder, write_config
from talk3d.training.options import OptionalPath, named

__all__ = ["Fit", "fit_defaults"]


@dataclass(frozen=True)
class Fit:
    """Make an avatar of a dataset: the person at rest, then what moves them."""

    data: Annotated[Path | None, tyro.conf.Positional, named("[DATA]")] = None
    """The folder of the dataset, which talk3d prepare made; left out with --identities."""

    out: OptionalPath = None
    """The folder of the avatar to make, such as avatars/ada. Beside it, avatars/ada.fit holds settings, checkpoints,
    pictures, and figures for TensorBoard."""

    identities: OptionalPath = None
    """Train many people, one to a device: a file with a dataset and an avatar in each line. Beside it is written how
    far each is; called again, it goes on."""

    preset: Preset | None = None
    """Settings to start from: demo or draft for a CPU, full for a GPU. By default draft or full, as there is a GPU."""

    config: OptionalPath = None
    """A TOML file with settings, over those of the preset; options are over both."""

    generator: OptionalPath = None
    """Start from a generator that was trained on faces: a checkpoint of EG3D, or the folder that talk3d convert made of
    one. Without one the person is learned from the clip alone."""

    resume: bool = False
    """Go on where a run stopped, with its settings."""

    json: bool = False
    """For machines: print the result as JSON, and nothing else."""

    settings: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)

    def run(self) -> int:
        """Run the command."""
        # training is slow to import
        from talk3d.training.fit import fit

        settings = self.settings
        if self.generator is not None:
            settings = replace(settings, prior=replace(settings.prior, generator=self.generator))
        if self.identities is not None and self.data is None and self.out is None:
            return _run_fleet(self.identities, settings, as_json=self.json)
        if self.identities is not None or self.data is None or self.out is None:
            print("talk3d: fit needs a dataset and --out, or --identities alone", file=sys.stderr)
            raise SystemExit(2)
        try:
            result = fit(self.data, self.out, settings, resume=self.resume, quiet=self.json)
        except KeyboardInterrupt as stop:
            print(f"talk3d: {str(stop) or 'stopped before the first step'}", file=sys.stderr)
            raise
        if self.json:
            print(json.dumps(result, indent=2))
        return 0


def _run_fleet(path: Path, settings: FitConfig, *, as_json: bool) -> int:
    """Train many people; returns the exit code."""
    from rich.console import Console
    from rich.table import Table

    from talk3d.training.fleet import fit_fleet, read_identities

    identities = read_identities(path)
    console = Console(stderr=True, quiet=as_json, highlight=False, soft_wrap=True)
    config, table = path.with_suffix(".fleet.toml"), path.with_suffix(".fleet.json")
    write_config(settings, config)
    rows = fit_fleet(identities, ["--config", str(config)], table=table, say=lambda text: console.print(text))
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        shown = Table(*rows[0], box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*row.values())
        console.print(shown)
    return 0 if all(row["state"] == "done" for row in rows) else 1


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
    return Fit(settings=settings)


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, whichever of both ways it is written in."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None
