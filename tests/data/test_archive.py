from __future__ import annotations

import multiprocessing
import pickle
import zipfile

import numpy as np
import pytest

from talk3d.data.archive import ArchiveReader, ArchiveWriter, encode_masks, encode_picture

DOWN, ACROSS = np.indices((64, 64), np.uint8)
SMOOTH = np.stack((DOWN, ACROSS, np.full_like(DOWN, 90)), -1)
MATTE, BITS = SMOOTH[..., 0].copy(), (SMOOTH[..., 1] % 16).copy()


@pytest.fixture
def archive(tmp_path):
    writer = ArchiveWriter(tmp_path / "frames.zip")
    for frame in range(12):
        writer.append(encode_picture(SMOOTH + np.uint8(frame)), encode_masks(MATTE + np.uint8(frame), BITS))
    writer.close()
    return tmp_path / "frames.zip"


def test_pictures_come_back_nearly_and_masks_exactly(archive):
    reader = ArchiveReader(archive)
    assert len(reader) == 12
    for frame in (11, 0, 5):
        assert np.abs(reader.picture(frame).astype(int) - SMOOTH - frame).max() <= 3
        matte, bits = np.moveaxis(reader.masks(frame), 2, 0)
        np.testing.assert_array_equal(matte, MATTE + np.uint8(frame))
        np.testing.assert_array_equal(bits, BITS)


def test_it_is_a_zip_of_pictures(archive):
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist()[:3] == ["00000.jpg", "00000.png", "00001.jpg"]
        assert opened.testzip() is None


def test_equal_frames_are_equal_files(archive, tmp_path):
    again = ArchiveWriter(tmp_path / "again.zip")
    for frame in range(12):
        again.append(encode_picture(SMOOTH + np.uint8(frame)), encode_masks(MATTE + np.uint8(frame), BITS))
    again.close()
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_other_processes_read_it(archive):
    reader = ArchiveReader(archive)
    reader.picture(0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(reader.picture, (3,)), reader.picture(3))
    assert len(pickle.loads(pickle.dumps(reader))) == 12


@pytest.mark.parametrize("damage", ["half", "other", "hole"])
def test_damage_is_named(archive, damage):
    if damage == "half":
        archive.write_bytes(archive.read_bytes()[:-200])
    elif damage == "other":
        archive.write_bytes(b"no zip")
    else:
        with zipfile.ZipFile(archive, "w") as opened:
            for name in ("00000.jpg", "00000.png", "00001.jpg", "00002.png"):
                opened.writestr(name, b"")
    with pytest.raises(ValueError, match=r"frames\.zip is damaged"):
        ArchiveReader(archive)
