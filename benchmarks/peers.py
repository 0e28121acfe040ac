"""Who is measured against us: our plain PyTorch, what torch.compile makes of it, or a public package.

A public package is a Python file of a folder that ``--peers`` names: ``lightplane.py`` makes the peer ``lightplane``.
Its ``PEERS`` has a factory for each case it can run, as in ``{"render_rays_forward": make}``; ``make(size)`` returns a
function of the case's leaves with the case's outputs. It must compute the same: what it returns is compared with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from case import Case, Function, Size

BUILT_IN = ("reference", "compile")


def load(name: str, folder: Path | None, cases: dict[str, Case]) -> dict[str, Callable[[Size], Function]]:
    """What a peer runs, by case.

    Args:
        name: ``reference``, ``compile``, or the stem of a file in ``folder``.
        folder: Of public packages.
        cases: All cases by name.

    Raises:
        ValueError: If there is no such peer, or it names a case that does not exist.
    """
    if name == "reference":
        return {case: made.peer for case, made in cases.items()}
    if name == "compile":
        return {case: _compiled(made.peer) for case, made in cases.items()}
    path = folder / f"{name}.py" if folder else None
    if path is None or not path.is_file():
        where = f"{folder} has no {name}.py" if folder else "--peers names the folder of any other"
        raise ValueError(f"--peer must be {' or '.join(BUILT_IN)}, not {name}: {where}")
    spec = spec_from_file_location(f"talk3d_peer_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Callable[[Size], Function]] = module.PEERS
    if unknown := found.keys() - cases.keys():
        raise ValueError(f"{path.name}: there is no case {', '.join(sorted(unknown))}")
    return found


def _compiled(peer: Callable[[Size], Function]) -> Callable[[Size], Function]:
    # all cases of an operator have one code, of which torch compiles 8 kinds and then, without a word, none
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return lambda size: torch.compile(peer(size), dynamic=False)
