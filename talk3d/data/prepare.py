"""``talk3d prepare``: from a clip, or a folder that another project prepared, to a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

import talk3d
from talk3d import cameras
from talk3d.audio import FeaturesInfo, decode_sound, encode_speech
from talk3d.audio.features import Encoder, write_array
from talk3d.audio.files import Sound, has_sound
from talk3d.data import importers
from talk3d.data.analysis import Analysis, analyze
from talk3d.data.dataset import Dataset
from talk3d.data.frames import write_frames
from talk3d.data.head import View
from talk3d.data.material import Material
from talk3d.data.meta import Camera, Meta, Note, write_meta
from talk3d.data.overview import write_overview
from talk3d.data.shots import SHORTEST, Shot, choose, split
from talk3d.data.staging import staging
from talk3d.data.track import track
from talk3d.data.video import FPS, Clip, Video

__all__ = ["CAMERAS", "Options", "Progress", "prepare"]

CAMERAS = {
    "ffhq": View(cameras.FFHQ_FOCAL, cameras.FFHQ_PIVOT, cameras.RADIUS),
    "talk3d": View(cameras.TALK3D_FOCAL, cameras.TALK3D_PIVOT, cameras.RADIUS),
}
_SILENT = -60.0  # dB below full scale
_MORE = 0.2  # seconds of sound after the last picture that are worth a note
_SMALL = 1.75  # crop pixels per source pixel, above which crops look soft

# called with what is being done, how much of it is done, and how much there is, if that is known
Progress = Callable[[str, int, "int | None"], object]


@dataclass(frozen=True)
class Options:
    """How a clip is prepared.

    Attributes:
        size: Side of the crops in pixels.
        camera: By which crops are aligned, a key of :data:`CAMERAS`.
        encoder: Of speech.
        model: Folder or name of a trained speech encoder.
        audio: Sound that replaces the clip's own; it begins with the clip.
        overwrite: Replace a dataset that is there.
        overview: Draw one.
    """

    size: int = 512
    camera: str = "ffhq"
    encoder: Encoder = "logmel"
    model: str | None = None
    audio: Path | None = None
    overwrite: bool = False
    overview: bool = True


def prepare(
    source: Path, out: Path, options: Options | None = None, progress: Progress = lambda _, __, ___: None
) -> Meta:
    """Make a dataset.

    Args:
        source: Any video that FFmpeg reads; or a folder that was prepared for Talk3D, or for RAD-NeRF and its kind.
        out: The folder to make; it appears when it is whole.
        options: How; by default as :class:`Options` has it.
        progress: Is told what happens.

    Returns:
        What is in ``meta.json``.

    Raises:
        ImportError: If the tracker or the speech encoder is not installed.
        OSError: If there is no room for the dataset, or a file cannot be opened.
        ValueError: If the source is not fit for a dataset; with the reason.
    """
    options = options or Options()
    if not 64 <= options.size <= 2048:
        raise ValueError(f"size must be from 64 to 2048 pixels, got {options.size}")
    for path in (source, *([options.audio] if options.audio else [])):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    with staging(out, overwrite=options.overwrite) as folder:
        if source.is_dir():
            material, options = importers.open_folder(source), replace(options, camera=importers.camera(source))
            material = replace(material, sound=options.audio or material.sound)
        else:
            material = _clip(source, options.audio)
        if not has_sound(material.sound):
            hint = "" if options.audio else "; give another file by --audio"
            raise ValueError(f"{material.sound} has no sound{hint}")
        return _make(material, folder, options, progress)


def _make(material: Material, folder: Path, options: Options, progress: Progress) -> Meta:
    given, view = material.given, CAMERAS[options.camera]
    found = track(material.pictures, folder / ".track", lambda done: progress("Tracking", done, material.expected))
    shot = choose(found, material.name)
    shot, heard, notes = _listen(material, folder, shot)
    frames = len(shot.valid)
    result = analyze(found, shot, view, options.size, folder, cropped=material.cropped)
    result = _with_given(result, material, shot)
    (folder / ".track").unlink()
    notes = [*material.notes(), *shot.notes, *notes, *_analysis_notes(result, shot)]

    progress("Speech", 0, frames)
    speech, windows = folder / "speech.wav", folder / "features.npy"
    if given.features is None:
        features = encode_speech(speech, windows, frames, options.encoder, model=options.model)
    else:
        features = FeaturesInfo("imported", given.features.shape[2])
        write_array(windows, given.features[shot.start : shot.stop])
    progress("Speech", frames, frames)
    written = write_frames(
        material, result.crops, shot.start, options.size, folder, lambda done: progress("Cutting", done, frames)
    )
    _save_track(result, view, folder)
    meta = Meta(
        source={"name": material.name} | material.source() | {"first_frame": shot.start} | _about(heard),
        size=options.size,
        frames=frames,
        frame_size=found.frame_size,
        camera=Camera(view.focal, view.pivot, view.radius),
        splits=_splits(material, shot),
        features=features,
        tracking=result.tracking | {"plate_painted": round(written.unseen, 4)},
        notes=tuple(notes),
        tool=f"talk3d {talk3d.__version__}",
    )
    write_meta(meta, folder)
    if options.overview:
        progress("Overview", 0, 1)
        write_overview(Dataset(folder), written.shown)
        progress("Overview", 1, 1)
    return meta


def _clip(path: Path, audio: Path | None) -> Material:
    video = Video(path)
    clip = video.clip

    def source() -> dict[str, Any]:
        about = {
            "sha256": _sha256(path),
            "seconds": round(clip.seconds, 3),
            "fps": round(clip.fps, 4),
            "codec": clip.codec,
            "rotation": clip.rotation,
        }
        return about if audio is None else about | {"sound": audio.name, "sound_sha256": _sha256(audio)}

    return Material(
        name=path.name,
        pictures=video,
        expected=round(clip.promised * FPS) or None,
        sound=audio or path,
        source=source,
        notes=lambda: _clip_notes(clip),
        start=0.0 if audio else clip.start,
    )


def _with_given(result: Analysis, material: Material, shot: Shot) -> Analysis:
    """Put what a prepared folder brings along in place of what was found."""
    given, part = material.given, slice(shot.start, shot.stop)
    if given.cam2world is not None:
        result = replace(result, cam2world=given.cam2world[part])
    if given.blink is not None:
        result = replace(result, blink=np.stack((given.blink[part],) * 2, 1))
    if given.face is not None:
        face = given.face[part]
        # the frame was turned on its way to the crop as the line through its eyes was
        (left, right), (left_crop, right_crop) = face[:, 1:].swapaxes(0, 1), result.face[:, 1:].swapaxes(0, 1)
        line, line_crop = left - right, left_crop - right_crop
        turned = np.arctan2(line_crop[:, 1], line_crop[:, 0]) - np.arctan2(line[:, 1], line[:, 0])
        angles = result.angles.copy()
        angles[:, 2] += np.degrees(turned)
        result = replace(result, face=face, angles=angles)
    return result


def _splits(material: Material, shot: Shot) -> dict[str, tuple[int, int]]:
    given, frames = material.given.splits, len(shot.valid)
    if given is None:
        return split(frames)
    return {
        name: tuple(min(max(end - shot.start, 0), frames) for end in ends)  # type: ignore[misc]
        for name, ends in given.items()
    }


def _save_track(result: Analysis, view: View, folder: Path) -> None:
    """Write ``track.safetensors``: what is small of each frame, and the mesh."""
    intrinsics = cameras.intrinsics(torch.tensor(view.focal, dtype=torch.float64))
    vectors = cameras.pack(torch.from_numpy(result.cam2world), intrinsics)
    arrays = {
        "mesh": result.mesh,
        "cameras": vectors.numpy(),
        "angles": result.angles,
        "blink": result.blink,
        "face_landmarks": result.face,
    }
    exact = {"crops": result.crops, "valid": result.valid}
    small = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    whole = {name: np.ascontiguousarray(array) for name, array in exact.items()}
    save_file(small | whole, folder / "track.safetensors")


def _listen(material: Material, folder: Path, shot: Shot) -> tuple[Shot, Sound, list[Note]]:
    """Write the shot's sound; where it ends first, so does the shot."""
    notes = []
    sound, wav = material.sound, folder / "speech.wav"
    frames, lasting = len(shot.valid), len(shot.valid)
    if material.given.features is not None:
        lasting = min(lasting, len(material.given.features) - shot.start)
    start = shot.start / FPS + material.start
    heard = decode_sound(sound, wav, start=start, seconds=lasting / FPS)
    lasting = min(lasting, 0 if heard is None else round(heard.seconds * FPS))
    if heard is None or lasting < SHORTEST:
        raise ValueError(f"{sound} has sound for {lasting / FPS:.1f} s of the clip; {SHORTEST / FPS:.0f} s are needed")
    if lasting < frames:
        text = f"The sound ends {(frames - lasting) / FPS:.2f} s before the pictures: the last of these were left out."
        notes.append(Note("sound ends", text))
        shot = replace(shot, stop=shot.start + lasting, valid=shot.valid[:lasting])
        heard = decode_sound(sound, wav, start=start, seconds=lasting / FPS) or heard
    elif heard.more > _MORE and shot.stop == shot.total:
        notes.append(Note("sound goes on", "The sound is longer than the pictures: the rest of it was left out."))
    if heard.loudness < _SILENT:
        text = f"The sound is silent ({heard.loudness:.0f} dB): no lips can be learned from it."
        notes.append(Note("silent", text))
    if heard.broken:
        notes.append(Note("broken sound", "The sound's file breaks off; what comes before was used."))
    return shot, heard, notes


def _about(heard: Sound) -> dict[str, Any]:
    return {
        "sound_rate": heard.rate,
        "sound_channels": heard.channels,
        "loudness": round(heard.loudness, 2),
    }


def _clip_notes(clip: Clip) -> list[Note]:
    notes = []
    if clip.broken:
        text = f"The file breaks off after {clip.seconds:.2f} s ({clip.broken}); what comes before was used."
        notes.append(Note("broken", text))
    elif clip.promised - clip.seconds > max(0.2, 0.02 * clip.promised):
        text = f"The file promises {clip.promised:.2f} s and holds {clip.seconds:.2f} s: these were used."
        notes.append(Note("broken", text))
    if clip.skipped or clip.repeated:
        text = f"{clip.fps:.4g} frames a second became 25: {clip.skipped} were left out, {clip.repeated} shown again."
        notes.append(Note("frame rate", text))
    if clip.rotation:
        notes.append(Note("turned", f"The pictures were turned {clip.rotation} degrees clockwise, as the file says."))
    return notes


def _analysis_notes(result: Analysis, shot: Shot) -> list[Note]:
    notes = []
    lost = int((shot.valid & ~result.valid).sum())
    if lost:
        notes.append(Note("pose lost", f"In {lost} frames the points fit no pose of this face: they are not sampled."))
    size = result.tracking["crop_scale"]
    if size > _SMALL:
        notes.append(Note("small face", f"The face is small: crops are {size:.1f} times as large as the source."))
    return notes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
