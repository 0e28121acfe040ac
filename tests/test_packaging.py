"""What ``pip install`` leaves behind, in environments with our packages but without talk3d. Nothing is compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("talk3d", "kernels", "csrc", "tests", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
LEFTOVERS = ("*.so", "_build.json", "__pycache__", "golden")


class Environment:
    """A virtual environment without talk3d."""

    def __init__(self, folder: Path):
        venv.create(folder)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        for package in Path(sysconfig.get_path("purelib")).iterdir():
            if "talk3d" not in package.name and package.suffix != ".pth":
                (self.packages / package.name).symlink_to(package)

    def run(self, *arguments: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CUDA_HOME", "CXX")}
        command = [self.python, *arguments]
        return subprocess.run(
            command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False
        )

    def python_prints(self, code: str, folder: Path, **environment: str) -> str:
        run = self.run("-c", code, folder=folder, **environment)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    def install(self, *what: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
        return self.run("-m", "pip", "install", *options, *what, folder=self.packages, **environment)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The repository as it is in git, in a folder that a build may write to."""
    folder = tmp_path_factory.mktemp("repository")
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns(*LEFTOVERS))
        else:
            shutil.copy(ROOT / source, folder)
    return folder


@pytest.fixture(scope="module")
def installed(tree, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("installed"))
    run = environment.install(tree, TALK3D_BUILD="off")
    assert run.returncode == 0, run.stderr
    return environment


@pytest.fixture(scope="module")
def editable(tree, tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("editable"))
    run = environment.install("--editable", tree, TALK3D_BUILD="off")
    assert run.returncode == 0, run.stderr
    return environment


def files(environment: Environment) -> Iterator[str]:
    record = next(environment.packages.glob("talk3d-*.dist-info/RECORD"))
    return (line.split(",")[0] for line in record.read_text().splitlines())


def test_wheel_holds_the_package_alone(installed):
    tops = {name.split("/")[0] for name in files(installed) if not name.endswith("bin/talk3d")}
    assert {top.split("-")[0] for top in tops} == {"talk3d"}
    assert {"talk3d/py.typed", "talk3d/kernels/triplane.py", "talk3d/reference/volume.py"} <= set(files(installed))
    assert {f"talk3d/data/assets/speech_talk.{suffix}" for suffix in ("flac", "json")} <= set(files(installed))
    assert any(name.endswith("licenses/LICENSE") for name in files(installed))


def test_installed_kernels(installed, tmp_path):
    code = "import importlib.util as i, talk3d.kernels as k; print(k.__file__, i.find_spec('kernels'))"
    expected = f"{installed.packages}/talk3d/kernels/__init__.py None"
    assert installed.python_prints(code, tmp_path) == expected


def test_pure_python_says_so(installed, tmp_path):
    found = json.loads(installed.python_prints("from talk3d import info; info.show(as_json=True)", tmp_path))
    reason = "talk3d has no cpu kernels: it was built with TALK3D_BUILD=off"
    assert found["native"]["cpu"] == reason
    assert found["operators"]["sample_triplane"]["cpu"] == reason
    assert found["build"] is None
    text = installed.run("-m", "talk3d.info", folder=tmp_path, COLUMNS="200").stdout
    assert reason in text


def test_pure_python_works(installed, tmp_path):
    code = """
import torch, talk3d.ops
print(talk3d.ops.sample_triplane(torch.ones(1, 3, 2, 4, 4), torch.zeros(1, 1, 3), box_warp=1, axes="zy").tolist())
try:
    talk3d.ops.sample_triplane(torch.ones(1, 3, 2, 4, 4), torch.zeros(1, 1, 3), box_warp=1, axes="zy", impl="cpu")
except ValueError as error:
    print(error)
"""
    result, error = installed.python_prints(code, tmp_path).splitlines()
    assert json.loads(result) == [[[1, 1]]]
    assert "TALK3D_BUILD=off" in error


@pytest.mark.parametrize("in_repository", [False, True])
def test_editable_kernels(editable, tree, tmp_path, in_repository):
    code = "import talk3d, talk3d.kernels as k; print(talk3d.__file__, k.__file__)"
    found = editable.python_prints(code, tree if in_repository else tmp_path)
    assert found == f"{tree}/talk3d/__init__.py {tree}/kernels/__init__.py"


def test_editable_says_what_was_not_built(editable, tmp_path):
    code = "from talk3d import native; print(native.available('cuda'))"
    assert editable.python_prints(code, tmp_path).endswith("it was built with TALK3D_BUILD=off")


def test_kernels_of_the_repository_steps_aside(editable, tree, tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("get_kernel = 'of the package on PyPI'")
    code = "import kernels; print(kernels.get_kernel)"
    assert editable.python_prints(code, tree, PYTHONPATH=str(tmp_path)) == "of the package on PyPI"


def test_kernels_of_the_repository_vanishes(editable, tree):
    assert editable.python_prints("import kernels; print(vars(kernels).get('__file__'))", tree) == "None"
    assert editable.python_prints("import importlib.util as i; print(i.find_spec('kernels'))", tree.parent) == "None"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"TALK3D_BUILD": "cuda", "CUDA_HOME": "/nowhere"}, "TALK3D_BUILD=cuda is impossible: it was built with"),
        ({"TALK3D_BUILD": "cpu", "CXX": "no-such-compiler"}, "TALK3D_BUILD=cpu is impossible: it was built without"),
        ({"TALK3D_BUILD": "fast"}, "TALK3D_BUILD must be auto, cuda, cpu or off, not 'fast'"),
    ],
)
def test_impossible_build_fails_with_the_reason(tree, tmp_path, environment, reason):
    run = Environment(tmp_path).install(tree, **environment)
    assert run.returncode
    assert reason in run.stdout + run.stderr


def test_build_without_torch_is_pure_python(tree, tmp_path):
    environment, blocked = Environment(tmp_path / "environment"), tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('as in an isolated build')")
    run = environment.install(tree, PYTHONPATH=str(blocked))
    assert run.returncode == 0, run.stderr
    record = json.loads((environment.packages / "talk3d" / "_build.json").read_text())
    assert "--no-build-isolation" in record["cpu"]
    assert record["cuda"] == record["cpu"]
    assert not list(environment.packages.glob("talk3d/*.so"))


def test_sdist_holds_all_that_a_build_needs(installed, tree, tmp_path):
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    archive = tmp_path / installed.python_prints(code, tree, TALK3D_BUILD="off").splitlines()[-1]
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    sources = [path for folder in ("csrc", "kernels", "talk3d") for path in (tree / folder).rglob("*")]
    needed = {path.relative_to(tree).as_posix() for path in sources if path.suffix in (".h", ".cpp", ".cu", ".py")}
    assert needed <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "talk3d/data/assets/speech_talk.flac"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
