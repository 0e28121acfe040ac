"""The command line, ``talk3d``: every command is a dataclass, its fields are the options.

The exit code is 0, 1 where a command failed (one sentence on stderr says why), or 2 where it was used wrongly.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from talk3d.training.command import Fit, fit_defaults
from talk3d.training.options import OptionalPath, named

__all__ = ["main"]

_OptionalInt = Annotated[int | None, named("INT")]
_OptionalStr = Annotated[str | None, named("STR")]


@dataclass(frozen=True)
class Bench:
    """Print what a frame costs, stage by stage, baked and unbaked."""

    avatar: Annotated[Path | None, tyro.conf.Positional, named("[AVATAR]")] = None
    """The folder of an avatar; by default networks of the published sizes with random weights."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the baked networks; planes and renderer stay float32 on a CPU."""

    threads: _OptionalInt = None
    """Threads of a CPU; by default as many as torch takes."""

    device: _OptionalStr = None
    """Where to render, such as cpu or cuda:1; by default a GPU if there is one."""

    rounds: int = 7
    """How often each is measured."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.bench import show
        from talk3d.memory import keep_freed_memory

        keep_freed_memory()  # as render does
        show.show_budget(
            self.avatar,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
            rounds=self.rounds,
            as_json=self.json,
        )


@dataclass(frozen=True)
class Convert:
    """Convert a published checkpoint (EG3D's .pkl, Talk3D's .pt) to safetensors and JSON; nothing of it is run."""

    source: Annotated[Path, tyro.conf.Positional, named("CHECKPOINT")]
    """The file to convert."""

    out: OptionalPath = None
    """The folder to write, which must not exist or be empty."""

    axes: Literal["original", "zy", "yz"] | None = None
    """The convention of the planes, where the checkpoint does not say it."""

    driver: OptionalPath = None
    """With a generator: Talk3D's .pt that moves it. What is written is an avatar then."""

    latent: OptionalPath = None
    """With a generator: the person's latent (inversion_w_person.pt). What is written is an avatar then."""

    list: bool = False
    """Print what the checkpoint holds instead."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.weights import show

        if self.list:
            show.show_listing(self.source, as_json=self.json)
        elif self.out and (self.driver or self.latent):
            from talk3d.avatar import convert_avatar

            _, notes = convert_avatar(self.source, self.out, driver=self.driver, latent=self.latent, axes=self.axes)
            show.show_written(self.out, "avatar", notes, as_json=self.json)
        elif self.out:
            show.show_conversion(self.source, self.out, self.axes, as_json=self.json)
        else:
            print("talk3d: convert needs --out, or --list", file=sys.stderr)
            raise SystemExit(2)


@dataclass(frozen=True)
class Demo:
    """From a clip to a talking head and a report, on the built-in synthetic clip; some ten minutes on two cores.

    It says which commands it runs. What is in the folder already is not made again.
    """

    out: Path = Path("demo")
    """The folder for everything that is made."""

    def run(self) -> int:
        """Run the command."""
        from talk3d.demo import run_demo

        return run_demo(self.out, main)


@dataclass
class Evaluate:
    """Compare an avatar with the frames of a dataset, and write a report: numbers, curves, pictures."""

    avatar: Annotated[Path, tyro.conf.Positional, named("AVATAR")]
    """The folder of the avatar."""

    data: Annotated[Path, tyro.conf.Positional, named("DATA")]
    """The folder of the dataset."""

    out: Path
    """The folder of the report to write."""

    split: Literal["train", "val", "test"] = "test"
    """Which frames of the dataset."""

    frames: _OptionalInt = None
    """No more than so many, the first ones; by default all."""

    no_views: bool = False
    """Render no novel views, which take four frames more for each."""

    lpips: OptionalPath = None
    """Weights of torchvision's AlexNet (alexnet-owt-7be5be79.pth), for LPIPS."""

    inception: OptionalPath = None
    """Weights of FID's Inception (pt_inception-2015-12-05-6726825d.pth), for FID."""

    syncnet: OptionalPath = None
    """Weights of SyncNet v2 (syncnet_v2.model), for LSE-C and LSE-D."""

    curricularface: OptionalPath = None
    """Weights of CurricularFace IR-101 (CurricularFace_Backbone.pth), for the similarity of identity."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the networks; planes and renderer stay float32 on a CPU."""

    batch: int = 1
    """Frames at a time."""

    overwrite: bool = False
    """Replace a report that exists."""

    json: bool = False
    """Print the report for machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.evaluation import show

        show.show_evaluation(self)


@dataclass(frozen=True)
class Export:
    """Write an avatar's shape: a mesh with vertex colours, or a sheet of pictures, depth and normals."""

    avatar: Annotated[Path, tyro.conf.Positional, named("AVATAR")]
    """The folder of an avatar, or of a converted generator, whose average face is taken."""

    mesh: OptionalPath = None
    """A .ply, .glb or .obj file to write."""

    views: OptionalPath = None
    """A .png file to write: a row for each yaw."""

    latent: OptionalPath = None
    """With a generator: the folder of a converted latent."""

    yaws: tuple[float, ...] = (-30.0, 0.0, 30.0)
    """Where the camera stands for the views, degrees."""

    pitch: float = 0.0
    """How far up it stands, degrees."""

    resolution: int = 256
    """Grid points along each side of the mesh's volume."""

    level: float = 10.0
    """Raw density at the surface of the mesh."""

    def run(self) -> None:
        """Run the command."""
        if not (self.mesh or self.views):
            print("talk3d: export needs --mesh or --views", file=sys.stderr)
            raise SystemExit(2)
        from talk3d import Avatar, export

        avatar = Avatar.load(self.avatar, w=self.latent)
        if self.views:
            export.export_views(avatar, self.views, self.yaws, self.pitch)
            print(self.views)
        if self.mesh:
            mesh = export.export_mesh(avatar, self.mesh, resolution=self.resolution, level=self.level)
            print(f"{self.mesh}: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles")


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

    source: Annotated[Path, tyro.conf.Positional, named("CLIP")]
    """The video."""

    out: Path
    """The folder to make."""

    audio: OptionalPath = None
    """Sound that replaces the clip's own; it begins with the clip."""

    features: Literal["logmel", "wav2vec2", "hubert"] = "logmel"
    """Of the speech; all but logmel need transformers and a trained model."""

    model: _OptionalStr = None
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


@dataclass
class Render:
    """Render an avatar speaking: to a video, or to pictures with a transparent background.

    Running it again after a crash or Ctrl-C goes on where it stopped.
    """

    avatar: Annotated[Path, tyro.conf.Positional, named("AVATAR")]
    """The folder of the avatar."""

    audio: Path
    """The speech: any sound or video file, of any length."""

    out: Path
    """The video: .mp4; .mov (ProRes 4444) or a name without ending (a folder of PNG files) for transparency."""

    camera: str = "track"
    """track (as in the clip), orbit[:YAW,PITCH], fixed:YAW,PITCH (degrees), or a .json file with keyframes."""

    background: str = "keep"
    """keep (the clip's), transparent, a colour #rrggbb, or a picture."""

    paste_back: OptionalPath = None
    """The clip that the avatar was made from: put the crop back into its frames."""

    resolution: _OptionalInt = None
    """Side of the video in pixels, by default the avatar's own."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the networks; planes and renderer stay float32 on a CPU."""

    superresolution: Literal["plain", "compiled", "fastest", "8bit"] = "plain"
    """plain (our kernels), compiled (torch.compile, which takes minutes first), fastest (measures both and says which),
    or 8bit (refused where it can be seen)."""

    batch: int = 1
    """Frames at a time."""

    shard: str = "1/1"
    """i/n: render every n-th chunk from the i-th on; the shard that finds all chunks there joins them."""

    overwrite: bool = False
    """Replace a video that exists, or the parts of another job of this name."""

    json: bool = False
    """For machines."""

    def run(self) -> None:
        """Run the command."""
        from talk3d.memory import keep_freed_memory
        from talk3d.rendering import show

        keep_freed_memory()
        show.show_render(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong use raises ``SystemExit(2)``, as argparse does."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # the defaults of fit depend on its arguments, and on a file
        fit = tyro.conf.subcommand("fit", default=fit_defaults(arguments) if arguments[:1] == ["fit"] else None)
        command = tyro.cli(
            Annotated[
                Bench | Convert | Demo | Evaluate | Export | Annotated[Fit, fit] | Info | Prepare | Render,
                tyro.conf.FlagCreatePairsOff,
            ],
            prog="talk3d",
            description="Open 3D talking heads.",
            args=arguments,
        )
        code = command.run() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells count
    except BrokenPipeError as error:
        return _unheard(error)
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        print(f"talk3d: {error}", file=sys.stderr)
        return 1


def _unheard(error: BrokenPipeError) -> int:
    """End quietly, as rich does, if whoever read the output, such as ``head``, has stopped; returns the exit code."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in pipe.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes once more in the end
    else:
        print(f"talk3d: {error}", file=sys.stderr)
    return 1
