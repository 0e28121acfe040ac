from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from talk3d.data import Dataset, FrameSampler, PoseSampler, WindowSampler


@pytest.fixture(scope="session")
def dataset(tiny):
    return Dataset(tiny)


def test_everything_but_pictures_is_there_at_once(dataset):
    frames = len(dataset)
    assert (frames, dataset.size, dataset.fps) == (60, 32, 25.0)
    assert dataset.splits == {"train": range(40), "val": range(44, 50), "test": range(54, 60)}
    for name, shape in {
        "cameras": (25,),
        "angles": (3,),
        "blink": (2,),
        "face_landmarks": (3, 2),
        "crops": (2, 3),
        "landmarks": (478, 2),
        "points": (478, 3),
        "features": (16, 5),
        "valid": (),
    }.items():
        assert getattr(dataset, name).shape == (frames, *shape), name
    assert dataset.mesh.shape == (478, 3)
    assert dataset.plate.shape == (40, 48, 3)
    assert dataset.speech.is_file()
    assert (dataset.features_info.name, dataset.features_info.mean) == ("logmel", -1.5)
    assert dataset.meta.notes[0].frames == ((20, 23),)


def test_a_sample_has_the_documented_shapes_and_ranges(dataset):
    sample = dataset.sample(torch.tensor([7, 3]))
    shapes = {name: tuple(value.shape[1:]) for name, value in sample._asdict().items()}
    assert shapes == {
        "index": (),
        "image": (3, 32, 32),
        "matte": (1, 32, 32),
        "regions": (4, 32, 32),
        "plate": (3, 32, 32),
        "camera": (25,),
        "features": (8, 16, 5),
        "blink": (),
        "angles": (3,),
        "landmarks": (3, 2),
        "points": (478, 3),
    }
    assert all(len(value) == 2 for value in sample)
    assert sample.index.tolist() == [7, 3]
    assert all(value.dtype == torch.float32 for value in sample[1:])
    torch.testing.assert_close(sample.image[:, 0].mean((1, 2)), torch.tensor([28.0, 12]) / 127.5 - 1, atol=0.02, rtol=0)
    torch.testing.assert_close(sample.matte[:, 0, 0, 0], torch.tensor([14.0, 6]) / 255)
    assert sample.regions[0, :, 0, 0].tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(sample.blink, dataset.blink[[7, 3]].mean(1))


def test_windows_are_four_before_to_three_after(dataset):
    features = dataset.sample([10]).features[0, :, 0, 0]
    assert features.tolist() == [7, 8, 9, 10, 11, 12, 13, 14]


def test_windows_are_silent_beyond_their_own_split(dataset):
    first, end, val = dataset.sample([1, 39, 45]).features[:, :, 3, 2].tolist()
    assert first == [0, 0, 0, 1, 2, 3, 4, 5]
    assert end == [36, 37, 38, 39, 40, 0, 0, 0]
    assert val == [0, 0, 0, 45, 46, 47, 48, 49]


def test_the_plate_is_where_the_crop_says(dataset):
    frame = 30
    plate = (dataset.sample([frame]).plate[0] + 1) * 127.5
    linear, shift = dataset.crops[frame][:, :2], dataset.crops[frame][:, 2]
    for crop in ((16.5, 12.5), (20.5, 25.5)):
        x, y = np.linalg.solve(linear, np.array(crop) - shift)
        found = plate[:, int(crop[1]), int(crop[0])]
        np.testing.assert_allclose(found[:2], [4 * (x - 0.5), 4 * (y - 0.5)], atol=0.01)


def test_there_are_no_such_frames(dataset):
    for wrong in ([60], [-1], [3, 99]):
        with pytest.raises(IndexError, match="from 0 to 59"):
            dataset.sample(wrong)
    assert dataset.sample([]).image.shape == (0, 3, 32, 32)


def test_it_goes_to_other_processes(dataset):
    again = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(again.sample([5]).image, dataset.sample([5]).image)


def test_reading_needs_no_tracker(tiny):
    code = f"""
import sys
for name in ("mediapipe", "cv2", "av", "librosa", "matplotlib", "transformers"):
    sys.modules[name] = None
from talk3d.data import Dataset
print(Dataset({str(tiny)!r}).sample([0, 1]).image.shape)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_frames_come_once_each_and_never_without_a_face(dataset):
    sampler = iter(FrameSampler(dataset, 37, torch.Generator().manual_seed(3)))
    first, second = next(sampler), next(sampler)
    good = set(range(20)) | set(range(23, 40))
    assert set(first) == set(second) == good
    assert first != second
    again = iter(FrameSampler(dataset, 37, torch.Generator().manual_seed(3)))
    assert next(again) == first


def test_windows_are_consecutive_and_within_a_split(dataset):
    sampler = iter(WindowSampler(dataset, 4, torch.Generator(), length=5))
    starts = set()
    for _ in range(30):
        for window in np.array(next(sampler)).reshape(4, 5):
            assert (np.diff(window) == 1).all()
            assert not {20, 21, 22} & set(window.tolist())
            starts.add(int(window[0]))
    assert starts == {*range(16), *range(23, 36)}


def test_rare_poses_are_drawn_more_often(tiny, tmp_path):
    dataset = Dataset(tiny)
    dataset.angles = np.zeros_like(dataset.angles)
    dataset.angles[30:34, 1] = 33
    sampler = iter(PoseSampler(dataset, 2000, torch.Generator().manual_seed(0)))
    rare = np.isin(next(sampler), range(30, 34)).mean()
    assert rare == pytest.approx(0.5, abs=0.05)
    limited = iter(PoseSampler(dataset, 2000, torch.Generator().manual_seed(0), ceiling=1.0))
    assert np.isin(next(limited), range(30, 34)).mean() < 0.3


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda d, g: FrameSampler(d, 1, g, "dev"), "split must be one of"),
        (lambda d, g: FrameSampler(d, 0, g), "batch must be at least 1"),
        (lambda d, g: WindowSampler(d, 1, g, "val", length=7), "no 7 frames in a row"),
        (lambda d, g: WindowSampler(d, 1, g, length=0), "length must be at least 1"),
    ],
)
def test_impossible_samplers_say_why(dataset, make, reason):
    with pytest.raises(ValueError, match=reason):
        make(dataset, torch.Generator())


def damaged(tiny, folder, name, change):
    shutil.copytree(tiny, folder)
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("meta.json", None, "is no dataset: it has no meta.json"),
        ("meta.json", lambda _: b"{", "damaged: it is not JSON"),
        ("meta.json", lambda _: b"{}", "does not describe a dataset"),
        ("meta.json", lambda text: text.replace(b'"version": 1', b'"version": 99'), "version 99"),
        ("meta.json", lambda text: text.replace(b'"frames": 60', b'"frames": 61'), "its parts have"),
        ("meta.json", lambda text: text.replace(b'"pivot"', b'"pivots"'), "damaged: 'pivot'"),
        ("track.safetensors", lambda data: data[:-50], "is damaged"),
        ("landmarks.npy", lambda data: data[:-50], "is damaged"),
        ("features.npy", None, "is damaged"),
        ("frames.zip", lambda data: data[:-50], "is damaged"),
        ("frames.zip", None, "is damaged"),
    ],
)
def test_damage_is_named(tiny, tmp_path, name, change, reason):
    with pytest.raises(ValueError, match=reason):
        Dataset(damaged(tiny, tmp_path / "copy", name, change))


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="talk3d prepare makes one"):
        Dataset(tmp_path)
    with pytest.raises(ValueError, match="is no dataset"):
        Dataset(tmp_path / "nowhere")


def test_meta_is_json_with_a_version(tiny):
    about = json.loads((tiny / "meta.json").read_text())
    assert (about["format"], about["version"]) == ("talk3d dataset", 1)
