"""The command: what it writes and prints, and what it will not replace."""

from __future__ import annotations

import json
import math
import re

import pytest
from PIL import Image

from talk3d import cli
from talk3d.evaluation.report import Measured, Report, number


@pytest.fixture
def command(rest, clip, tmp_path):
    return ["evaluate", str(rest), str(clip), "--out", str(tmp_path / "report"), "--frames", "1"]


def test_writes_a_report(command, folder, tmp_path, capsys, tracker):
    command[1] = str(folder)
    assert cli.main([*command, "--json"]) == 0
    out = tmp_path / "report"
    report = json.loads((out / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert (report["format"], report["split"], report["frames"]) == ("talk3d report", "test", 1)
    for found in [*report["measured"], *(m for view in report["views"] for m in view["measured"])]:
        assert found["split"] == "test"
        assert found["title"]
        assert (found["value"] is None) == (found["reason"] is not None)
        if found["reason"] is None:
            assert found["frames"] == 1
            assert {"unit", "better", "region"} <= found.keys()
            assert report["definitions"][found["metric"]]
    assert {m["region"] for m in report["measured"] if m["metric"] == "ssim"} == {"whole", "face", "mouth", "torso"}
    assert len(report["views"]) == 4
    assert report["curves"]["frame"] == [8]
    assert {"psnr_face", "mouth_ours", "mouth_truth", "eyes_ours", "eyes_truth"} <= report["curves"].keys()
    names = {"strip", "curves", "attention"}
    assert {path.stem for path in out.glob("*.png")} == names
    for name in names:
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
    page = (out / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', page)) == page.count("src=") == 3
    for text in ("Not measured", "Sync (LSE-C, LSE-D)", "pt_inception-2015-12-05", "Definitions", "(-30°, -20°)"):
        assert text in page
    assert not list(tmp_path.glob(".*report*"))


def test_prints_numbers_and_reasons(command, capsys):
    assert cli.main([*command, "--no-views"]) == 0
    printed = capsys.readouterr().out
    assert "PSNR, global" in printed
    assert "LPIPS (AlexNet): not measured, needs" in printed
    assert "report.html" in printed


class TestWhatIsThere:
    def test_is_not_replaced(self, command, tmp_path, capsys):
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "report.json").write_text("{}")
        assert cli.main(command) == 1
        assert "pass --overwrite" in capsys.readouterr().err
        assert (tmp_path / "report" / "report.json").read_text() == "{}"

    def test_is_replaced_if_asked(self, command, tmp_path, capsys):
        (tmp_path / "report").mkdir()
        for name in ("report.json", "old.png"):
            (tmp_path / "report" / name).write_text("{}")
        assert cli.main([*command, "--overwrite", "--no-views"]) == 0
        assert len((tmp_path / "report" / "report.json").read_text()) > 100
        assert not (tmp_path / "report" / "old.png").exists()

    def test_is_never_replaced_if_it_is_no_report(self, command, tmp_path, capsys):
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "thesis.tex").write_text("dear")
        assert cli.main([*command, "--overwrite"]) == 1
        assert "no report" in capsys.readouterr().err
        assert (tmp_path / "report" / "thesis.tex").read_text() == "dear"


@pytest.mark.parametrize("what", ["avatar", "data"])
def test_what_is_missing_is_a_sentence(what, command, tmp_path, capsys):
    command[1 if what == "avatar" else 2] = str(tmp_path / "nowhere")
    assert cli.main(command) == 1
    assert "nowhere" in capsys.readouterr().err


def test_wrong_use_is_2(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--frames", "many"])
    assert stop.value.code == 2


def test_numbers_that_json_does_not_have():
    measured = [Measured("psnr_frames", math.inf, 3, "whole", floor=20.0)]
    report = Report("a", "b", "test", 3, 32, [], measured, curves={"frame": [1], "mouth_ours": [math.nan]})
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["measured"][0]["value"] == "inf"
    assert written["curves"]["mouth_ours"] == [None]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (math.inf, "∞"), (31.416, "31.42"), (-1, "-1"), (0.5, "0.5000"), (12345.6, "12346")],
)
def test_numbers_in_tables(value, text):
    assert number(value) == text


def test_a_report_below_a_file_is_refused_before_anything_is_rendered(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("talk3d.evaluation.show.evaluate", lambda *_: pytest.fail("it was evaluated"))
    command[command.index("--out") + 1] = str(tmp_path / "file" / "report")
    assert cli.main(command) == 1
    assert "cannot be made: part of its path is a file" in capsys.readouterr().err
