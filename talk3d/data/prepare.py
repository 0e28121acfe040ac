"""``talk3d prepare``: from a clip to a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

import talk3d
from talk3d import cameras
from talk3d.audio import FeaturesInfo, decode_sound, encode_speech
from talk3d.audio.features import Encoder
from talk3d.audio.files import Sound, has_sound
from talk3d.data.analysis import Analysis, analyze
from talk3d.data.dataset import Dataset
from talk3d.data.frames import write_frames
from talk3d.data.head import View
from talk3d.data.meta import Camera, Meta, Note, write_meta
from talk3d.data.overview import write_overview
from talk3d.data.shots import SHORTEST, Shot, choose, split
from talk3d.data.staging import staging
from talk3d.data.track import Track, track
from talk3d.data.video import FPS, Video

__all__ = ["CAMERAS", "Options", "Progress", "prepare"]

CAMERAS = {
    "ffhq": View(cameras.FFHQ_FOCAL, cameras.FFHQ_PIVOT, cameras.RADIUS),
    "talk3d": View(cameras.TALK3D_FOCAL, cameras.TALK3D_PIVOT, cameras.RADIUS),
}
_SILENT = -60.0  # dB below full scale
_SMALL = 1.6  # crop pixels per source pixel, above which crops look soft

# called with what is being done, how many are done, and how many there are, if known
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
    clip: Path, out: Path, options: Options = Options(), progress: Progress = lambda *_: None
) -> Meta:
    """Make a dataset of a clip.

    Args:
        clip: Any video that FFmpeg reads.
        out: The folder to make; it appears when it is whole.
        options: How.
        progress: Is told what happens.

    Returns:
        What is in ``meta.json``.

    Raises:
        ImportError: If the tracker or the speech encoder is not installed.
        OSError: If there is no room for the dataset, or the clip cannot be opened.
        ValueError: If the clip is not fit for one; with the reason.
    """
    if not 64 <= options.size <= 2048:
        raise ValueError(f"size must be from 64 to 2048 pixels, got {options.size}")
    sound = options.audio or clip
    for path in {clip, sound}:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    with staging(out, overwrite=options.overwrite) as folder:
        video = Video(clip)
        if not has_sound(sound):
            raise ValueError(f"{sound} has no sound" + ("" if options.audio else "; give another file by --audio"))
        expected = round(video.clip.promised * FPS) or None
        found = track(video, folder / ".track", lambda done: progress("Tracking", done, expected))
        shot = choose(found, clip.name)
        shot, heard, notes = _listen(sound, folder, video, shot, own=options.audio is None)
        notes = [*_clip_notes(video), *shot.notes, *notes]
        frames = len(shot.valid)

        view = CAMERAS[options.camera]
        result = analyze(found, shot, view, options.size, folder)
        (folder / ".track").unlink()
        notes += _analysis_notes(result, shot)
        progress("Speech", 0, frames)
        features = encode_speech(
            folder / "speech.wav", folder / "features.npy", frames, options.encoder, model=options.model
        )
        progress("Speech", frames, frames)
        written = write_frames(
            video, result.crops, shot.start, options.size, folder, lambda done: progress("Cutting", done, frames)
        )
        save_track(result, view, folder, (video.clip.width, video.clip.height))
        meta = Meta(
            source=_source(clip, options.audio, video, shot, heard),
            size=options.size,
            frames=frames,
            frame_size=(video.clip.width, video.clip.height),
            camera=Camera(view.focal, view.pivot, view.radius),
            splits=split(frames),
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


def save_track(result: Analysis, view: View, folder: Path, frame_size: tuple[int, int]) -> None:
    """Write ``track.safetensors``: what is small of each frame, and the mesh."""
    intrinsics = cameras.intrinsics(torch.tensor(view.focal, dtype=torch.float64))
    vectors = cameras.pack(torch.from_numpy(result.cam2world), intrinsics)
    width, height = frame_size
    arrays = {
        "mesh": result.mesh,
        "cameras": vectors.numpy(),
        "angles": result.angles,
        "blink": result.blink,
        "face_landmarks": result.face * 2 / width - np.array([1.0, height / width]),
    }
    exact = {"crops": result.crops, "valid": result.valid}
    small = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    save_file(small | {name: np.ascontiguousarray(array) for name, array in exact.items()}, folder / "track.safetensors")


def _listen(
    sound: Path, folder: Path, video: Video, shot: Shot, *, own: bool
) -> tuple[Shot, Sound, list[Note]]:
    """Write the shot's sound; where it ends first, so does the shot."""
    notes = []
    frames = len(shot.valid)
    start = shot.start / FPS + (video.clip.start if own else 0.0)
    heard = decode_sound(sound, folder / "speech.wav", start=start, seconds=frames / FPS)
    lasting = 0 if heard is None else round(heard.seconds * FPS)
    if heard is None or lasting < SHORTEST:
        raise ValueError(f"{sound} has sound for {lasting / FPS:.1f} s of the clip; {SHORTEST / FPS:.0f} s are needed")
    if lasting < frames:
        notes.append(Note("sound ends", f"The sound ends {(frames - lasting) / FPS:.2f} s before the pictures: these were left out."))
        shot = Shot(shot.start, shot.start + lasting, shot.face, shot.valid[:lasting], shot.notes)
        heard = decode_sound(sound, folder / "speech.wav", start=start, seconds=lasting / FPS) or heard
    if heard.more and shot.stop == shot.start + frames and not own:
        notes.append(Note("sound goes on", "The sound is longer than the pictures: the rest was left out."))
    if heard.loudness < _SILENT:
        notes.append(Note("silent", f"The sound is silent ({heard.loudness:.0f} dB): lips cannot be learned from it."))
    if heard.broken:
        notes.append(Note("broken sound", "The sound's file breaks off; what comes before was used."))
    return shot, heard, notes


def _clip_notes(video: Video) -> list[Note]:
    clip, notes = video.clip, []
    if clip.broken:
        notes.append(Note("broken", f"The file breaks off after {clip.seconds:.2f} s ({clip.broken}); what comes before was used."))
    elif clip.promised - clip.seconds > max(0.2, 0.02 * clip.promised):
        notes.append(Note("broken", f"The file states {clip.promised:.2f} s and holds {clip.seconds:.2f} s."))
    if clip.skipped or clip.repeated:
        text = f"{clip.fps:.3g} frames a second became 25: {clip.skipped} were left out, {clip.repeated} shown again."
        notes.append(Note("frame rate", text))
    if clip.rotation:
        notes.append(Note("turned", f"The pictures were turned by {clip.rotation} degrees clockwise, as the file says."))
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


def _source(clip: Path, audio: Path | None, video: Video, shot: Shot, heard: Sound) -> dict[str, Any]:
    about = video.clip
    source = {
        "name": clip.name,
        "sha256": _sha256(clip),
        "seconds": round(about.seconds, 3),
        "fps": round(about.fps, 4),
        "width": about.width,
        "height": about.height,
        "codec": about.codec,
        "rotation": about.rotation,
        "first_frame": shot.start,
        "sound_rate": heard.rate,
        "sound_channels": heard.channels,
        "loudness": round(heard.loudness, 2),
    }
    return source if audio is None else source | {"sound": audio.name, "sound_sha256": _sha256(audio)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
