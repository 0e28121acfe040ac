"""Folders in the layouts that other projects write, made from the synthetic clip."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from talk3d import cameras
from talk3d.data import Dataset, importers
from talk3d.data.prepare import Options, prepare

FRAMES = 60
QUICK = Options(size=128)


def save(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def common(folder, units: int, features: int) -> np.ndarray:
    """Sound, speech features and OpenFace's table."""
    soundfile.write(folder / "aud.wav", np.random.default_rng(0).normal(size=16000 * 5 // 2) * 0.1, 16000)
    windows = np.random.default_rng(1).normal(size=(features, 16, 44)).astype(np.float32)
    np.save(folder / "aud_eo.npy", windows)
    rows = "\n".join(f"{k + 1}, {k / 25:.2f}, {k / 20:.2f}" for k in range(units))
    (folder / "au.csv").write_text(f"frame, timestamp, AU45_r\n{rows}\n")
    return windows


@pytest.fixture(scope="module")
def talk3d_folder(prepared, tmp_path_factory):
    """Crops as Talk3D stores them: our own crops will do, its masks, landmarks and the angles of its inversion."""
    folder, dataset = tmp_path_factory.mktemp("talk3d") / "May", Dataset(prepared)
    folder.mkdir()
    for k in range(FRAMES):
        save(folder / "image" / f"{k:05d}.png", dataset.picture(k)[::2, ::2])
        matte, (face, mouth, _, torso) = dataset.masks(k)
        masks = {"faceseg": face, "mouthseg": mouth, "torsoseg": torso, "bodyseg": matte > 127}
        for name, mask in masks.items():
            save(folder / name / f"{k:05d}.png", np.repeat(255 * np.uint8(mask[::2, ::2, None]), 3, 2))
    common(folder, FRAMES, FRAMES + 1)
    six = torch.zeros(FRAMES, 6, 2)
    six[:, [0, 2, 3]] = torch.from_numpy(dataset.face_landmarks[:FRAMES])
    torch.save(six, folder / "landmarks.pt")
    torch.save(torch.tensor([[0.01 * k, -0.005 * k] for k in range(FRAMES)]), folder / "inversion_0-0_angles.pt")
    return folder


@pytest.fixture(scope="module")
def nerf_folder(synthetic_pictures, synthetic_clip, tmp_path_factory):
    """Frames as RAD-NeRF and its kind have them; the parsing is the truth, and one frame was left out."""
    folder, truth = tmp_path_factory.mktemp("nerf") / "Lieu", synthetic_clip.truth
    folder.mkdir()
    numbers = [k for k in range(FRAMES + 1) if k != 30]
    for k in numbers:
        save(folder / "ori_imgs" / f"{k}.jpg", synthetic_pictures[k])
        parsing = np.full((256, 256, 3), 255, np.uint8)
        for name, color in (("head", (0, 0, 255)), ("neck", (0, 255, 0))):
            parsing[truth.mask(k, name)] = color
        parsing[truth.mask(k, "torso") & ~truth.mask(k, "neck")] = (255, 0, 0)
        save(folder / "parsing" / f"{k}.png", parsing)
    save(folder / "bc.jpg", np.full((256, 256, 3), (10, 200, 30), np.uint8))
    common(folder, FRAMES + 1, FRAMES + 1)
    for name, chosen in (("train", numbers[:40]), ("val", numbers[40:])):
        frames = [{"img_id": k, "aud_id": k, "transform_matrix": np.eye(4).tolist()} for k in chosen]
        (folder / f"transforms_{name}.json").write_text(json.dumps({"focal_len": 1200.0, "frames": frames}))
    return folder


def test_talk3d(talk3d_folder, prepared, tmp_path):
    prepare(talk3d_folder, tmp_path / "data", QUICK)
    dataset, ours = Dataset(tmp_path / "data"), Dataset(prepared)
    assert (len(dataset), dataset.size) == (FRAMES, 128)
    assert dataset.valid.all()
    assert dataset.meta.camera.focal == 3.6
    assert dataset.meta.source["kind"] == "Talk3D"
    assert "inversion_0-0_angles.pt" in dataset.meta.notes[0].text
    # crops stay as they are, and everything that is known is taken over
    np.testing.assert_allclose(dataset.crops, np.tile([[0.5, 0, 0], [0, 0.5, 0]], (FRAMES, 1, 1)), atol=1e-12)
    reduced = np.asarray(Image.fromarray(ours.picture(9)).reduce(4)).astype(int)
    assert np.abs(dataset.picture(9) - reduced).mean() < 6
    yaw, pitch = 0.01 * 7, -0.005 * 7
    pose = cameras.look_at_eg3d(math.pi / 2 + yaw, math.pi / 2 + pitch, pivot=(0.0, 0.05, 0.2))
    expected = cameras.pack(pose, cameras.intrinsics(3.6))
    np.testing.assert_allclose(dataset.cameras[7], expected, atol=1e-5)
    np.testing.assert_array_equal(dataset.face_landmarks, ours.face_landmarks[:FRAMES])
    np.testing.assert_allclose(dataset.blink[:, 0], (np.arange(FRAMES) / 40).clip(0, 1), atol=2e-3)
    np.testing.assert_array_equal(dataset.features, np.load(talk3d_folder / "aud_eo.npy")[:FRAMES])
    assert dataset.features_info.name == "imported"
    matte, (_, mouth, _, torso) = dataset.masks(20)
    theirs, (_, their_mouth, _, their_torso) = ours.masks(20)
    assert (mouth ^ their_mouth[::4, ::4]).mean() < 0.01
    assert (torso ^ their_torso[::4, ::4]).mean() < 0.02
    assert np.abs((matte > 127) ^ (theirs[::4, ::4] > 127)).mean() < 0.03
    # the crop turned the frame: their landmarks tell by how much
    assert np.abs(dataset.angles[:, 2] - ours.angles[:FRAMES, 2]).mean() < 1.5
    assert dataset.sample([3]).features.shape == (1, 8, 16, 44)
    assert (tmp_path / "data" / "overview.png").is_file()


def test_nerf(nerf_folder, synthetic_clip, tmp_path):
    prepare(nerf_folder, tmp_path / "data", QUICK)
    dataset = Dataset(tmp_path / "data")
    kept = [k for k in range(FRAMES + 1) if k != 30]
    assert len(dataset) == FRAMES
    assert dataset.valid.all()
    assert [note.kind for note in dataset.meta.notes] == ["imported", "gaps"]
    np.testing.assert_array_equal(dataset.features, np.load(nerf_folder / "aud_eo.npy")[kept])
    np.testing.assert_allclose(dataset.blink[:, 1], (np.array(kept) / 40).clip(0, 1), atol=2e-3)
    assert np.abs(dataset.plate.reshape(-1, 3).mean(0) - (10, 200, 30)).max() < 3
    assert dataset.splits == {"train": range(32), "val": range(40, 46), "test": range(54, 60)}
    truth = synthetic_clip.truth
    yaw = dataset.angles[:, 1] - truth.angles[kept, 0]
    assert np.abs(yaw - yaw.mean()).mean() < 3
    matte, regions = dataset.masks(20)
    assert regions[3].any()
    assert not (regions[3] & (matte < 20)).any()


def test_frames_of_both_kinds_of_splits(nerf_folder, tmp_path):
    folder = tmp_path / "mixed"
    folder.symlink_to(nerf_folder)
    pictures = importers._Folder(folder / "ori_imgs")
    assert importers._nerf_split(folder, pictures)["train"] == (0, 32)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("aud.wav", None, "has no aud.wav"),
        ("au.csv", b"frame, AU12_r\n1, 0.5\n", "has no column AU45_r of numbers"),
        ("au.csv", b"frame, AU45_r\n1, 0.5\n", r"au\.csv has 1 rows for 60 pictures"),
        ("aud_eo.npy", b"no array", r"aud_eo\.npy cannot be read as an array"),
        ("landmarks.pt", b"no tensor", r"landmarks\.pt cannot be read"),
        ("image/00005.png", b"no picture", r"00005\.png cannot be read as a picture"),
        ("mouthseg/00005.png", None, r"mouthseg/00005\.png is missing"),
    ],
)
def test_damage_is_named(talk3d_folder, tmp_path, name, content, reason):
    folder = tmp_path / "May"
    for path in talk3d_folder.rglob("*"):
        if path.is_file():
            link = folder / path.relative_to(talk3d_folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if str(path.relative_to(talk3d_folder)) != name:
                link.symlink_to(path)
            elif content is not None:
                link.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        prepare(folder, tmp_path / "data", QUICK)
    assert not (tmp_path / "data").exists()


def test_a_pickle_that_runs_code_does_not(talk3d_folder, tmp_path):
    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    torch.save(Harm(), tmp_path / "landmarks.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        importers._tensor(tmp_path / "landmarks.pt", (6, 2))
    assert not (tmp_path / "harm").exists()
