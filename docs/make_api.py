"""Make API pages of the docstrings: ``make docs`` writes them to ``build/docs``.

Modules are all that a user may import; implementations, which operators choose among, and commands are left out.
"""

from __future__ import annotations

import pkgutil
import warnings
from pathlib import Path

import pdoc

import talk3d

_LEFT_OUT = ("_", "kernels", "reference", "composed", "cli", "demo", "data.synthetic.")


def modules() -> list[str]:
    """Name what is documented."""
    names = ["talk3d", *(module.name for module in pkgutil.walk_packages(talk3d.__path__, "talk3d."))]
    wanted: dict[str, None] = {}
    chosen = []
    for name in names:
        # pdoc goes on from a package to its modules, but for packages with __all__
        if name not in wanted and not name.removeprefix("talk3d.").startswith(_LEFT_OUT):
            chosen.append(name)
            wanted |= dict.fromkeys(pdoc.extract.walk_specs([name]))
    return chosen


if __name__ == "__main__":
    pdoc.render.configure(docformat="google", math=True, footer_text=f"talk3d {talk3d.__version__}")
    # pdoc looks for the types of a generated __init__ where a class is re-exported, and else shows their text
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    out = Path(__file__).parents[1] / "build" / "docs"
    pdoc.pdoc(*modules(), output_directory=out)
    print(out / "index.html")
