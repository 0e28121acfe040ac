"""``meta.json``: what a dataset is, where it came from, and every decision that was taken on the way."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from talk3d.audio.features import FeaturesInfo

__all__ = ["FILE", "VERSION", "Camera", "Meta", "Note", "read_meta", "write_meta"]

FILE = "meta.json"
VERSION = 1
_FORMAT = "talk3d dataset"


@dataclass(frozen=True)
class Camera:
    """By which crops are aligned: the camera of a frontal one; see :mod:`talk3d.cameras`.

    Attributes:
        focal: In sides of the crop.
        pivot: Where it looks.
        radius: Its distance from the world's origin.
    """

    focal: float
    pivot: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Note:
    """Something that was repaired, left out, or deserves a look.

    Attributes:
        kind: One word or two, such as ``"cut"``.
        text: A sentence.
        frames: Ranges of frames that it is about, each as its first and the one after its last; empty where it is about
            all.
    """

    kind: str
    text: str
    frames: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Meta:
    """What is in ``meta.json``.

    Attributes:
        source: Name, SHA-256, length, rate, size, codec and rotation of what was prepared, and the name and SHA-256 of
            its sound where that is another file.
        size: Side of the crops in pixels.
        frames: How many.
        frame_size: Width and height of the uncropped frames.
        camera: By which crops are aligned.
        splits: First frame, and the one after the last, of ``"train"``, ``"val"`` and ``"test"``.
        features: How the speech features were made.
        tracking: Numbers of the tracker: smoothing in frames, and errors of mesh and poses in pixels of the crop.
        notes: What was repaired, left out, or deserves a look.
        fps: Frames a second.
        tool: What wrote it.
    """

    source: dict[str, Any]
    size: int
    frames: int
    frame_size: tuple[int, int]
    camera: Camera
    splits: dict[str, tuple[int, int]]
    features: FeaturesInfo
    tracking: dict[str, float]
    notes: tuple[Note, ...] = field(default=())
    fps: float = 25.0
    tool: str = ""


def write_meta(meta: Meta, folder: Path) -> None:
    """Write ``meta.json``; the last file of a dataset."""
    about = {"format": _FORMAT, "version": VERSION} | asdict(meta)
    (folder / FILE).write_text(json.dumps(about, indent=2) + "\n")


def read_meta(folder: Path) -> Meta:
    """Read ``meta.json``.

    Raises:
        ValueError: If the folder is no dataset, one of another version, or damaged.
    """
    path = folder / FILE
    try:
        about = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is no dataset: it has no {FILE}; talk3d prepare makes one") from None
    except ValueError:
        raise ValueError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(about, dict) or about.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} does not describe a dataset of talk3d")
    if (version := about.pop("version", None)) != VERSION:
        raise ValueError(f"{path} has version {version}, and this talk3d reads {VERSION}: prepare the clip again")
    try:
        camera, features = about.pop("camera"), about.pop("features")
        notes = tuple(
            Note(note["kind"], note["text"], tuple((a, b) for a, b in note["frames"])) for note in about.pop("notes")
        )
        splits = {name: (int(start), int(stop)) for name, (start, stop) in about.pop("splits").items()}
        width, height = about.pop("frame_size")
        return Meta(
            **about,
            camera=Camera(**camera | {"pivot": tuple(camera["pivot"])}),
            features=FeaturesInfo(**features),
            notes=notes,
            splits=splits,
            frame_size=(width, height),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
