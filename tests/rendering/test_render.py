"""A job gives the same video however often it was interrupted, and by however many it was rendered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from talk3d import cli
from talk3d.models import Conditions
from talk3d.rendering import RenderJob, render
from talk3d.rendering.cameras import camera_path
from talk3d.rendering.frames import Renderer


def job(folder: Path, speech: Path, out: Path, **options) -> RenderJob:
    return RenderJob(**({"avatar": str(folder), "audio": str(speech), "out": str(out), "chunk": 4} | options))


def test_a_video(folder, speech, tmp_path, capsys):
    out = tmp_path / "ada.mp4"
    assert cli.main(["render", str(folder), "--audio", str(speech), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 13
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.frames, video.width, video.height, video.average_rate) == (13, 128, 128, 25)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["plain", "compiled", "fastest", "8bit"])
def test_every_super_resolution(avatar, speech, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr("talk3d.models.compiled._BACKEND", "aot_eager")
    monkeypatch.setattr("talk3d.models.compiled._seconds", lambda run, device: 0.5)
    for block in (avatar.identity.superresolution.block0, avatar.identity.superresolution.block1):
        block.to_rgb.weight.mul_(0.02)  # for 8 bits
    avatar.save(tmp_path / "ada")
    asked = ["render", str(tmp_path / "ada"), "--audio", str(speech), "--superresolution", kind, "--batch", "2"]
    assert cli.main([*asked, "--out", str(tmp_path / "a.mp4")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path / 'a.mp4'}: 13 frames, 0.52 s"
    choice = "super-resolution: plain is the faster one for 2 frames on cpu (plain 500 ms, compiled 500 ms)"
    assert said[1:] == ([choice] if kind == "fastest" else [])
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 13


def test_shards_are_a_single_run(folder, speech, tmp_path):
    render(job(folder, speech, tmp_path / "one.mp4"))
    shards = [render(job(folder, speech, tmp_path / "two.mp4"), shard=(part, 3)) for part in (2, 1, 3)]
    assert [shard.missing for shard in shards] == [3, 1, 0]
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_batches_are_filled_up(folder, speech, tmp_path):
    found = render(job(folder, speech, tmp_path / "a.mp4", batch=3))
    assert (found.frames, found.chunks) == (13, 4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 13


def test_killed_and_run_again_it_gives_the_same_bytes(folder, write_speech, tmp_path):
    speech = write_speech(tmp_path / "long.wav", 1.5)
    render(job(folder, speech, tmp_path / "whole.mp4"))
    code = "import sys, talk3d.rendering as r; r.render(r.RenderJob(**eval(sys.argv[1])))"
    again = job(folder, speech, tmp_path / "killed.mp4")
    process = subprocess.Popen([sys.executable, "-c", code, repr(again.__dict__)])
    parts = tmp_path / ".killed.mp4.parts"
    deadline = time.monotonic() + 120
    while not (parts / "000003.mp4").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (parts / "000003.mp4").exists()
    assert not (tmp_path / "killed.mp4").exists()
    rendered = []
    render(again, progress=lambda done, total: rendered.append(done))
    assert rendered[0] >= 4, "what is there is not rendered again"
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "killed.mp4").read_bytes()


def test_nothing_moves_but_what_is_told_to(avatar):
    """With one set of tokens and one camera, all frames are the same bits."""
    baked = avatar.bake()
    tokens = baked.tokens(
        torch.zeros(1, 8, 16, 80), Conditions(torch.zeros(1), torch.zeros(1, 3), torch.zeros(1, 3, 2))
    )
    camera = avatar.identity.config.camera()[None]
    pictures = [baked.compose(baked.frames(tokens, camera), baked.behind(range(1))) for _ in range(3)]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])


def rendered(avatar, background: str, frames: range, **options) -> np.ndarray:
    """Frames of six that are silent."""
    baked = avatar.bake()
    renderer = Renderer(baked, camera_path("track", baked.config), background=background, **options)
    return np.stack(list(renderer(np.zeros((6, 16, 80), np.float32), frames)))


def test_backgrounds(avatar, tmp_path):
    """Whatever is behind, the same light comes from the person."""
    Image.fromarray(np.full((50, 90, 3), (10, 200, 30), np.uint8)).save(tmp_path / "green.png")
    alpha = rendered(avatar, "transparent", range(3))[..., 3:] / 255
    assert alpha.shape == (3, 128, 128, 1)
    black = rendered(avatar, "#000000", range(3)).astype(float)
    behind = (avatar.bake().behind(range(3)).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    for background, color in (
        ("#0080ff", np.array((0, 128, 255))),
        (str(tmp_path / "green.png"), np.array((10, 200, 30))),
        ("keep", behind),
    ):
        found, expected = rendered(avatar, background, range(3)), black + (1 - alpha) * color
        inside = (black > 0) & (expected < 255)  # nothing was cut off
        assert inside.sum() > 1000
        assert abs(found - expected)[inside].max() <= 2


def test_a_cut_out_is_not_premultiplied(avatar):
    cut = rendered(avatar, "transparent", range(3)).astype(float)
    black = rendered(avatar, "#000000", range(3)).astype(float)
    alpha = cut[..., 3:] / 255
    told = (alpha > 0.02) & (cut[..., :3] > 0) & (cut[..., :3] < 255)
    assert told.sum() > 100
    assert abs(alpha * cut[..., :3] - black)[told].max() <= 2


def test_another_size(avatar):
    (picture,) = rendered(avatar, "keep", range(1), side=64)
    (full,) = rendered(avatar, "keep", range(1))
    assert picture.shape == (64, 64, 3)
    halved = full.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert abs(picture - halved).mean() < 8


def test_ranges_give_the_same_bits(avatar):
    whole = rendered(avatar, "keep", range(6), batch=2)
    parts = [rendered(avatar, "keep", range(start, start + 2), batch=2) for start in (0, 2, 4)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_pictures_with_transparency(folder, speech, tmp_path):
    out = tmp_path / "frames"
    render(job(folder, speech, out, background="transparent"))
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{frame:06d}.png" for frame in range(13)]
    assert np.asarray(Image.open(out / "000003.png")).shape == (128, 128, 4)


def test_paste_back_changes_the_crop_alone(folder, speech, tmp_path):
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 300, 200, "yuv420p"
        for frame in range(12):
            picture = av.VideoFrame.from_ndarray(np.full((200, 300, 3), 10 * frame + 60, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    out = tmp_path / "whole.mp4"
    render(job(folder, speech, out, paste_back=str(clip)))
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 13
    # the crop covers 45 to 195 across and 30 to 180 down
    for number, frame in enumerate(frames):
        shown = 10 * min(number, 22 - number) + 60
        assert abs(frame[:, 220:].astype(float) - shown).mean() < 3
        assert abs(frame[60:150, 75:165].astype(float) - shown).mean() > 3


class TestBadInput:
    def fails(self, capsys, *arguments: object) -> str:
        assert cli.main(["render", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    def test_sound(self, folder, write_speech, tmp_path, capsys):
        out = tmp_path / "a.mp4"
        assert "none.wav does not exist" in self.fails(capsys, folder, "--audio", tmp_path / "none.wav", "--out", out)
        short = write_speech(tmp_path / "short.wav", 0.01)
        assert "short.wav is too short: 10 ms" in self.fails(capsys, folder, "--audio", short, "--out", out)
        text = tmp_path / "text.wav"
        text.write_text("not a sound")
        assert "text.wav" in self.fails(capsys, folder, "--audio", text, "--out", out)
        assert not out.exists()

    def test_what_exists_is_not_replaced_unasked(self, folder, speech, tmp_path, capsys):
        out = tmp_path / "a.mp4"
        out.write_bytes(b"precious")
        message = self.fails(capsys, folder, "--audio", speech, "--out", out)
        assert "exists already; pass --overwrite" in message
        assert out.read_bytes() == b"precious"
        assert cli.main(["render", str(folder), "--audio", str(speech), "--out", str(out), "--overwrite"]) == 0
        assert out.read_bytes() != b"precious"

    def test_parts_of_another_job(self, folder, speech, write_speech, tmp_path, capsys):
        out = tmp_path / "a.mp4"
        render(job(folder, speech, out), shard=(1, 2))
        other = write_speech(tmp_path / "other.wav", 0.6)
        assert "holds parts of another job" in self.fails(capsys, folder, "--audio", other, "--out", out)

    def test_cameras_and_backgrounds(self, folder, speech, make_avatar, tmp_path, capsys):
        end = ("--audio", speech, "--out", tmp_path / "a.mp4")
        assert "'around'" in self.fails(capsys, folder, *end, "--camera", "around")
        assert "six hexadecimal digits" in self.fails(capsys, folder, *end, "--background", "#12")
        assert "cannot be read as a picture" in self.fails(capsys, folder, *end, "--background", "no.png")
        assert "has no transparency" in self.fails(capsys, folder, *end, "--background", "transparent")
        inside = make_avatar("aligned", speech=80)
        inside.facts = {"features": {"name": "logmel", "width": 80}}
        inside.save(tmp_path / "inside")
        assert "holds its background too" in self.fails(
            capsys, tmp_path / "inside", *end, "--background", "#000000", "--overwrite"
        )

    def test_avatars(self, folder, speech, make_avatar, tmp_path, capsys):
        end = ("--audio", speech, "--out", tmp_path / "a.mp4")
        assert "nobody does not exist; it should be a folder of weights" in self.fails(
            capsys, tmp_path / "nobody", *end
        )
        make_avatar("aligned").save(tmp_path / "deaf")
        assert "does not say which speech features" in self.fails(capsys, tmp_path / "deaf", *end)
        (folder / "motion.safetensors").write_bytes(b"")
        assert "motion.safetensors is damaged" in self.fails(capsys, folder, *end)

    def test_places(self, folder, speech, tmp_path, capsys):
        file = tmp_path / "file"
        file.write_text("")
        assert "is no folder" in self.fails(capsys, folder, "--audio", speech, "--out", file / "a.mp4")
        assert "must end in .mp4" in self.fails(capsys, folder, "--audio", speech, "--out", tmp_path / "a.avi")

    def test_a_full_disk_loses_nothing(self, folder, speech, tmp_path, monkeypatch, capsys):
        out = tmp_path / "a.mp4"
        real = os.replace

        def full(source, target):
            if str(target).endswith("000002.mp4"):
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr("talk3d.rendering.video.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            render(job(folder, speech, out))
        monkeypatch.undo()
        assert (tmp_path / ".a.mp4.parts" / "000001.mp4").exists()
        assert render(job(folder, speech, out)).out == out

    def test_super_resolution_in_8_bits_that_can_be_seen(self, avatar, speech, tmp_path, monkeypatch, capsys):
        for block in (avatar.identity.superresolution.block0, avatar.identity.superresolution.block1):
            block.to_rgb.weight.mul_(50)
        avatar.save(tmp_path / "grainy")
        end = ("--audio", speech, "--out", tmp_path / "a.mp4", "--superresolution", "8bit")
        message = self.fails(capsys, tmp_path / "grainy", *end)
        assert "below 45 dB it is not used" in message
        assert len(message.strip().splitlines()) == 1
        monkeypatch.setattr("talk3d.models.baked.why_not", lambda kind, device: f"{device} multiplies no {kind}")
        assert "cpu multiplies no int8" in self.fails(capsys, tmp_path / "grainy", *end)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["grainy", "speech.wav"]

    @pytest.mark.compile
    def test_a_compiler_that_fails(self, folder, speech, tmp_path, monkeypatch, capsys):
        def broken(graph, inputs):
            raise NotImplementedError("there is no compiler")

        monkeypatch.setattr("talk3d.models.compiled._BACKEND", broken)
        for kind in ("compiled", "fastest"):
            end = ("--audio", speech, "--out", tmp_path / "a.mp4", "--superresolution", kind)
            message = self.fails(capsys, folder, *end)
            assert "torch.compile cannot compile the super-resolution on cpu" in message
            assert len(message.strip().splitlines()) == 1
        assert not (tmp_path / "a.mp4").exists()

    @pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
    def test_shards(self, folder, speech, tmp_path, capsys, shard):
        message = self.fails(capsys, folder, "--audio", speech, "--out", tmp_path / "a.mp4", "--shard", shard)
        assert "a shard is i/n" in message
