from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import zipfile
from pathlib import Path

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


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_the_file_is_closed_with_its_reader(archive):
    def open_files() -> int:
        return sum(os.path.samefile(link, archive) for link in Path("/proc/self/fd").iterdir() if link.exists())

    readers = [ArchiveReader(archive) for _ in range(20)]
    for reader in readers:
        reader.picture(0)
    assert open_files() == 20
    del reader, readers
    gc.collect()
    assert open_files() == 0


def test_a_frame_that_cannot_be_decoded_is_named(archive):
    data = bytearray(archive.read_bytes())
    data[data.index(b"\xff\xd8\xff") : data.index(b"\xff\xd8\xff") + 2] = b"no"
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"frames\.zip is damaged: frame 0 cannot be decoded"):
        ArchiveReader(archive).picture(0)
    assert ArchiveReader(archive).picture(1).shape[2] == 3
