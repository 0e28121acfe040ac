"""``talk3d bench``: what it measures of a small avatar, and how it says so."""

from __future__ import annotations

import json

import pytest
import torch

from talk3d import cli
from talk3d.bench.frame import measure, published_avatar

PARTS = ("audio", "tokens", "unet", "compose", "render", "sr", "io", "other")


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only wait for each other at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(make_avatar, tmp_path):
    make_avatar("aligned").save(tmp_path / "ada")
    return tmp_path / "ada"


def test_parts_add_up_to_the_frame(make_avatar):
    told: list[tuple[int, int]] = []
    budget = measure(make_avatar("published"), rounds=1, progress=lambda done, total: told.append((done, total)))
    for side in (budget.baked, budget.unbaked):
        assert all(side.milliseconds[part].median > 0 for part in PARTS)
        for quantity in (lambda name, side=side: side.milliseconds[name].median, side.gflop.__getitem__):
            assert sum(map(quantity, PARTS)) == pytest.approx(quantity("frame"))
            assert sum(map(quantity, ("sr.b0", "sr.b1"))) <= quantity("sr")
    assert told == [(done, 6) for done in range(1, 7)]


def test_baking_saves_the_work_it_caches(make_avatar):
    budget = measure(make_avatar("aligned"), rounds=1)
    assert "unet.id_cache" not in budget.baked.milliseconds
    assert budget.unbaked.gflop["unet.id_cache"] > 0
    assert budget.baked.gflop["unet"] < budget.unbaked.gflop["unet"]
    assert 0 < budget.id_cache < budget.bake
    assert budget.psnr > 50
    assert set(budget.ratio) == set(budget.baked.milliseconds)


def test_a_person_at_rest_has_no_network_to_wait_for(make_avatar):
    budget = measure(make_avatar(None), rounds=1)
    assert not {"audio", "unet", "compose"} & budget.baked.milliseconds.keys()
    assert budget.baked.milliseconds["render"].median > 0


def test_the_published_sizes():
    avatar = published_avatar()
    assert avatar.identity.planes.shape == (1, 3, 32, 256, 256)
    assert (avatar.identity.config.resolution, avatar.bake().side) == (128, 512)
    assert avatar.driver.unet.options == {**avatar.driver.unet.options, "semantics": "published", "width": 64}


def test_the_table(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["bench", str(folder), "--rounds", "2"]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert "2 rounds" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    assert {"audio", "unet", "mid", "up3", "head", "compose", "render", "sr", "b1", "conv", "uint8"} <= rows.keys()
    assert rows["frame"][2] == "100.0"  # of the frame's time
    assert rows["frame"][-1] == "x"  # times as long, unbaked
    assert len(rows["id_cache"]) == 3  # only unbaked: milliseconds, their spread, GFLOP


def test_json(folder, capsys):
    assert cli.main(["bench", str(folder), "--rounds", "1", "--precision", "bfloat16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "bfloat16"
    assert found["baked"]["milliseconds"]["sr"]["median"] > 0
    assert found["device"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--threads", "0"], "threads must be from 1 to"),
        (["--precision", "float16", "--device", "cpu"], "dtype must be one of"),
        (["--device", "gpu"], "a device is cpu, cuda or such as cuda:1, not 'gpu'"),
    ],
)
def test_wrong_options_are_a_sentence(folder, options, message, capsys):
    assert cli.main(["bench", str(folder), *options]) == 1
    assert message in capsys.readouterr().err


def test_threads_have_a_bound(folder, capsys):
    for threads in (0, 10**9):
        assert cli.main(["bench", str(folder), "--threads", str(threads)]) == 1
        assert "threads must be from 1 to" in capsys.readouterr().err
