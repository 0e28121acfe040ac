"""Checkpoints in the published layouts, with made-up weights."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from talk3d.ops.triplane import AXES
from talk3d.testing import golden

BUFFERS = ("resample_filter", "noise_const", "w_avg", "dataset_label_std")
SOURCE = "import pathlib; pathlib.Path({mark!r}).write_text('this module was run')"
OPTIONS = {
    "depth_resolution": 48,
    "depth_resolution_importance": 48,
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1,
    "avg_camera_radius": 2.7,
    "avg_camera_pivot": [0, 0, 0.2],
    "white_back": False,
    "superresolution_noise_mode": "none",
    "superresolution_module": "training.superresolution.SuperresolutionHybrid2X",
    "density_reg": np.float64(0.25),
}


class Layout:
    """Pickles modules as ``torch_utils.persistence`` does, which is not there: each with its source, a trap."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mark: Path):
        self.mark = mark
        self._patch = monkeypatch

    def _name(self, dotted: str, thing: Any) -> Any:
        """Let pickle find something under a published name, the first of that name."""
        module, _, name = dotted.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            if parent not in sys.modules:
                self._patch.setitem(sys.modules, parent, ModuleType(parent))
        if hasattr(sys.modules[module], name):
            return getattr(sys.modules[module], name)
        thing.__module__, thing.__qualname__ = module, name
        self._patch.setattr(sys.modules[module], name, thing, raising=False)
        return thing

    def persistent(self, class_name: str, state: dict[str, Any]) -> object:
        def _reconstruct_persistent_obj(meta: object) -> None: ...

        function = self._name("torch_utils.persistence._reconstruct_persistent_obj", _reconstruct_persistent_obj)
        source = SOURCE.format(mark=str(self.mark))
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
        made = type("Persistent", (), {"__reduce__": lambda self: (self.function, (self.meta,))})()
        made.function, made.meta = function, meta
        return made

    def plain(self, class_name: str, state: dict[str, Any]) -> object:
        made = self._name(class_name, type(class_name.rpartition(".")[2], (), {}))()
        made.__dict__.update(state)
        return made

    def module(self, tensors: dict[str, Tensor], class_name: str = "Module", **attributes: Any) -> object:
        """A module with these tensors, and modules inside it as the dots say."""
        children: dict[str, dict[str, Tensor]] = {}
        own: dict[str, dict[str, Tensor]] = {"_parameters": OrderedDict(), "_buffers": OrderedDict()}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = tensor
            elif head in BUFFERS:
                own["_buffers"][head] = tensor
            else:
                own["_parameters"][head] = torch.nn.Parameter(tensor)
        modules = OrderedDict((name, self.module(inner)) for name, inner in children.items())
        modules |= attributes.pop("modules", {})
        return self.persistent(class_name, {"training": False, **own, "_modules": modules, **attributes})

    def generator(self, tensors: dict[str, Tensor], axes: str | None = "original", **attributes: Any) -> object:
        renderer: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
        if axes is not None:
            renderer["plane_axes"] = plane_axes(axes)
        modules = {"renderer": self.plain("training.volumetric_rendering.renderer.ImportanceRenderer", renderer)}
        attributes = {"neural_rendering_resolution": 32, "rendering_kwargs": OPTIONS} | attributes
        return self.module(tensors, "TriPlaneGenerator", modules=modules, **attributes)

    def snapshot(self, tensors: dict[str, Tensor], **options: Any) -> dict[str, object]:
        other = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return {
            "training_set_kwargs": {"path": "/data/ffhq.zip", "resolution": 512},
            "G": self.generator(other),
            "D": self.module({"b4.out.weight": torch.ones(1, 3)}, "DualDiscriminator"),
            "G_ema": self.generator(tensors, **options),
            "augment_pipe": None,
        }


def plane_axes(axes: str) -> Tensor:
    """The renderer's matrices ``[3, 3, 3]``: row j has its one at the coordinate that becomes the j-th."""
    pairs = torch.tensor(AXES[axes]).view(3, 2)
    full = torch.cat([pairs, 3 - pairs.sum(1, keepdim=True)], dim=1)
    return torch.nn.functional.one_hot(full, 3).float()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that exists once anything of a pickle has been run."""
    return tmp_path / "mark"


@pytest.fixture(name="plane_axes")
def plane_axes_fixture():
    return plane_axes


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch, mark: Path) -> Layout:
    return Layout(monkeypatch, mark)


@pytest.fixture(scope="session")
def generator_tensors() -> dict[str, Tensor]:
    """The state dict of a small generator, with what training loops add to it."""
    tensors = {name: t.float() for name, t in golden("eg3d/g1_small_generator_weights").items()}
    return {"dataset_label_std": torch.ones(25)} | tensors


Keys = dict[str, tuple[tuple[int, ...], torch.dtype]]


def made_up_tensors(keys: Keys) -> dict[str, Tensor]:
    """Seeded tensors of these names, shapes and types."""
    generator = torch.Generator().manual_seed(0)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8

    def tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name.endswith("resample_filter"):
            return taps.outer(taps)
        if not dtype.is_floating_point:
            return torch.randint(9, shape, generator=generator)
        return torch.randn(shape, generator=generator)

    return {name: tensor(name, *rest) for name, rest in keys.items()}


def golden_keys(file: str, array: str) -> Keys:
    """Names, shapes and types that a file of golden vectors of Talk3D lists."""
    folder = Path(os.environ.get("TALK3D_GOLDEN", Path(__file__).parents[1] / "golden"))
    with np.load(folder / "talk3d" / f"{file}.npz") as found:
        rows = json.loads(str(found[array]))
    types = ((*row, "torch.float32")[:3] for row in rows)
    return {name: (tuple(shape), getattr(torch, dtype.removeprefix("torch."))) for name, shape, dtype in types}


@pytest.fixture(scope="session")
def made_up():
    return made_up_tensors


@pytest.fixture(scope="session")
def unet_keys() -> dict[str, Keys]:
    """The state dicts of two published U-Nets."""
    return {file: golden_keys(file, "keys") for file in ("unet24", "unet96")}


@pytest.fixture(scope="session")
def unet_tensors(unet_keys) -> dict[str, Tensor]:
    """The state dict of a U-Net of 24 channels."""
    return made_up_tensors(unet_keys["unet24"])


@pytest.fixture(scope="session")
def encoder_tensors() -> dict[str, object]:
    """The other state dicts of a driver."""
    parts = ("audio_net", "audio_att_net", "blink_encoder", "camera_encoder")
    made = {part: made_up_tensors(golden_keys("small_modules", f"{part}_filled")) for part in parts}
    return {**made, "null_vector": torch.randn(1, 1, 64).requires_grad_()}


@pytest.fixture(scope="session")
def published_generator() -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``ffhq512-128``, as published."""
    rows = (Path(__file__).parent / "ffhq512-128.tsv").read_text().splitlines()
    table = (row.split("\t") for row in rows)
    return {name: tuple(json.loads(shape)) for name, shape in table}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "converted"


@pytest.fixture
def save(tmp_path: Path):
    """Pickle something, as EG3D does, and as nobody expects."""

    def write(thing: object, name: str = "network.pkl") -> Path:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(thing)) if path.suffix == ".pkl" else torch.save(thing, path)
        return path

    return write
