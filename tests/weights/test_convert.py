"""Files in the published layouts become folders that networks load; what is wrong with a file is said by name."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from talk3d import cli
from talk3d.models.generator import CONFIGS, TriPlaneGenerator
from talk3d.models.superresolution import VARIANTS, SuperResolution
from talk3d.testing import assert_golden, golden
from talk3d.weights import UnreadableCheckpoint, convert, listing, load_generator, read_weights
from talk3d.weights.eg3d import stored_axes
from talk3d.weights.files import read_checkpoint
from talk3d.weights.generator_names import UNUSED, generator_keys, superresolution_of

CONVENTIONS = ("original", "zy", "yz")


# names


def test_all_177_published_names_of_the_generator_are_mapped(published_generator):
    with torch.device("meta"):
        network = TriPlaneGenerator(CONFIGS["ffhq512-128"])
    places = generator_keys(network)
    filters = {name for name in published_generator if name.endswith("resample_filter")}
    assert len(published_generator) == 177
    assert places.keys() | filters | set(UNUSED) == published_generator.keys()
    assert {place.key for place in places.values()} == network.state_dict().keys()
    for name, place in places.items():
        assert network.state_dict()[place.key].shape == published_generator[name], name


# generators


def assert_is_golden_generator(folder: Path, tensors: dict[str, Tensor]) -> None:
    generator = load_generator(folder)
    io = golden("eg3d/g1_small_generator_io")
    planes = generator.planes(io["ws"][:1])
    assert_golden(planes.flatten(1, 2)[..., 100:116, 60:76], io["planes_crop"], 1.3e-5)
    for published, place in generator_keys(generator).items():
        assert torch.equal(generator.state_dict()[place.key], tensors[published]), published


def test_snapshot(layout, mark, save, generator_tensors, out: Path):
    source = save(layout.snapshot(generator_tensors))
    weights = convert(source, out)
    assert (weights.kind, weights.facts["axes"], weights.facts["notes"]) == ("generator", "original", [])
    assert not mark.exists()
    assert sorted(path.name for path in out.iterdir()) == ["generator.safetensors", "weights.json"]
    assert_is_golden_generator(out, generator_tensors)
    config = load_generator(out).config
    assert (config.z_dim, config.resolution, config.superresolution) == (128, 32, "2x")
    assert (config.channel_base, config.channel_max, config.superresolution_clamp) == (2048, 16, 256.0)
    assert (config.rendering.near, config.rendering.far, config.rendering.coarse) == (2.25, 3.3, 48)
    assert (config.pivot, config.radius, config.conditioning_scale) == ((0, 0, 0.2), 2.7, 0.0)


def test_bare_module(layout, mark, save, generator_tensors, out: Path):
    options = {"_init_kwargs": {"sr_num_fp16_res": 0}, "neural_rendering_resolution": 16}
    source = save(layout.generator(generator_tensors, "zy", **options), "G_tune.pkl")
    assert convert(source, out).facts["axes"] == "zy"
    assert not mark.exists()
    assert_is_golden_generator(out, generator_tensors)
    config = load_generator(out).config
    assert (config.resolution, config.superresolution_clamp, config.rendering.axes) == (16, None, "zy")


@pytest.mark.parametrize("name", ["network.pkl", "network.pt"])
def test_state_dict(name: str, save, generator_tensors, out: Path):
    source = save(OrderedDict(generator_tensors), name)
    with pytest.raises(UnreadableCheckpoint, match="does not say how its planes lie: pass --axes original, zy, yz"):
        convert(source, out)
    assert not out.parent.exists()
    weights = convert(source, out, axes="yz")
    assert weights.facts["axes"] == "yz"
    assert "ffhq512-128" in weights.facts["notes"][0]
    assert_is_golden_generator(out, generator_tensors)


def test_half_precision_becomes_single(save, generator_tensors, out: Path):
    convert(save({name: tensor.half() for name, tensor in generator_tensors.items()}), out, axes="zy")
    tensors = read_weights(out).parts["generator"]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("axes", CONVENTIONS)
def test_stored_axes_are_named(axes: str, save, plane_axes):
    assert stored_axes(read_checkpoint(save(plane_axes(axes))).tree) == axes


def test_golden_axes_are_named(save):
    for key, axes in (("axes_main", "original"), ("axes_talk3d", "zy")):
        assert stored_axes(read_checkpoint(save(golden("eg3d/b_plane_sampling")[key])).tree) == axes


@pytest.mark.parametrize("wrong", [torch.eye(3).expand(3, 3, 3).clone(), torch.ones(3, 3, 3), torch.eye(3)])
def test_unknown_axes_are_refused(wrong: Tensor, save):
    with pytest.raises(UnreadableCheckpoint, match="none of the known conventions"):
        stored_axes(read_checkpoint(save(wrong)).tree)


@pytest.mark.parametrize(("stored", "given"), [("original", "zy"), ("zy", "original"), ("zy", "yz"), ("yz", "zy")])
def test_another_convention_than_the_stored_one_is_refused(stored, given, layout, save, generator_tensors, out: Path):
    source = save(layout.snapshot(generator_tensors, axes=stored))
    with pytest.raises(UnreadableCheckpoint, match=f"its planes have the axes '{stored}', not '{given}'"):
        convert(source, out, axes=given)
    assert not out.exists()


def test_axes_that_their_branch_ignores_may_be_corrected(layout, save, generator_tensors, out: Path):
    weights = convert(save(layout.snapshot(generator_tensors, axes="original")), out, axes="yz")
    assert weights.facts["axes"] == load_generator(out).config.rendering.axes == "yz"
    assert "fixed_triplanes" in weights.facts["notes"][0]


def test_snapshot_without_axes(layout, save, generator_tensors, out: Path):
    source = save(layout.snapshot(generator_tensors, axes=None))
    with pytest.raises(UnreadableCheckpoint, match="G_ema of a training snapshot does not say how its planes lie"):
        convert(source, out)
    assert convert(source, out, axes="zy").facts["axes"] == "zy"


WRONG = {
    "missing": (lambda t: t.pop("decoder.net.0.bias"), r"decoder\.net\.0\.bias is missing"),
    "extra": (lambda t: t.update({"encoder.weight": torch.ones(2)}), r"encoder\.weight is unknown"),
    "shape": (
        lambda t: t.update({"decoder.net.2.weight": torch.ones(4, 64)}),
        r"decoder\.net\.2\.weight has the shape \[4, 64\], not \[33, 64\]",
    ),
    "filter": (
        lambda t: t.update({"backbone.synthesis.b8.resample_filter": torch.ones(4, 4)}),
        r"b8\.resample_filter is another filter than \[1, 3, 3, 1\]",
    ),
    "anchor": (lambda t: t.pop("backbone.mapping.w_avg"), r"backbone\.mapping\.w_avg is missing"),
    "block": (
        lambda t: [t.pop(name) for name in list(t) if ".b64." in name],
        r"backbone\.synthesis\.b64\.conv0\.bias is missing",
    ),
    "width": (
        lambda t: t.update({"backbone.synthesis.b64.conv1.bias": torch.ones(7)}),
        r"b64\.conv1\.bias has the shape \[7\], not \[16\]",
    ),
    "scalar": (
        lambda t: t.update({"backbone.mapping.w_avg": torch.tensor(1.0)}),
        r"w_avg has the shape \[\], not \[512\]",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_tensors_are_named(what: str, save, generator_tensors, out: Path):
    change, sentence = WRONG[what]
    tensors = dict(generator_tensors)
    change(tensors)
    with pytest.raises(UnreadableCheckpoint, match=f"this is not a generator of EG3D: .*{sentence}"):
        convert(save(tensors), out, axes="zy")
    assert not out.exists()


def test_all_that_is_wrong_is_named_at_once(save, generator_tensors, out: Path):
    tensors = dict(generator_tensors)
    for what in ("missing", "extra", "shape"):
        WRONG[what][0](tensors)
    with pytest.raises(UnreadableCheckpoint, match=r"bias is missing; decoder.*, not .*; encoder.*unknown$"):
        convert(save(tensors), out, axes="zy")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"neural_rendering_resolution": "large"}, "make no generator: neural_rendering_resolution is 'large'"),
        ({"neural_rendering_resolution": 0}, "make no generator: neural_rendering_resolution is 0"),
        ({"rendering_kwargs": {"c_scale": "auto"}}, "make no generator: c_scale is 'auto'"),
        ({"rendering_kwargs": {"ray_start": 3, "ray_end": 2}}, "near must be less than far"),
        ({"rendering_kwargs": {"depth_resolution": "many"}}, "make no generator"),
        ({"rendering_kwargs": {"avg_camera_pivot": [0, 0]}}, "make no generator"),
        ({"rendering_kwargs": {"box_warp": [1, 1, 1]}}, "make no generator"),
    ],
)
def test_options_that_make_no_sense(options, sentence, layout, save, generator_tensors, out: Path):
    with pytest.raises(UnreadableCheckpoint, match=sentence):
        convert(save(layout.generator(generator_tensors, **options)), out)


# what is no checkpoint of ours


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        ({"params_ema": {"stylegan_decoder.to_rgb1.bias": torch.ones(1)}}, "it holds GFPGAN, which is not converted"),
        ({"model": {"conv1.weight": torch.ones(1)}, "epoch": 1}, "it holds a dictionary of model, epoch, which is not"),
        (torch.nn.Linear(1, 1), r"it holds an object of torch\.nn\.modules\.linear\.Linear"),
        ([1, 2], "it holds a list"),
        ({"G_ema": torch.nn.Linear(1, 1)}, "it holds a dictionary of G_ema"),
        (3, "it holds a int"),
    ],
)
@pytest.mark.parametrize("name", ["other.pkl", "other.pt"])
def test_files_of_another_model(thing, sentence: str, name: str, save, out: Path):
    source = save(thing, name)
    with pytest.raises(UnreadableCheckpoint, match=f"{name}: {sentence}"):
        convert(source, out)
    assert listing(source)["names"] is not None
    assert not out.exists()


class WritesAFile:
    """Pickled as a call that writes."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "written")


def test_a_call_that_writes_a_file_is_recorded_and_refused(mark, save, out: Path):
    with pytest.raises(UnreadableCheckpoint, match=r"it holds an object of pathlib\.Path\.write_text, which is not"):
        convert(save(WritesAFile(mark)), out)
    assert not mark.exists()
    assert not out.exists()


def test_calls_beside_a_generator_are_not_made(layout, mark, save, generator_tensors, out: Path):
    source = save(layout.snapshot(generator_tensors) | {"augment_pipe": WritesAFile(mark)})
    convert(source, out)
    assert not mark.exists()
    assert "pathlib.Path.write_text" in listing(source)["names"]
    assert_is_golden_generator(out, generator_tensors)


def test_a_hostile_snapshot_is_refused(layout, save, generator_tensors, out: Path):
    source = save(layout.snapshot(generator_tensors) | {"augment_pipe": breakpoint})
    with pytest.raises(UnreadableCheckpoint, match=r"it wants builtins\.breakpoint, which no model needs"):
        convert(source, out)
    assert not out.exists()


def test_a_module_inside_itself_ends(layout, save, generator_tensors, out: Path):
    generator = layout.plain("training.triplane.TriPlaneGenerator", {})
    generator.__dict__.update(_parameters={}, _buffers={}, _modules={"backbone": generator, "decoder": generator})
    with pytest.raises(UnreadableCheckpoint, match="more than 10000 modules"):
        convert(save(generator), out)


def test_folders_are_not_overwritten(save, generator_tensors, out: Path):
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="exists already"):
        convert(save(dict(generator_tensors)), out, axes="zy")
    assert [path.name for path in out.parent.rglob("*")] == ["converted", "mine.txt"]


# the command


def test_command_converts(layout, save, generator_tensors, out: Path, capsys):
    assert cli.main(["convert", str(save(layout.snapshot(generator_tensors))), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: generator, axes 'original': generator (150 tensors)\n"
    assert load_generator(out).config.z_dim == 128


def test_command_lists(layout, mark, save, generator_tensors, capsys):
    source = str(save(layout.snapshot(generator_tensors, axes="zy")))
    assert cli.main(["convert", source, "--list"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{source}: the G_ema of a training snapshot, axes zy\n")
    assert "  neural_rendering_resolution = 32\n" in text
    assert f"{len(generator_tensors)} tensors\n" in text
    assert "  decoder.net.0.weight [64, 32] float32\n" in text
    assert "torch_utils.persistence._reconstruct_persistent_obj" in text
    assert cli.main(["convert", source, "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in found["tensors"]} == generator_tensors.keys()
    assert found["options"]["avg_camera_pivot"] == [0, 0, 0.2]
    assert not mark.exists()


def test_command_prints_json(save, out: Path, capsys):
    source = str(save(torch.ones(2, 3, 4, 4), "ID_triplane.pt"))
    assert cli.main(["convert", source, "--out", str(out), "--axes", "zy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["parts"], found["axes"]) == ("identity", {"identity": 1}, "zy")


def test_command_fails_in_a_sentence(tmp_path: Path, capsys):
    (tmp_path / "page.pkl").write_text("<!DOCTYPE html>" * 9)
    assert cli.main(["convert", str(tmp_path / "page.pkl"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("talk3d: ")
    assert error.count("\n") == 1


def test_command_needs_to_know_what_to_do(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", str(tmp_path / "network.pkl")])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_superresolution_is_told_by_its_sizes(variant):
    with torch.device("meta"):
        network = SuperResolution(variant, channels=16, w_dim=24)
    _, arguments = superresolution_of(network.state_dict())
    assert arguments == {"variant": variant, "channels": 16, "w_dim": 24}


@pytest.mark.parametrize("option", [["--list"], ["--out", "out"], ["--out", "out", "--driver", "none.pt"]])
def test_a_file_that_is_not_there_is_named(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", "none.pkl", *option]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"talk3d: none\.pkl.* checkpoint.*\n", said), said
    assert "Errno" not in said
