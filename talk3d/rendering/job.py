"""What is to be rendered, and the folder in which a job keeps what it has done."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from talk3d.beside import replacing

__all__ = ["JobFolder", "RenderJob", "fingerprint"]

_MANIFEST = "job.json"
_LOCK = "lock"
_VERSION = 1
_LARGEST = 8192  # pixels of a side; H.264 has no level beyond
_PICTURE = re.compile(r"\d{6,}\.png")


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
        superresolution: See :meth:`talk3d.avatar.Avatar.bake`. Frames of ``"plain"`` and ``"compiled"`` differ in their
            last bits, and two machines may find another one ``"fastest"``.
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
    superresolution: Literal["plain", "compiled", "fastest", "8bit"] = "plain"
    batch: int = 1
    chunk: int = 100

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunk < 1:
            raise ValueError(f"batch and chunk must be positive, got {self.batch} and {self.chunk}")
        if self.batch > self.chunk:
            raise ValueError(f"batch must be at most {self.chunk}, the frames of a chunk, got {self.batch}")
        if self.resolution is not None and (not 16 <= self.resolution <= _LARGEST or self.resolution % 2):
            raise ValueError(f"resolution must be even and from 16 to {_LARGEST}, got {self.resolution}")
        if self.format == "mp4" and self.transparent:
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

    def require_free(self, *, overwrite: bool) -> None:
        """Raise unless the video can be written without the loss of anything but a video.

        Args:
            overwrite: Whether a video that exists, or a folder of rendered pictures, may be replaced.

        Raises:
            ValueError: If it exists and may not be, is something else, or is what the job reads.
        """
        out = Path(self.out)
        named = {"avatar": self.avatar, "audio": self.audio, "paste_back": self.paste_back}
        for name, value in (named | {"background": self.background, "camera": self.camera}).items():
            if value and out.exists() and Path(value).exists() and out.samefile(value):
                raise ValueError(f"{out} is the {name.replace('_', '-')} of this job; name another file to write")
        if self.format != "png" and out.is_dir():
            raise ValueError(f"{out} is a folder; name a file")
        if self.format == "png" and out.exists():
            if not out.is_dir():
                raise ValueError(f"{out} is a file; a name without .mp4 or .mov is a folder for PNG files")
            names = [path.name for path in out.iterdir()]
            if strange := next((name for name in names if not _PICTURE.fullmatch(name)), None):
                raise ValueError(f"{out} holds {strange}, which is no rendered picture; name another folder")
            if not names:
                return
        if out.exists() and not overwrite:
            raise ValueError(f"{out} exists already; pass --overwrite to replace it")


class JobFolder:
    """Chunks beside the video that they will become: ``.NAME.parts``.

    Args:
        job: The job.
    """

    def __init__(self, job: RenderJob) -> None:
        out = Path(job.out).absolute()
        self.job, self.path = job, out.with_name(f".{out.name}.parts")
        self.features = self.path / "features.npy"

    @contextmanager
    def opened(self, *, fresh: bool = False) -> Iterator[None]:
        """Begin the job, or go on with it. A folder without a chunk does not stay.

        Processes of one job work in it side by side. Where a file system has no locks, nothing tells that another job
        is at work in it.

        Args:
            fresh: Forget what another job of this name has done.

        Raises:
            ValueError: If the folder belongs to another job, or to inputs that have changed.
            OSError: If it cannot be written.
        """
        about = {"format": "talk3d job", "version": _VERSION, "job": asdict(self.job), "inputs": self._inputs()}
        with self._enter() as self._held:
            try:
                self._claim(json.loads(json.dumps(about)), fresh)
                yield
            finally:
                if self.path.exists() and not self._chunks() and _lock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self.remove()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Wait until no other process works in the open folder; false if one has finished the job meanwhile."""
        _lock(self._held, fcntl.LOCK_EX)
        yield (self.path / _MANIFEST).exists()

    def _enter(self) -> IO[str]:
        lock = self.path / _LOCK
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                held = lock.open("a")
                _lock(held, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(held.fileno()), lock.stat()):
                    return held
                held.close()
            except FileNotFoundError:
                pass  # another process has just finished, and took the folder away

    def _claim(self, about: object, fresh: bool) -> None:
        manifest = self.path / _MANIFEST
        if manifest.exists():
            try:
                if json.loads(manifest.read_text()) == about:
                    return
            except ValueError:
                pass  # damaged: of no job that could go on
            if self._chunks() and not fresh:
                raise ValueError(f"{self.path} holds parts of another job; remove it, or pass --overwrite")
            if not _lock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise ValueError(f"{self.path} is in use: another job of this name is being rendered")
            for path in self.path.iterdir():
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _lock(self._held, fcntl.LOCK_SH)
        with replacing(manifest) as unfinished:
            unfinished.write_text(json.dumps(about, indent=2) + "\n")

    def _chunks(self) -> bool:
        return any(path.name[:6].isdecimal() for path in self.path.iterdir())

    def chunk(self, index: int) -> Path:
        """Where a chunk is, once it is whole."""
        return self.path / f"{index:06d}{'' if self.job.format == 'png' else '.' + self.job.format}"

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.path)

    def _inputs(self) -> dict[str, str]:
        job = self.job
        named = {"audio": job.audio, "paste_back": job.paste_back, "background": job.background, "camera": job.camera}
        files = {name: Path(value) for name, value in named.items() if value and Path(value).is_file()}
        avatar = (
            sorted(path for path in Path(job.avatar).iterdir() if path.is_file()) if Path(job.avatar).is_dir() else []
        )
        return {name: fingerprint([path]) for name, path in files.items()} | {"avatar": fingerprint(avatar)}


def _lock(held: IO[str], how: int) -> bool:
    try:
        fcntl.flock(held, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems have no locks
    return True


def fingerprint(files: list[Path]) -> str:
    """SHA-256 of the contents of files."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()
