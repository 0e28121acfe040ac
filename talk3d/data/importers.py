"""Folders that other projects prepared: Talk3D's crops, and the frames of RAD-NeRF, ER-NeRF and GeneFace.

What such a folder knows is taken over: pictures, masks, speech features, blink, background, split and, for Talk3D, the
cameras of its inversion. What it does not have is found by our own tracker, as for a clip: the face mesh, landmarks and
points of all of them; for the NeRF family also crop and camera, as its own are in the units of a morphable model.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from talk3d import cameras
from talk3d.data.material import Given, Mask, Material
from talk3d.data.meta import Note
from talk3d.data.shots import split
from talk3d.data.video import FPS, Picture

__all__ = ["camera", "open_folder"]

_ERODED = 3  # pixels by which Talk3D shrinks its masks of the body
# colours of the NeRF family's parsing
_HEAD, _NECK, _TORSO, _BACKGROUND = (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)
_NOSE_EYES = (0, 2, 3)  # among Talk3D's six landmarks: nose tip, left and right eye's outer corner


def camera(folder: Path) -> str:
    """Name the camera by which the crops of a folder are aligned, or will be."""
    return "talk3d" if _is_talk3d(folder) else "ffhq"


def open_folder(folder: Path) -> Material:
    """Open a folder that Talk3D's or the NeRF family's preprocessing wrote.

    Raises:
        ValueError: If it is neither, or something is missing; with the name.
    """
    if _is_talk3d(folder):
        return _talk3d(folder)
    if (folder / "transforms_train.json").is_file() and (folder / "ori_imgs").is_dir():
        return _nerf(folder)
    raise ValueError(
        f"{folder} is no folder that Talk3D prepared (image/, faceseg/) nor one for RAD-NeRF, ER-NeRF or GeneFace "
        "(transforms_train.json, ori_imgs/)"
    )


class _Folder:
    """Numbered pictures, in the order of their numbers, 25 a second."""

    def __init__(self, folder: Path) -> None:
        numbered = [
            (int(path.stem), path)
            for path in folder.iterdir()
            if re.fullmatch(r"\d+", path.stem) and path.suffix.lower() in (".png", ".jpg", ".jpeg")
        ]
        if not numbered:
            raise ValueError(f"{folder} holds no numbered pictures")
        self.numbers, self.paths = zip(*sorted(numbered), strict=True)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Picture]:
        for index, path in enumerate(self.paths):
            yield Picture(index, index / FPS, _picture(path))


def _is_talk3d(folder: Path) -> bool:
    return (folder / "image").is_dir() and (folder / "faceseg").is_dir()


def _talk3d(folder: Path) -> Material:
    pictures = _Folder(folder / "image")
    found: list[str] = ["image"]
    given: dict[str, Any] = {}
    for key, name, read in (
        ("cam2world", "inversion_0-0_angles.pt", _eg3d_poses),
        ("face", "landmarks.pt", _six_landmarks),
        ("blink", "au.csv", _blink),
        ("features", "aud_eo.npy", _features),
    ):
        if (folder / name).is_file():
            given[key] = _long_enough(folder / name, read(folder / name), len(pictures))
            found.append(name)
    names = {"face": "faceseg", "mouth": "mouthseg", "torso": "torsoseg", "person": "bodyseg"}
    names = {name: part for name, part in names.items() if (folder / part).is_dir()}
    found += names.values()

    def masks(index: int) -> dict[str, NDArray[np.uint8]]:
        file = f"{pictures.paths[index].stem}.png"
        read = {name: _picture(folder / part / file)[..., 0].copy() for name, part in names.items()}
        if "person" in read:
            import cv2

            read["person"] = cv2.dilate(read["person"], np.ones((2 * _ERODED - 1,) * 2, np.uint8))
        return read

    return _material(folder, pictures, Given(masks=masks if names else None, **given), found, cropped=True)


def _nerf(folder: Path) -> Material:
    pictures = _Folder(folder / "ori_imgs")
    found: list[str] = ["ori_imgs", "transforms_train.json"]
    given: dict[str, Any] = {}
    for name in ("aud_eo.npy", "aud_ds.npy", "aud.npy"):
        if (folder / name).is_file():
            features = _features(folder / name)
            # pictures where the face was lost are missing, features are not
            given["features"] = features if pictures.numbers[-1] < len(features) else None
            if given["features"] is not None and len(pictures) != pictures.numbers[-1] + 1:
                given["features"] = features[list(pictures.numbers)]
            found.append(name)
            break
    if (folder / "au.csv").is_file():
        given["blink"] = _blink(folder / "au.csv")[list(pictures.numbers)]
        found.append("au.csv")
    if (folder / "bc.jpg").is_file():
        given["plate"] = _picture(folder / "bc.jpg")
        found.append("bc.jpg")
    if (folder / "transforms_val.json").is_file():
        given["splits"] = _nerf_split(folder, pictures)
        found.append("transforms_val.json")
    masks: Mask | None = None
    if (folder / "parsing").is_dir():
        found.append("parsing")

        def masks(index: int) -> dict[str, NDArray[np.uint8]]:
            colors = _picture(folder / "parsing" / f"{pictures.paths[index].stem}.png")
            at = {c: (colors == c).all(-1) for c in (_NECK, _TORSO, _BACKGROUND)}
            torso = at[_NECK] | at[_TORSO]
            return {"person": 255 * (~at[_BACKGROUND]).astype(np.uint8), "torso": 255 * torso.astype(np.uint8)}

    return _material(folder, pictures, Given(masks=masks, **given), found, cropped=False)


def _material(folder: Path, pictures: _Folder, given: Given, found: list[str], *, cropped: bool) -> Material:
    sound = folder / "aud.wav"
    if not sound.is_file():
        raise ValueError(f"{folder} has no aud.wav")
    what = f"Taken over from {folder.name}: {', '.join(found)}; everything else was found by our tracker."
    gaps = pictures.numbers[-1] - pictures.numbers[0] + 1 - len(pictures)
    notes = [Note("imported", what)]
    if gaps:
        notes.append(Note("gaps", f"{gaps} numbers between the first and the last picture are missing."))
    return Material(
        name=folder.name,
        pictures=pictures,
        expected=len(pictures),
        sound=sound,
        cropped=cropped,
        given=given,
        source=lambda: {"kind": "Talk3D" if cropped else "RAD-NeRF", "seconds": len(pictures) / FPS},
        notes=lambda: notes,
    )


def _picture(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except OSError:
        raise ValueError(f"{path} cannot be read as a picture") from None


def _tensor(path: Path, width: tuple[int, ...]) -> torch.Tensor:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)  # a pickle that may hold tensors alone
    except Exception as error:  # of many kinds, for a file that is damaged or wants to run code
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, torch.Tensor) or found.shape[1:] != width:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(f"{path} must hold [N, {', '.join(map(str, width))}] numbers, got {shape}")
    return found.double()


def _eg3d_poses(path: Path) -> NDArray[np.float64]:
    yaw, pitch = _tensor(path, (2,)).unbind(1)
    right = math.pi / 2
    poses = cameras.look_at_eg3d(right + yaw, right + pitch, pivot=cameras.TALK3D_PIVOT)
    found: NDArray[np.float64] = poses.numpy()
    return found


def _six_landmarks(path: Path) -> NDArray[np.float64]:
    found: NDArray[np.float64] = _tensor(path, (6, 2))[:, list(_NOSE_EYES)].numpy()
    return found


def _blink(path: Path) -> NDArray[np.float64]:
    """AU45 of OpenFace, which is 2 and more where eyes are closed."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    try:
        units = np.array([float(row["AU45_r"]) for row in rows])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} has no column AU45_r of numbers") from None
    return units.clip(0, 2) / 2


def _features(path: Path) -> NDArray[np.float32]:
    try:
        windows = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        raise ValueError(f"{path} cannot be read as an array") from None
    if windows.ndim != 3 or windows.shape[1] != 16:
        raise ValueError(f"{path} must hold windows [N, 16, F], got {windows.shape}")
    return windows


def _long_enough(path: Path, array: NDArray[Any], frames: int) -> NDArray[Any]:
    # speech features may end a frame or two before or after the pictures; what ends first, ends the dataset
    if len(array) < frames and array.dtype != np.float32:
        raise ValueError(f"{path} has {len(array)} rows for {frames} pictures")
    return array


def _nerf_split(folder: Path, pictures: _Folder) -> dict[str, tuple[int, int]] | None:
    """Train as the folder says; its other frames, which come after, are halved."""
    try:
        numbers = {
            name: {
                int(frame["img_id"]) for frame in json.loads((folder / f"transforms_{name}.json").read_text())["frames"]
            }
            for name in ("train", "val")
        }
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"the transforms_*.json of {folder} name no frames") from None
    border = sum(number <= max(numbers["train"]) for number in pictures.numbers)
    if min(numbers["val"]) <= max(numbers["train"]) or not 0 < border < len(pictures):
        return None  # mixed: our own split in time is the safer one
    gap = split(len(pictures))["val"][0] - split(len(pictures))["train"][1]
    rest = len(pictures) - border
    middle = border + (rest + gap) // 2
    return {"train": (0, border - gap), "val": (border, middle - gap), "test": (middle, len(pictures))}
