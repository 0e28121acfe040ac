"""The whole way, on the synthetic clip: its truth says how well."""

from __future__ import annotations

import errno
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from talk3d import cameras, cli
from talk3d.data import Dataset, frames
from talk3d.data.crop import cut
from talk3d.data.prepare import Options, prepare
from talk3d.data.shots import runs
from talk3d.data.synthetic.truth import LANDMARKS
from talk3d.data.transforms import apply, inverse

CLIPS = Path(__file__).parents[3].parent / "shared" / "clips"
QUICK = Options(size=64, overview=False)


@pytest.fixture(scope="module")
def dataset(prepared):
    return Dataset(prepared)


@pytest.fixture(scope="module")
def truth(synthetic_clip):
    return synthetic_clip.truth


def turns(rotations: Rotation) -> np.ndarray:
    """Yaw, pitch and roll of cameras in degrees ``[N, 3]``."""
    poses = np.tile(np.eye(4), (len(rotations), 1, 1))
    poses[:, :3, :3] = rotations.as_matrix()
    return torch.stack(cameras.angles(torch.from_numpy(poses)), 1).numpy()


def seen_turns(dataset: Dataset) -> Rotation:
    """The uncropped camera in the head's frame."""
    pitch, yaw, roll = torch.from_numpy(dataset.angles).double().T
    return Rotation.from_matrix(cameras.look_at(yaw, pitch, roll)[:, :3, :3].numpy())


def test_every_frame_has_a_face(dataset, truth):
    assert len(dataset) == len(truth)
    assert dataset.valid.all()


def test_pose(dataset, truth):
    seen, true = seen_turns(dataset), Rotation.from_matrix(truth.cam2head[:, :3, :3])
    constant = (true * seen.inv()).mean()
    found, expected = turns(constant * seen), turns(true)
    assert np.ptp(expected, axis=0)[0] > 59
    assert np.ptp(expected, axis=0)[1] > 30
    for axis, limit in enumerate((1.5, 2.5)):
        assert np.abs(found - expected)[:, axis].mean() <= limit
        assert 0.9 <= np.polyfit(expected[:, axis], found[:, axis], 1)[0] <= 1.1


def test_crops_stand_still_with_the_head_and_do_not_lag(dataset, truth):
    corners = [LANDMARKS.index("left_eye_outer"), LANDMARKS.index("right_eye_outer")]
    source = truth.landmarks_2d[:, corners] * dataset.plate.shape[0]
    cropped = apply(dataset.crops, source)
    speed = 25 * np.linalg.norm(np.gradient(truth.angles, axis=0), axis=1)
    still = [(start, stop) for start, stop in runs(speed < 0.5) if stop - start >= 10]
    assert still
    for start, stop in still:
        assert cropped[start:stop].std(0).max() <= 0.3
    # the crop's middle follows the eyes' d frames late: a * x(t - d) is a * x(t) - a * d * x'(t)
    middle = apply(inverse(dataset.crops), np.full((1, 2), dataset.size / 2))[:, 0, 0]
    eyes = source.mean(1)[:, 0]
    a, slope, _ = np.linalg.lstsq(np.stack((eyes, np.gradient(eyes), 1 + 0 * eyes), 1), middle, rcond=None)[0]
    late = -slope / a
    fastest = np.abs(np.gradient(eyes)).max() * np.median(
        dataset.crops[:, 0, 0]
    )  # crop pixels a frame, at 58 degrees/s
    assert abs(late * fastest) <= 1


def test_blinks(dataset, truth):
    found = list(runs(dataset.blink.mean(1) > 0.5))
    true = [(int(first), int(last) + 1) for first, last, _ in truth.blinks]
    hits = sum(any(a < stop and start < b for a, b in found) for start, stop in true)
    false = sum(not any(a < stop and start < b for start, stop in true) for a, b in found)
    assert len(true) >= 3
    assert 2 * hits / (2 * hits + len(true) - hits + false) >= 0.9


def test_masks(dataset, truth):
    for frame in range(0, len(dataset), 25):
        matte, regions = dataset.masks(frame)

        def overlap(mask, found, frame=frame):
            true = cut(np.uint8(255) * mask, dataset.crops[frame], dataset.size) > 127
            return (true & found).sum() / (true | found).sum()

        assert overlap(truth.mask(frame, "person"), matte > 127) > 0.95
        assert overlap(truth.mask(frame, "mouth"), regions[1]) > 0.6
        eyes = cut(np.uint8(255) * truth.mask(frame, "eye"), dataset.crops[frame], dataset.size) > 127
        assert (eyes & regions[2]).sum() > 0.9 * eyes.sum()
        assert not (regions[0] & regions[3]).any()


def test_points_and_mesh_agree_with_the_cameras(dataset):
    focal = dataset.meta.camera.focal
    points = np.asarray(dataset.points)
    np.testing.assert_allclose(focal * points[..., :2] / points[..., 2:] + 0.5, dataset.landmarks, atol=1e-5)
    to_camera = np.linalg.inv(dataset.cameras[:, :16].reshape(-1, 4, 4).astype(float))
    mesh = np.einsum("nij,vj->nvi", to_camera[:, :3, :3], dataset.mesh) + to_camera[:, None, :3, 3]
    assert np.sqrt(((mesh - points) ** 2).sum(-1).mean()) < 0.015  # half a centimetre, speech included
    corners = dataset.mesh[[33, 263]]
    np.testing.assert_allclose(corners.mean(0), [0, 0.02 + 0.027 * 2.664, 0.107 + 0.027 * 3.173], atol=1e-4)
    assert np.linalg.norm(corners[1] - corners[0]) == pytest.approx(0.027 * 8.892, abs=1e-4)


def test_a_crop_can_be_pasted_back(dataset, synthetic_pictures):
    import cv2

    frame = 120
    matrix = dataset.crops[frame].copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    size = synthetic_pictures[0].shape[1::-1]
    back = cv2.warpAffine(dataset.picture(frame), cv2.invertAffineTransform(matrix), size, flags=cv2.INTER_AREA)
    inside = cv2.warpAffine(np.ones((512, 512), np.uint8), cv2.invertAffineTransform(matrix), size) > 0
    inside = cv2.erode(inside.astype(np.uint8), np.ones((7, 7))) > 0
    assert np.abs(back[inside].astype(int) - synthetic_pictures[frame][inside]).mean() < 4


def test_the_overview_is_there_and_the_page_stands_alone(prepared):
    assert 10_000 < (prepared / "overview.png").stat().st_size < 3_000_000
    page = (prepared / "overview.html").read_text()
    assert "clip.mp4" in page
    assert 'src="data:image/png;base64,' in page
    assert not list(prepared.glob(".*"))


def apart(one: Dataset, other: Dataset, what: str) -> np.ndarray:
    """How far values are from all that the other clip has between the frame before and the frame after."""
    a, b = getattr(one, what), getattr(other, what)
    count = min(len(a), len(b)) - 2
    around = np.stack([b[1 + k : 1 + k + count] for k in (-1, 0, 1)])
    return np.abs(a[1 : 1 + count] - a[1 : 1 + count].clip(around.min(0), around.max(0)))


def test_other_rates_give_the_same_dataset(synthetic_pictures, tmp_path, write_clip):
    pictures = synthetic_pictures[20:120]
    even = [Fraction(k, 30) for k in range(120)]
    random = np.random.default_rng(0).uniform(0.3, 1.0, 200).cumsum() / 25
    uneven = [Fraction(0), *(Fraction(float(t)).limit_denominator(3000) for t in random if t < 3.99)]
    made = []
    for name, times in (("25", None), ("30", even), ("variable", uneven)):
        shown = pictures if times is None else [pictures[min(round(25 * t), 99)] for t in times]
        clip = write_clip(tmp_path / f"{name}.mp4", shown, times=times)
        meta = prepare(clip, tmp_path / name, QUICK)
        made.append(Dataset(tmp_path / name))
        assert ("frame rate" in [note.kind for note in meta.notes]) == (times is not None)
    for other in made[1:]:
        assert abs(len(other) - len(made[0])) <= 1
        assert apart(made[0], other, "angles").max() <= 0.5
        assert apart(made[0], other, "crops")[..., 2].max() <= 1


def kinds(folder: Path) -> list[str]:
    return [note["kind"] for note in json.loads((folder / "meta.json").read_text())["notes"]]


def run(*arguments: str | Path) -> int:
    return cli.main(["prepare", *map(str, arguments), "--size", "64", "--no-overview"])


def test_a_cut_leaves_the_longer_shot(synthetic_pictures, tmp_path, write_clip):
    other = [255 - picture[:, ::-1] // 2 for picture in synthetic_pictures[:30]]
    clip = write_clip(tmp_path / "clip.mp4", [*other, *synthetic_pictures[:70]])
    meta = prepare(clip, tmp_path / "data", QUICK)
    assert [note.kind for note in meta.notes] == ["cut"]
    assert (meta.source["first_frame"], meta.frames) == (30, 70)


def test_the_larger_of_two_faces(synthetic_pictures, tmp_path, write_clip):
    def both(picture):
        wall = np.full((256, 400, 3), 180, np.uint8)
        wall[:, :256] = picture
        wall[60:188, 264:392] = picture[::2, ::2]
        return wall

    clip = write_clip(tmp_path / "clip.mp4", [both(picture) for picture in synthetic_pictures[:60]])
    prepare(clip, tmp_path / "data", QUICK)
    dataset = Dataset(tmp_path / "data")
    assert "two faces" in kinds(tmp_path / "data")
    nose = (dataset.face_landmarks[:, 0, 0] + 1) / 2 * 400
    assert nose.max() < 256


def test_a_face_that_leaves_and_comes_back(synthetic_pictures, prepared, tmp_path, write_clip):
    pictures = [picture.copy() for picture in synthetic_pictures[:100]]
    for k in (*range(40, 46), *range(80, 100)):
        pictures[k][50:210, 60:200] = 150  # a door
    clip = write_clip(tmp_path / "clip.mp4", pictures)
    prepare(clip, tmp_path / "data", QUICK)
    dataset = Dataset(tmp_path / "data")
    assert "face lost" in kinds(tmp_path / "data")
    assert "trimmed" in kinds(tmp_path / "data")
    assert np.flatnonzero(~dataset.valid).tolist() == list(range(40, 46))
    assert len(dataset) == 80
    whole = Dataset(prepared)
    assert np.abs(dataset.angles[:80] - whole.angles[:80])[dataset.valid].max() < 4
    assert np.isfinite(dataset.cameras).all()


@pytest.mark.parametrize(
    ("pictures", "sound", "reason"),
    [
        ([np.full((64, 64, 3), 120, np.uint8)] * 60, 0.1, "clip.mp4 shows no face in any of its 60 frames"),
        ([np.zeros((64, 64, 3), np.uint8)] * 60, 0.1, "it is black"),
        ([np.zeros((64, 64, 3), np.uint8)] * 5, 0.1, "clip.mp4 is too short: 5 frames of 50"),
        ([np.zeros((64, 64, 3), np.uint8)] * 5, None, "has no sound; give another file by --audio"),
    ],
)
def test_an_unfit_clip_is_a_sentence_and_leaves_nothing(pictures, sound, reason, tmp_path, capsys, write_clip):
    clip = write_clip(tmp_path / "clip.mp4", pictures, sound=sound)
    assert run(clip, "--out", tmp_path / "out" / "data") == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_no_video_no_file_no_folder(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("To be, or not to be")
    for clip, out, reason in (
        ("text.mp4", "data", "text.mp4 cannot be read as a video"),
        ("nowhere.mp4", "data", "nowhere.mp4 does not exist"),
        (".", "data", "is no folder that Talk3D prepared"),
        ("text.mp4", "text.mp4/data", "part of its path is a file"),
        ("text.mp4", "text.mp4", "text.mp4 is a file; name a folder"),
    ):
        assert run(tmp_path / clip, "--out", tmp_path / out) == 1
        assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_other_sound_shorter_longer_silent(synthetic_pictures, tmp_path, write_clip):
    import soundfile

    clip = write_clip(tmp_path / "clip.mp4", synthetic_pictures[:80], sound=None)
    for seconds, loudness, expected in ((2.4, 0.1, ["sound ends"]), (5, 0.1, ["sound goes on"]), (3.2, 0, ["silent"])):
        noise = np.random.default_rng(0).normal(size=(round(44100 * seconds), 2)) * loudness
        soundfile.write(tmp_path / "speech.wav", noise, 44100)
        out = tmp_path / f"data{seconds}"
        assert run(clip, "--out", out, "--audio", tmp_path / "speech.wav") == 0
        assert [kind for kind in kinds(out) if kind != "small face"] == expected
        dataset = Dataset(out)
        assert len(dataset) == min(80, round(25 * seconds))
        assert np.isfinite(dataset.features).all()


def test_a_full_disk_leaves_nothing(synthetic_pictures, tmp_path, monkeypatch, capsys, write_clip):
    clip = write_clip(tmp_path / "clip.mp4", synthetic_pictures[:55])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(frames.ArchiveWriter, "append", full)
        assert run(clip, "--out", tmp_path / "data") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]
    # what a killed run leaves is swept away by the next
    (tmp_path / ".data.part").mkdir()
    (tmp_path / ".data.part" / "meta.json").write_text("{}")
    assert run(clip, "--out", tmp_path / "data") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "data"]
    # and what is whole is not lost
    assert run(clip, "--out", tmp_path / "data") == 1
    assert "holds a dataset already" in capsys.readouterr().err
    before = (tmp_path / "data" / "track.safetensors").read_bytes()
    assert run(clip, "--out", tmp_path / "data", "--overwrite") == 0
    assert (tmp_path / "data" / "track.safetensors").read_bytes() == before


@pytest.mark.skipif(not CLIPS.is_dir(), reason="there are no real clips beside the repository")
def test_a_real_clip(tmp_path):
    meta = prepare(CLIPS / "interview_8s.mp4", tmp_path / "data", Options(size=256, overview=False))
    dataset = Dataset(tmp_path / "data")
    assert len(dataset) == 200
    assert dataset.valid.all()
    assert not meta.notes
    assert np.ptp(dataset.angles[:, 1]) > 25
