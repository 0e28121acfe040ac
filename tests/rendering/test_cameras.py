"""Cameras as the command line names them."""

from __future__ import annotations

import json

import pytest
import torch

from talk3d import cameras
from talk3d.models import SceneConfig
from talk3d.motion import imagine
from talk3d.ops import RenderOptions
from talk3d.rendering.cameras import camera_path

CONFIG = SceneConfig(rendering=RenderOptions(axes="zy"))
FRAMES = range(10, 40)


def angles(spec: str, frames: range = FRAMES) -> torch.Tensor:
    """Yaw, pitch and roll ``[N, 3]``."""
    vectors = camera_path(spec, CONFIG)(frames, imagine(frames, focal=CONFIG.focal))
    assert vectors.shape == (len(frames), 25)
    return torch.stack(cameras.angles(cameras.unpack(vectors)[0]), dim=1)


def test_track_is_the_clips():
    motion = imagine(FRAMES, focal=CONFIG.focal)
    assert torch.equal(camera_path("track", CONFIG)(FRAMES, motion), motion.cameras)


def test_fixed():
    assert torch.allclose(angles("fixed:-20,7.5"), torch.tensor([-20.0, 7.5, 0]), atol=1e-4)


def test_orbit_is_that_of_the_cameras_module():
    path = camera_path("orbit:25,10", CONFIG)(range(240), imagine(range(240), focal=CONFIG.focal))
    assert torch.allclose(path, cameras.orbit(25, 10).repeat(2, 1), atol=1e-5)
    assert abs(angles("orbit", range(120))[:, 0].max() - 30) < 0.1


def test_a_frame_depends_on_its_number_alone():
    for spec in ("orbit", "fixed:3,4"):
        assert torch.equal(angles(spec)[5:], angles(spec, range(15, 40)))


def test_keyframes(tmp_path):
    file = tmp_path / "path.json"
    keys = [{"time": 1.0, "yaw": -20, "pitch": 0}, {"time": 2.0, "yaw": 20, "pitch": 10, "roll": 5}]
    file.write_text(json.dumps({"keyframes": keys}))
    found = angles(str(file), range(75))
    assert torch.allclose(found[:26], torch.tensor([-20.0, 0, 0]), atol=1e-4)
    assert torch.allclose(found[50:], torch.tensor([20.0, 10, 5]), atol=1e-4)
    assert (found[25:51, 0].diff() > 0).all()


def test_one_keyframe_stands_still(tmp_path):
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"keyframes": [{"time": 0, "yaw": 12}]}))
    assert torch.allclose(angles(str(file)), torch.tensor([12.0, 0, 0]), atol=1e-4)


def test_camera_vectors_go_round(tmp_path):
    file = tmp_path / "path.json"
    vectors = cameras.orbit(frames=7)
    file.write_text(json.dumps({"cameras": vectors.tolist()}))
    found = camera_path(str(file), CONFIG)(range(10, 20), imagine(range(10, 20), focal=1.0))
    assert torch.allclose(found, vectors[[frame % 7 for frame in range(10, 20)]])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "has neither keyframes nor cameras"),
        ('{"keyframes": []}', "must be rows of 4 numbers"),
        ('{"keyframes": [{"time": 0, "yaw": NaN}]}', "not finite"),
        ('{"keyframes": [{"time": 0, "yaw": "left"}]}', "are not numbers"),
        ('{"keyframes": [{"time": 1}, {"time": 1}]}', "must grow"),
        ('{"cameras": [[1, 2]]}', "must be rows of 25 numbers"),
    ],
)
def test_damaged_files_are_said(tmp_path, text, sentence):
    file = tmp_path / "path.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        camera_path(str(file), CONFIG)


@pytest.mark.parametrize("spec", ["around", "fixed:1", "fixed:a,b", "orbit:1,nan", "missing.json"])
def test_what_is_no_camera_is_said(spec):
    with pytest.raises(ValueError, match=spec.split(":")[0]):
        camera_path(spec, CONFIG)
