"""A tiny clip, an avatar that goes with it, and the true frames in place of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.numpy import save_file

from talk3d import Avatar, cameras
from talk3d.audio import FeaturesInfo
from talk3d.data.archive import ArchiveWriter, encode_masks, encode_picture
from talk3d.data.meta import Camera, Meta, write_meta
from talk3d.data.rows import RowWriter
from talk3d.evaluation import faces as tracking

FRAMES, SIZE, WIDTH, FOCAL = 40, 32, 7, cameras.FFHQ_FOCAL
SPLITS = {"train": (0, 6), "val": (6, 8), "test": (8, FRAMES)}
FEATURES = FeaturesInfo("logmel", WIDTH, -2.0, 1.5)
FACE, MOUTH, TORSO = (slice(4, 20), slice(8, 24)), (slice(14, 18), slice(12, 20)), (slice(24, 32), slice(0, 32))


def picture(frame: int) -> np.ndarray:
    """A ramp, with a mouth that is redder in each frame."""
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    pixels = np.stack((6 * across, 6 * down, 3 * (across + down)), -1).astype(np.uint8)
    pixels[MOUTH] = (5 * frame + 5, 40, 40)
    return pixels


def write_clip(folder: Path, *, invalid: tuple[int, ...] = (), features: FeaturesInfo = FEATURES) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    valid = np.ones(FRAMES, bool)
    valid[list(invalid)] = False
    poses = cameras.look_at(torch.linspace(-5, 5, FRAMES), 0.0)
    track = {
        "mesh": random.normal(size=(478, 3)).astype(np.float32),
        "cameras": cameras.pack(poses, cameras.intrinsics(FOCAL)).numpy(),
        "angles": random.normal(size=(FRAMES, 3)).astype(np.float32),
        "blink": random.uniform(0, 1, (FRAMES, 2)).astype(np.float32),
        "face_landmarks": random.uniform(-0.2, 0.2, (FRAMES, 3, 2)).astype(np.float32),
        "crops": np.tile([[1.0, 0, 0], [0, 1.0, 0]], (FRAMES, 1, 1)),
        "valid": valid,
    }
    save_file(track, folder / "track.safetensors")
    for name, shape in (("landmarks", (478, 2)), ("points", (478, 3)), ("features", (16, features.width))):
        with RowWriter(folder / f"{name}.npy", (FRAMES, *shape)) as rows:
            rows.append(random.normal(size=(FRAMES, *shape)))
    regions = np.zeros((SIZE, SIZE), np.uint8)
    for bit, where in ((0, FACE), (1, MOUTH), (3, TORSO)):
        regions[where] |= 1 << bit
    archive = ArchiveWriter(folder / "frames.zip")
    for frame in range(FRAMES):
        archive.append(encode_picture(picture(frame)), encode_masks(np.full((SIZE, SIZE), 255, np.uint8), regions))
    archive.close()
    Image.fromarray(np.full((SIZE, SIZE, 3), 90, np.uint8)).save(folder / "plate.png")
    soundfile.write(folder / "speech.wav", np.zeros(640 * FRAMES), 16000)
    meta = Meta(
        source={"name": "tiny.mp4"},
        size=SIZE,
        frames=FRAMES,
        frame_size=(SIZE, SIZE),
        camera=Camera(FOCAL, cameras.FFHQ_PIVOT, cameras.RADIUS),
        splits=SPLITS,
        features=features,
        tracking={},
    )
    write_meta(meta, folder)
    return folder


@pytest.fixture(name="write_clip")
def write_clip_fixture():
    return write_clip


@pytest.fixture(autouse=True)
def no_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here works without one; starting it takes seconds."""

    class Missing:
        def __init__(self) -> None:
            raise ImportError("tracking needs MediaPipe: pip install 'talk3d[prepare]'")

    monkeypatch.setattr(tracking, "FaceTracker", Missing)


class TrackerOfRed:
    """Finds a face whose mouth is as open as its middle is red, and none where that is not."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        found = np.full((2, 478, 3), np.nan, np.float32)
        red = float(pixels[MOUTH][..., 0].mean())
        if red > 1:
            found[0] = 0
            found[0, 263, 0] = 10  # the eyes' outer corners lie 10 apart, the lids 1
            found[0, [133, 362], 0] = 2, 8
            found[0, [159, 160, 158, 386, 385, 387], 1] = 1
            found[0, 14, 1] = red / 10
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch, no_tracker: None) -> None:
    monkeypatch.setattr(tracking, "FaceTracker", TrackerOfRed)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def avatar(make_avatar) -> Avatar:
    avatar = make_avatar("aligned", speech=WIDTH)
    avatar.facts = {"features": vars(FEATURES)}
    avatar.plate = torch.full((SIZE, SIZE, 3), 90, dtype=torch.uint8)
    return avatar


@pytest.fixture
def folder(avatar, tmp_path: Path) -> Path:
    avatar.save(tmp_path / "ada")
    return tmp_path / "ada"


@pytest.fixture
def rest(make_avatar, tmp_path: Path) -> Path:
    """An avatar that nothing drives, which renders in no time."""
    make_avatar(None).save(tmp_path / "rest")
    return tmp_path / "rest"
