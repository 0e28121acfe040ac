"""The table of CONTRIBUTING.md, "The rooms": who imports whom, one name for an operator, and nothing too large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from talk3d.ops.registry import operators

ROOT = Path(__file__).parents[1]
LIBRARY = sorted([*ROOT.glob("talk3d/**/*.py"), *ROOT.glob("kernels/**/*.py")])
BESIDE = [path for folder in ("tests", "benchmarks", "docs", "examples") for path in ROOT.glob(f"{folder}/**/*.py")]
PYTHON = sorted([ROOT / "setup.py", *LIBRARY, *BESIDE])
NATIVE = sorted(p for p in ROOT.glob("csrc/**/*") if p.suffix in (".h", ".cpp", ".cu"))

# A room may import what its arrows lead to, near or far. "talk3d" is the package itself, which everybody may import.
ARROWS = {
    "__main__": {"cli"},
    "cli": {"bench", "demo", "memory", "info", "data", "weights", "export", "training", "rendering", "evaluation"},
    "bench": {"avatar", "testing"},
    "demo": {"data", "training"},
    "info": {"registry"},
    "training": {"avatar", "data", "pictures", "networks"},
    "rendering": {"avatar", "data"},
    "evaluation": {"avatar", "data", "pictures", "networks"},
    "networks": {"weights"},
    "talk3d": {"avatar"},
    "avatar": {"models", "weights", "motion", "audio", "backdrop"},
    "models": {"nn", "cameras"},
    "data": {"cameras", "audio", "backdrop", "beside"},
    "audio": set(),
    "backdrop": set(),
    "motion": {"cameras"},
    "nn": {"ops"},
    "weights": {"models", "beside"},
    "export": {"avatar", "geometry"},
    "geometry": {"pictures", "beside"},
    "beside": set(),
    "pictures": set(),
    "ops": {"registry", "profiling"},
    "registry": {"native"},
    "native": set(),
    "memory": set(),
    "profiling": set(),
    "cameras": {"poses"},
    "poses": {"arguments"},
    "arguments": set(),
    "testing": set(),
    # implementations: named by ops as strings, and strangers to one another
    "reference": {"profiling"},
    "composed": set(),
    "kernels": set(),
}
FOLDERS = {
    "reference": "talk3d/reference/{}.py",
    "torch": "talk3d/composed/{}.py",
    "cpu": "csrc/cpu/{}.cpp",
    "cuda": "csrc/cuda/{}.cu",
    "triton": "kernels/{}.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    """The name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("talk3d", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module(path) for path in LIBRARY}


def room(imported: str) -> str:
    parts = imported.split(".")
    return "registry" if imported == "talk3d.ops.registry" else parts[1] if len(parts) > 1 else parts[0]


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module(path).split(".")[: -node.level or None] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        else:
            continue
        yield from (f for f in found if f.split(".")[0] in ("talk3d", "kernels", "tests", "benchmarks"))


@cache
def below(of: str) -> frozenset[str]:
    return frozenset().union({of}, *(below(r) for r in ARROWS[of]))


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_imports_follow_the_arrows(path: Path):
    home = room(module(path))
    assert home in ARROWS, f"{home} is a new room: say in ARROWS what it may import"
    strangers = {found for found in imports(path) if room(found) not in below(home) | {"talk3d"}}
    assert not strangers, f"{home} may import {sorted(below(home))}"


def test_every_room_is_in_the_table():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## The rooms")[1].split("**One name.**")[0]
    rooms = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    named = set(re.findall(r"(\w+)(?:/|\.py)`", rooms))
    assert ARROWS.keys() - {"__main__", "talk3d"} <= named | {"registry"}


@pytest.mark.parametrize("path", NATIVE, ids=name)
def test_native_code_includes_its_own_room_and_common(path: Path):
    room = path.relative_to(ROOT / "csrc").parts[0]
    for header in re.findall(r'#include "(\w+)/', path.read_text()):
        assert room == "library.cpp" or header in ("common", room)


@pytest.mark.parametrize("path", PYTHON + NATIVE, ids=name)
def test_a_file_fits_in_the_head(path: Path):
    assert len(path.read_text().splitlines()) <= (400 if path.suffix == ".py" else 500)


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_function_has_at_most_eight_parameters(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            # a Triton kernel has no structs to put its pointers and sizes in
            is_kernel = any(ast.unparse(d).startswith("triton.jit") for d in node.decorator_list)
            assert count <= 8 or is_kernel, f"{node.name} has {count}"


@pytest.mark.parametrize("operator", operators().values(), ids=lambda operator: operator.name)
def test_an_operator_is_a_file_of_one_name_in_each_room(operator):
    meaning = operator._sources["reference"]
    file = re.fullmatch(r"talk3d\.reference\.(\w+):\w+", meaning)[1]
    for impl, source in operator._sources.items():
        path = FOLDERS[impl].format(file)
        assert (ROOT / path).is_file(), f"{operator.name} claims {impl}, which wants {path}"
        assert source in ("cpu", "cuda") or source.split(":")[0] == module(ROOT / path)
    assert (ROOT / f"talk3d/ops/{file}.py").is_file()
    assert (ROOT / f"tests/ops/test_{file}.py").is_file()
