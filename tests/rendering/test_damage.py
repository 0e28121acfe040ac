"""Whatever is damaged is named in one sentence, before anything is rendered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from talk3d import Avatar, cli
from talk3d.audio import decode_sound
from talk3d.ops import RenderOptions
from talk3d.rendering.cameras import camera_path


def rewrite(folder: Path, part: str, change) -> None:
    path = folder / f"{part}.safetensors"
    save_file(change(load_file(path)), path)


def describe(folder: Path, change) -> None:
    path = folder / "weights.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("identity", lambda t: t | {"planes": t["planes"] * float("nan")}, "planes has numbers that are not finite"),
        ("identity", lambda t: t | {"bogus": torch.zeros(1)}, "another network's: Unexpected .*bogus"),
        ("unet", lambda t: dict(sorted(t.items())[1:]), "another network's: Missing key"),
        ("motion", lambda t: t | {"angles": t["angles"] * float("nan")}, "angles has numbers that are not finite"),
        ("motion", lambda t: t | {"angles": t["angles"][:2].clone()}, r"angles must be .* \[\d+, 3\], got \[2, 3\]"),
        ("motion", lambda t: {name: part.flatten() for name, part in t.items()}, "must be of a floating type"),
        ("motion", lambda t: {name: part[:0].clone() for name, part in t.items()}, "must be of a floating type"),
        ("motion", lambda t: t | {"crops": t["crops"] * 0}, "crops has a matrix that cannot be inverted"),
        ("plate", lambda t: {"plate": t["plate"].float()}, r"holds no picture \[H, W, 3\] of bytes"),
        ("plate", lambda t: {"another": t["plate"]}, "holds no picture"),
    ],
)
def test_tensors(folder, part, change, sentence):
    rewrite(folder, part, change)
    with pytest.raises(ValueError, match=sentence) as error:
        Avatar.load(folder)
    assert f"{part}.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("networks", "unet", "width"), 8 * 10**29),
        (("networks", "unet", "tokens"), -1),
        (("networks", "unet", "resolution"), 8 * 10**29),
        (("networks", "conditions", "features"), 10**30),
        (("networks", "conditions", "features"), "x"),
        (("scene", "rendering", "fine"), 10**30),
        (("scene", "rendering", "fine"), "x"),
        (("scene", "rendering", "box_warp"), "x"),
        (("scene", "w_dim"), -1),
        (("scene", "pivot"), 3),
    ],
)
def test_descriptions(folder, names, value):
    def change(about):
        for name in names[:-1]:
            about = about[name]
        about[names[-1]] = value

    describe(folder, change)
    with pytest.raises(ValueError, match=r"weights\.json is damaged: ") as error:
        Avatar.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("features", [[1], {"name": "logmel", "width": 80, "bogus": 1}, {"name": "ears", "width": 80}])
def test_features_that_nobody_knows(folder, speech, tmp_path, features, capsys):
    describe(folder, lambda about: about["facts"].update(features=features))
    assert cli.main(["render", str(folder), "--audio", str(speech), "--out", str(tmp_path / "a.mp4")]) == 1
    assert "speech features" in capsys.readouterr().err


def test_folders_in_place_of_files(folder, speech):
    with pytest.raises(ValueError, match="is a file; it should be a folder of weights"):
        Avatar.load(speech)
    (folder / "plate.safetensors").unlink()
    (folder / "plate.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"plate\.safetensors is missing"):
        Avatar.load(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"keyframes": [1, 2]}', "each of its keyframes must be an object"),
        ('{"keyframes": [{"time": 0, "yaw": 1%s}]}' % ("0" * 400), "are not numbers"),
        ('{"keyframes": [{"time": 0, "yaw": 1e300}]}', "not finite"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=["numbers", "huge", "large", "deep"],
)
def test_cameras(avatar, tmp_path, text, sentence):
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        camera_path(str(tmp_path / "path.json"), avatar.identity.config)


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 16])
def test_sounds_of_many_channels(tmp_path, channels):
    samples = np.linspace(-0.5, 0.5, channels)[None].repeat(96_000, 0) + 0.1
    soundfile.write(tmp_path / "many.wav", samples, 192_000)
    found = decode_sound(tmp_path / "many.wav", tmp_path / "out.wav")
    assert found is not None
    assert (found.channels, found.rate, found.seconds) == (channels, 192_000, pytest.approx(0.5, abs=0.01))
    if channels > 1:
        assert soundfile.read(tmp_path / "out.wav")[0][2000:6000].mean() == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sounds_that_are_no_numbers(tmp_path, value):
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, value, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav has samples that are not finite"):
        decode_sound(tmp_path / "nan.wav", tmp_path / "out.wav")


def test_more_samples_than_kernels_count():
    with pytest.raises(ValueError, match="must not exceed"):
        RenderOptions(axes="zy", near=1.0, far=2.0, coarse=2**31)
