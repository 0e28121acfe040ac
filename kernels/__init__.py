"""Triton kernels. This folder is installed as ``talk3d.kernels``."""

if __name__ == "kernels":
    # The repository root is on sys.path: make way for the PyPI package of this name, if there is one.
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path
    from types import ModuleType

    _root = Path(__file__).resolve().parents[1]
    _spec = PathFinder.find_spec("kernels", [p for p in sys.path if Path(p or ".").resolve() != _root])
    sys.modules["kernels"] = module_from_spec(_spec) if _spec else ModuleType("kernels")
    if _spec and _spec.loader:
        _spec.loader.exec_module(sys.modules["kernels"])
