"""What is to be rendered, and the folder in which a job keeps what it has done."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

__all__ = ["JobFolder", "RenderJob", "beside", "fingerprint"]

_MANIFEST = "job.json"
_LOCK = ".lock"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """Everything that decides a video. Ready for JSON.

    Attributes:
        avatar: Folder of the avatar.
        audio: The speech, any file that FFmpeg reads.
        out: The video to write: ``.mp4``; ``.mov`` (ProRes 4444) or a name without ending (a folder of PNG files) for a
            transparent background.
        camera: See :func:`talk3d.rendering.cameras.camera_path`.
        background: ``"keep"``, ``"transparent"``, a colour ``"#rrggbb"``, or a picture.
        paste_back: The clip that the avatar was made from: the crop is put back into its frames.
        resolution: Side of the video in pixels; by default the avatar's own.
        precision: Type of the networks; see :class:`talk3d.models.baked.Baked`.
        batch: Frames at a time. Frames depend on it in their last bits.
        chunk: Frames in a chunk, which is what is done again after a crash.
    """

    avatar: str
    audio: str
    out: str
    camera: str = "track"
    background: str = "keep"
    paste_back: str | None = None
    resolution: int | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = 1
    chunk: int = 100

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunk < 1:
            raise ValueError(f"batch and chunk must be positive, got {self.batch} and {self.chunk}")
        if self.resolution is not None and (self.resolution < 16 or self.resolution % 2):
            raise ValueError(f"resolution must be even and at least 16, got {self.resolution}")
        if self.transparent and self.format == "mp4":
            raise ValueError(f"{self.out}: an .mp4 has no transparency; name a .mov, or a folder for PNG files")
        if self.paste_back and (self.camera != "track" or self.background != "keep" or self.resolution):
            raise ValueError("--paste-back goes with the clip's own camera, background and resolution")

    @property
    def transparent(self) -> bool:
        """Whether the video has an alpha channel."""
        return self.background == "transparent"

    @property
    def format(self) -> Literal["mp4", "mov", "png"]:
        """What is written."""
        ending = Path(self.out).suffix.lower()
        if ending == ".mp4":
            return "mp4"
        if ending == ".mov":
            return "mov"
        if ending == "":
            return "png"
        raise ValueError(f"{self.out} must end in .mp4 or .mov, or name a folder for PNG files")


def beside(path: Path) -> Path:
    """A hidden name in the same folder, to write what will be renamed to ``path``.

    No two are alike: shards on different machines, which share the folder, may have the same process number.
    """
    return path.with_name(f".{uuid4().hex[:12]}.{path.name}")


class JobFolder:
    """Chunks beside the video that they will become: ``.NAME.parts``.

    Several processes, also on several machines, may work in it at the same time.

    Args:
        job: The job.
    """

    def __init__(self, job: RenderJob) -> None:
        out = Path(job.out).absolute()
        self.job, self.path = job, out.with_name(f".{out.name}.parts")
        self.features = self.path / "features.npy"

    def open(self, *, fresh: bool = False) -> None:
        """Begin the job, or go on with it.

        Args:
            fresh: Forget what another job of this name has done.

        Raises:
            ValueError: If the folder belongs to another job, or to inputs that have changed.
            OSError: If it cannot be written.
        """
        about = {"format": "talk3d job", "version": _VERSION, "job": asdict(self.job), "inputs": self._inputs()}
        manifest = self.path / _MANIFEST
        self.path.mkdir(parents=True, exist_ok=True)
        with self.alone():
            if self.begun:
                if json.loads(manifest.read_text()) == json.loads(json.dumps(about)):
                    return
                if not fresh:
                    raise ValueError(f"{self.path} holds parts of another job; remove it, or pass --overwrite")
                self.remove()
                self.path.mkdir(exist_ok=True)
            unfinished = beside(manifest)
            unfinished.write_text(json.dumps(about, indent=2) + "\n")
            os.replace(unfinished, manifest)

    @property
    def begun(self) -> bool:
        """Whether it is there, with a job in it."""
        return (self.path / _MANIFEST).exists()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process is in such a block, and keep others out of theirs.

        What was there before may be gone then, the folder too.
        """
        with ExitStack() as stack:
            with suppress(FileNotFoundError):
                lock = stack.enter_context((self.path / _LOCK).open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX)  # the system takes it from a process that dies
            yield

    def chunk(self, index: int) -> Path:
        """Where a chunk is, once it is whole."""
        return self.path / f"{index:06d}{'' if self.job.format == 'png' else '.' + self.job.format}"

    def remove(self) -> None:
        """Take the folder away: at once, so that nobody takes a part of it for the whole."""
        gone = beside(self.path)
        with suppress(FileNotFoundError):  # another shard was faster
            os.replace(self.path, gone)
        shutil.rmtree(gone, ignore_errors=True)  # network disks keep a file that another process has open

    def _inputs(self) -> dict[str, str]:
        job = self.job
        named = {"audio": job.audio, "paste_back": job.paste_back, "background": job.background, "camera": job.camera}
        files = {name: Path(value) for name, value in named.items() if value and Path(value).is_file()}
        avatar = (
            sorted(path for path in Path(job.avatar).iterdir() if path.is_file()) if Path(job.avatar).is_dir() else []
        )
        return {name: fingerprint([path]) for name, path in files.items()} | {"avatar": fingerprint(avatar)}


def fingerprint(files: list[Path]) -> str:
    """SHA-256 of the contents of files."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()
