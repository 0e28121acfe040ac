"""Datasets to test with: a tiny one of random numbers, and the synthetic clip, prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.numpy import save_file

from talk3d.audio import FeaturesInfo
from talk3d.data import synthetic
from talk3d.data.archive import ArchiveWriter, encode_masks, encode_picture
from talk3d.data.meta import Camera, Meta, Note, write_meta
from talk3d.data.prepare import prepare
from talk3d.data.rows import RowWriter
from talk3d.data.video import Video

FRAMES, SIZE, WIDTH, HEIGHT = 60, 32, 48, 40


def write_tiny(folder: Path) -> Path:
    """Write a dataset of random numbers whose crops move; features of frame i are i + 1 in all steps."""
    random = np.random.default_rng(0)
    folder.mkdir()
    crops = np.tile([[1.0, 0.1, -3], [-0.1, 1.0, 2]], (FRAMES, 1, 1))
    crops[:, 0, 2] += np.arange(FRAMES) / 10
    valid = np.ones(FRAMES, bool)
    valid[20:23] = False
    small = {
        "mesh": (478, 3),
        "cameras": (FRAMES, 25),
        "angles": (FRAMES, 3),
        "blink": (FRAMES, 2),
        "face_landmarks": (FRAMES, 3, 2),
    }
    arrays = {name: random.uniform(0, 1, shape).astype(np.float32) for name, shape in small.items()}
    arrays["angles"] = (60 * arrays["angles"]).astype(np.float32)
    save_file(arrays | {"crops": crops, "valid": valid}, folder / "track.safetensors")
    for name, shape in (("landmarks", (478, 2)), ("points", (478, 3))):
        with RowWriter(folder / f"{name}.npy", (FRAMES, *shape)) as rows:
            rows.append(random.uniform(0, 1, (FRAMES, *shape)))
    with RowWriter(folder / "features.npy", (FRAMES, 16, 5)) as rows:
        rows.append(np.tile(np.arange(1.0, FRAMES + 1)[:, None, None], (1, 16, 5)))
    archive = ArchiveWriter(folder / "frames.zip")
    for frame in range(FRAMES):
        picture = np.full((SIZE, SIZE, 3), (4 * frame, 100, 200), np.uint8)
        matte = np.full((SIZE, SIZE), 2 * frame, np.uint8)
        regions = np.full((SIZE, SIZE), frame % 16, np.uint8)
        archive.append(encode_picture(picture), encode_masks(matte, regions))
    archive.close()
    across, down = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    plate = np.stack((4 * across, 4 * down, 0 * down), -1).astype(np.uint8)
    Image.fromarray(plate).save(folder / "plate.png")
    soundfile.write(folder / "speech.wav", np.zeros(640 * FRAMES), 16000)
    meta = Meta(
        source={"name": "tiny.mp4"},
        size=SIZE,
        frames=FRAMES,
        frame_size=(WIDTH, HEIGHT),
        camera=Camera(4.2647, (0.0, 0.0, 0.2), 2.7),
        splits={"train": (0, 40), "val": (44, 50), "test": (54, 60)},
        features=FeaturesInfo("logmel", 5, -1.5, 0.8),
        tracking={"pose_error_pixels": 1.0},
        notes=(Note("face lost", "No face was found.", ((20, 23),)),),
        tool="talk3d test",
    )
    write_meta(meta, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def synthetic_clip():
    """Ten seconds in which the head turns as far as it ever does; from the cache after the first time."""
    return synthetic.cached(track="wide", size=256, seconds=10)


@pytest.fixture(scope="session")
def synthetic_pictures(synthetic_clip) -> list[np.ndarray]:
    return [picture.pixels for picture in Video(synthetic_clip.video)]


@pytest.fixture(scope="session")
def prepared(synthetic_clip, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    prepare(synthetic_clip.video, folder)
    return folder


def _write_clip(
    path: Path, pictures: Sequence[np.ndarray], *, times: Sequence[Fraction] | None = None, sound: float | None = 0.1
) -> Path:
    """Write pictures, by default 25 a second, with noise of a loudness (or none) as sound."""
    times = times or [Fraction(k, 25) for k in range(len(pictures))]
    height, width = pictures[0].shape[:2]
    clock = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"crf": "16", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = video.codec_context.time_base = clock
        if sound is not None:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        for time, pixels in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            samples = round(16000 * float(times[-1] + Fraction(1, 25)))
            noise = np.random.default_rng(0).normal(size=(1, samples)) * sound
            frame = av.AudioFrame.from_ndarray(noise.astype(np.float32), "fltp", "mono")
            frame.rate, frame.pts = 16000, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session")
def write_clip():
    return _write_clip
