"""The command line, ``talk3d``: every command is a dataclass, its fields are the options.

The exit code is 0, 1 where a command failed (one sentence on stderr says why), or 2 where it was used wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from talk3d.training.command import Fit, fit_defaults

__all__ = ["main"]


@dataclass(frozen=True)
class Convert:
    """Convert a published checkpoint (EG3D's .pkl, Talk3D's .pt) to safetensors and JSON; nothing of it is run."""

    source: tyro.conf.Positional[Path]
    """The checkpoint."""

    out: Path | None = None
    """The folder to write, which must not exist or be empty."""

    axes: Literal["original", "zy", "yz"] | None = None
    """The convention of the planes, where the checkpoint does not say it."""

    list: bool = False
    """Print what the checkpoint holds instead."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.weights import show

        if self.list:
            show.show_listing(self.source, as_json=self.json)
        elif self.out:
            show.show_conversion(self.source, self.out, self.axes, as_json=self.json)
        else:
            print("talk3d: convert needs --out, or --list", file=sys.stderr)
            raise SystemExit(2)


@dataclass(frozen=True)
class Demo:
    """Fit a tri-plane to pictures of a head, and draw what it learned; a minute or two on a CPU."""

    out: Path = Path("demo.png")
    """The picture, a PNG file."""

    def run(self) -> None:
        """Run the command."""
        from talk3d import demo

        demo.main(self.out)


@dataclass(frozen=True)
class Info:
    """Print what is installed, what is not, and why."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d import info

        info.show(as_json=self.json)


@dataclass(frozen=True)
class Prepare:
    """Make a dataset of a clip of one person: crops, cameras, masks, background, blink and speech features."""

    source: tyro.conf.Positional[Path]
    """The clip."""

    out: Path
    """The folder to make."""

    audio: Path | None = None
    """Sound that replaces the clip's own; it begins with the clip."""

    features: Literal["logmel", "wav2vec2", "hubert"] = "logmel"
    """Of the speech; all but logmel need transformers and a trained model."""

    model: str | None = None
    """Folder or name of a trained speech model."""

    size: int = 512
    """Side of the crops in pixels."""

    camera: Literal["ffhq", "talk3d"] = "ffhq"
    """Whose alignment crops have: EG3D's, or Talk3D's, which is wider."""

    overwrite: bool = False
    """Replace a dataset that is there."""

    no_overview: bool = False
    """Draw no overview."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.data import show
        from talk3d.data.prepare import Options

        options = Options(
            size=self.size,
            camera=self.camera,
            encoder=self.features,
            model=self.model,
            audio=self.audio,
            overwrite=self.overwrite,
            overview=not self.no_overview,
        )
        show.show_preparation(self.source, self.out, options, as_json=self.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong use raises ``SystemExit(2)``, as argparse does."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # the defaults of fit depend on its arguments, and on a file
        fit = tyro.conf.subcommand("fit", default=fit_defaults(arguments) if arguments[:1] == ["fit"] else None)
        command = tyro.cli(
            Annotated[Convert | Demo | Annotated[Fit, fit] | Info | Prepare, tyro.conf.FlagCreatePairsOff],
            prog="talk3d",
            description="Open 3D talking heads.",
            args=arguments,
        )
        command.run()
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells count
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        print(f"talk3d: {error}", file=sys.stderr)
        return 1
    return 0
