"""What the README says of implementations is what there is."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from talk3d.ops.registry import operators

ROOT = Path(__file__).parents[1]
WORDS = {"reference": "tested", "torch": "tested", "cpu": "tested", "cuda": "emulated", "triton": "interpreted"}


@pytest.fixture(scope="module")
def section() -> str:
    return (ROOT / "README.md").read_text().partition("## Operators")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def table(section: str) -> dict[str, dict[str, str]]:
    """What stands in the column of each implementation, for each operator that is named."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert [cell.strip("`") for cell in rows[0][2:]] == list(WORDS)
    return {name: dict(zip(WORDS, row[2:], strict=True)) for row in rows[2:] for name in re.findall(r"`(\w+)`", row[0])}


def test_every_implementation_is_in_the_table(table):
    public = {name: operator for name, operator in operators().items() if not name.endswith("_backward")}
    assert public.keys() <= table.keys()
    for name, operator in public.items():
        said = {impl: cell for impl, cell in table[name].items() if cell}
        assert said.keys() == set(operator.implementations), name
        assert all(cell.partition(",")[0] == WORDS[impl] for impl, cell in said.items()), name


def test_what_is_called_emulated_is(table):
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "csrc").glob("*.cpp"))
    exported = set(re.findall(r"^(?:extern \"C\" )?void (\w+)\(", sources, re.MULTILINE))
    emulated = {name for name, cells in table.items() if cells["cuda"] and name in operators()}
    assert emulated
    assert emulated <= exported


def test_it_was_compiled_for_what_is_named(section):
    with (ROOT / "benchmarks" / "results" / "kernels.csv").open(newline="") as file:
        rows = [(row["kernel"].startswith("triton "), row["arch"]) for row in csv.DictReader(file)]
    legend = re.split(r"\*Emulated\*|\*Interpreted\*|\*\*Neither", section)
    cuda, triton = (set(re.findall(r"sm_\d+|gfx\d+", part)) for part in legend[1:3])
    assert cuda == {arch for of_triton, arch in rows if not of_triton}
    assert cuda | triton == {arch for of_triton, arch in rows if of_triton}  # "for those and for" what is named
