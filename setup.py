"""Build talk3d: the library, ``kernels/`` as ``talk3d.kernels``, and the native code that this machine can compile.

``TALK3D_BUILD=auto`` (the default) compiles what it can; ``cpu`` and ``cuda`` fail with the reason where they cannot;
``off`` compiles nothing. CXX, CFLAGS, LDFLAGS, CUDA_HOME, TORCH_CUDA_ARCH_LIST and MAX_JOBS mean what they always mean.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

MODE = os.environ.get("TALK3D_BUILD", "auto")
if MODE not in ("auto", "cuda", "cpu", "off"):
    raise SystemExit(f"TALK3D_BUILD must be auto, cuda, cpu or off, not {MODE!r}")

torch = None
with suppress(ImportError):  # cpu_obstacle() speaks of it
    if MODE != "off":
        import torch
        from torch.utils import cpp_extension

ROOT = Path(__file__).parent.resolve()
# no contraction: positions are rounded as in the published code; a fused multiply-add is written where it is wanted
CXX_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-lineinfo", "-Xcompiler=-fvisibility=hidden,-Wall", "-Xptxas=-v"]
# only what was stable in torch 2.11 may be used: a build with a later torch runs there too
STABLE_ABI = ("TORCH_TARGET_VERSION", "0x020b000000000000")
CUDA_ARCHS = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;8.6;8.9;9.0;10.0;12.0+PTX")


def cpu_obstacle() -> str | None:
    """Why C++ is not compiled, or None."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if MODE == "off":
        return "it was built with TALK3D_BUILD=off"
    if torch is None:
        return "it was built without torch: install torch, then talk3d with pip install --no-build-isolation"
    if not shutil.which(compiler):
        return f"it was built without a C++ compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "it was built without Python.h, which is in the development package of Python"
    return None


def cuda_obstacle() -> str | None:
    """Why CUDA is not compiled, or None."""
    if MODE == "cpu":
        return "it was built with TALK3D_BUILD=cpu"
    if reason := cpu_obstacle():
        return reason
    if not torch.version.cuda:
        return f"it was built with torch {torch.__version__}, which has no CUDA"
    if not (release := nvcc_release()):
        return "it was built without nvcc: put it on PATH or set CUDA_HOME"
    if release.split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"it was built with nvcc {release}, but torch {torch.__version__} wants CUDA {torch.version.cuda}"
    return None


def nvcc_release() -> str | None:
    """Version of the CUDA toolkit, such as ``13.0``."""
    nvcc = Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc")
    if not nvcc.exists():
        return None
    return re.search(r"release ([\d.]+)", subprocess.check_output([nvcc, "--version"], text=True))[1]


def extension(name: str, sources: str, **options) -> Extension:
    """``talk3d.<name>``, of sources in ``csrc/``."""
    headers = cpp_extension.include_paths()  # torch's; pybind11 is among them
    cxx_only = [f"-ffile-prefix-map={ROOT}/=", *(f"-isystem{path}" for path in headers)]
    return Extension(
        f"talk3d.{name}",
        sorted(map(str, Path("csrc").glob(sources))),
        include_dirs=[str(ROOT / "csrc"), *headers],
        # no path among nvcc's flags: torch looks for "arch" in them, and one in "research" would do
        extra_compile_args={"cxx": CXX_FLAGS + cxx_only, "nvcc": NVCC_FLAGS},
        depends=sorted(map(str, Path("csrc").rglob("*.h"))),
        language="c++",
        **options,
    )


def extensions() -> list[Extension]:
    """The kernels, one library for each device without Python in it, and ``talk3d._C``, which describes the build."""
    torch_cpu = {"library_dirs": cpp_extension.library_paths(), "libraries": ["torch", "torch_cpu", "c10"]}
    found = [extension("_cpu", "cpu/*.cpp", define_macros=[STABLE_ABI], **torch_cpu)]
    facts = {"TORCH": torch.__version__, "CXX_FLAGS": " ".join(CXX_FLAGS)}
    if not OBSTACLES["cuda"]:
        # cudart comes along with torch_cuda: the toolkit's own would have to be found again at run time
        torch_cuda = torch_cpu | {"libraries": [*torch_cpu["libraries"], "torch_cuda", "c10_cuda"]}
        found += [extension("_cuda", "cuda/*.cu", define_macros=[STABLE_ABI, ("USE_CUDA", "1")], **torch_cuda)]
        facts |= {"CUDA": nvcc_release(), "CUDA_ARCHS": CUDA_ARCHS, "NVCC_FLAGS": " ".join(NVCC_FLAGS)}
    macros = [(f"TALK3D_{fact}", f'"{value}"') for fact, value in facts.items()]
    return [*found, extension("_C", "library.cpp", define_macros=macros)]


class BuildPy(build_py):  # noqa: D101
    def run(self) -> None:
        """Leave a note of what was not compiled, and why, where ``talk3d/native.py`` looks for it."""
        super().run()
        package = Path("talk3d") if self.editable_mode else Path(self.build_lib, "talk3d")
        (package / "_build.json").write_text(json.dumps(OBSTACLES))


OBSTACLES = {"cpu": cpu_obstacle(), "cuda": cuda_obstacle()}
if OBSTACLES.get(MODE):
    raise SystemExit(f"TALK3D_BUILD={MODE} is impossible: {OBSTACLES[MODE]}")
NATIVE = {} if OBSTACLES["cpu"] else {"ext_modules": extensions()}

setup(
    packages=find_packages(include=["talk3d*"]) + [f"talk3d.{name}" for name in find_packages(include=["kernels*"])],
    package_dir={"talk3d": "talk3d", "talk3d.kernels": "kernels"},
    cmdclass={"build_py": BuildPy} | ({"build_ext": cpp_extension.BuildExtension} if NATIVE else {}),
    **NATIVE,
)
