"""CUDA kernels without a GPU: ``tests/csrc`` runs their source thread by thread on the CPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


class Sizes(Structure):
    _fields_ = [
        *(("cameras", c_int64), ("rays", c_int64), ("sets", c_int32), ("size", c_int32), ("planes", c_int32)),
        *(("scale", c_float), ("coarse", c_int32), ("fine", c_int32), ("disparity", c_int32)),
        *(("white_back", c_int32), ("clamp_depth", c_int32), ("min_weight", c_float)),
        *(("floats", c_int32), ("backwards", c_int32)),
    ]


class Rays(Structure):
    _fields_ = [("rays", c_void_p), ("jitter", c_void_p), ("u", c_void_p), ("rays_per_camera", c_int64)]


class Image(Structure):
    _fields_ = [(name, c_void_p) for name in ("features", "depth", "weight", "depths", "transmittance")]


class Cotangents(Structure):
    _fields_ = [(name, c_void_p) for name in ("features", "depth", "weight", "depths", "transmittance")]


class Gradients(Structure):
    _fields_ = [(name, c_void_p) for name in ("texels", "fixed", "decoder", "rays")]


def build(folder: Path, *names: str) -> ctypes.CDLL:
    """Compile sources of this folder into a library there, and load it."""
    library = folder / "emulated.so"
    sources = [str(ROOT / "tests" / "csrc" / name) for name in names]
    paths = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'csrc'}", *sources]
    subprocess.run([COMPILER, *FLAGS, "-shared", "-fPIC", *paths, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class Sampler:
    """The kernels of ``sample_triplane``, compiled by the C++ compiler.

    Args:
        folder: Where the library is built.
        wide: Channels that a thread takes at once: 4 where their number allows, or 1 as where memory is not aligned.
    """

    def __init__(self, folder: Path, wide: int) -> None:
        self._wide = wide
        self._library = build(folder, "triplane.cpp")
        given = [c_void_p, c_void_p, ctypes.c_double, c_int32, c_int32]
        self._library.sample_triplane.argtypes = given + [c_void_p] * 3
        self._library.sample_triplane_backward.argtypes = given + [c_void_p] * 5

    def forward(self, planes: Tensor, points: Tensor, pairs: list[int], scale: float, mean: bool) -> Tensor:
        """Do what ``torch.ops.talk3d.sample_triplane`` does, with its arguments."""
        shape = (*points.shape[:2], planes.shape[4])
        features = torch.full(shape if mean else (shape[0], planes.shape[1], *shape[1:]), torch.nan)
        self._run(self._library.sample_triplane, (planes, points, features), (planes, points), (pairs, scale, mean))
        return features

    def backward(
        self,
        d_features: Tensor,
        planes: Tensor,
        points: Tensor,
        pairs: list[int],
        scale: float,
        mean: bool,
        *needs: bool,
    ) -> tuple[Tensor, ...]:
        """Do what ``torch.ops.talk3d.sample_triplane_backward`` does, with its arguments."""
        found = torch.zeros_like(planes), torch.full_like(points, torch.nan)
        wanted = tuple(tensor if need else None for tensor, need in zip(found, needs, strict=True))
        tensors = (d_features, planes, points, *wanted)
        self._run(self._library.sample_triplane_backward, tensors, (planes, points), (pairs, scale, mean))
        return tuple(planes.new_empty(0) if tensor is None else tensor for tensor in wanted)

    def _run(
        self,
        kernel: Callable[..., None],
        tensors: tuple[Tensor | None, ...],
        sized: tuple[Tensor, Tensor],
        options: tuple[list[int], float, bool],
    ) -> None:
        assert all(tensor is None or (tensor.is_contiguous() and tensor.dtype == torch.float32) for tensor in tensors)
        pairs, scale, mean = options
        numbers = torch.tensor([*sized[0].shape, *sized[1].shape]), torch.tensor(pairs)
        wide = self._wide if sized[0].shape[4] % self._wide == 0 else 1
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        kernel(*(tensor.data_ptr() for tensor in numbers), scale, mean, wide, *pointers)


class Emulator:
    """The kernels of ``render_rays``, and those of planes, compiled by the C++ compiler.

    Args:
        folder: Where the library is built.
    """

    backwards = False  # whether the last block of the backward comes first

    def __init__(self, folder: Path) -> None:
        self._library = build(folder, "volume.cpp", "planes.cpp")
        self._library.add_planes.argtypes = [c_void_p] * 6
        self._library.deal.argtypes = [c_int64, c_void_p]
        self._library.render_rays.argtypes = [POINTER(Sizes), c_void_p, c_void_p, POINTER(Rays), POINTER(Image)]
        given = [POINTER(Sizes), c_void_p, c_void_p, c_void_p, POINTER(Cotangents), POINTER(Gradients)]
        self._library.differentiate.argtypes = given
        self._library.count_additions.restype = c_int64
        self._library.shared_bytes.argtypes, self._library.shared_bytes.restype = [POINTER(Sizes), c_int32], c_int64

    @staticmethod
    def why_not() -> str | None:
        """Say why it cannot be built, or None."""
        return None if shutil.which(COMPILER) else f"needs a C++ compiler ({COMPILER})"

    def deal(self, rays: int) -> Tensor:
        """Rays in the order of the threads; -1 where there is none."""
        order = torch.empty((rays + 63) // 64 * 64, dtype=torch.int64)
        self._library.deal(rays, order.data_ptr())
        return order

    def count_additions(self) -> int:
        """How often a thread of the backward added 16 bytes to memory since this was asked last."""
        return int(self._library.count_additions())

    def shared_bytes(self, dtype: torch.dtype, planes: int, *, coarse: int, fine: int, kind: str) -> int:
        """Shared memory of a block; ``kind`` is a key of ``talk3d.ops.volume._SHARED``."""
        sizes = Sizes(planes=planes, coarse=coarse, fine=fine, floats=dtype == torch.float32)
        return int(self._library.shared_bytes(sizes, ("forward", "planes", "all").index(kind)))

    def pack(self, texels: Tensor, pairs: list[int]) -> Tensor:
        """Bring ``[S, P, H, W, C]`` in float32 into the order of the kernels, with a border of zeros."""
        sets, planes, size, _, channels = texels.shape
        convention = (c_int64 * len(pairs))(*pairs)
        count = self._library.pack_planes(convention, planes, size, channels, None, None)
        packed = torch.full((sets, count, size + 2, size + 2, channels), torch.nan)
        for one, to in zip(texels.contiguous(), packed, strict=True):
            pointers = c_void_p(one.data_ptr()), c_void_p(to.data_ptr())
            self._library.pack_planes(convention, planes, size, channels, *pointers)
        return packed

    def add_planes(self, planes: Tensor, delta: Tensor, pairs: list[int]) -> Tensor:
        """Do what ``torch.ops.talk3d.add_planes`` does, with its arguments."""
        types = [(torch.float32, torch.float16, torch.bfloat16).index(tensor.dtype) for tensor in (planes, delta)]
        stride = 0 if planes.shape[0] == 1 else planes.stride(0)
        sizes = torch.tensor([delta.shape[1], delta.shape[2], delta.shape[0], stride, *delta.stride()[:2]])
        found = torch.full((delta.shape[0], *planes.shape[1:]), torch.nan, dtype=planes.dtype)
        numbers = torch.tensor(pairs), sizes, torch.tensor(types, dtype=torch.int32), planes, delta, found
        self._library.add_planes(*(tensor.data_ptr() for tensor in numbers))
        return found

    def forward(
        self,
        planes: Tensor,
        decoder: Tensor,
        rays: Tensor,
        jitter: Tensor | None,
        u: Tensor | None,
        pairs: list[int],
        settings: list[float],
    ) -> tuple[Tensor, ...]:
        """Do what ``torch.ops.talk3d.render_rays`` does, with its arguments."""
        texels, sizes = self._packed(planes, rays, pairs, settings)
        count, samples = rays.shape[1], sizes.coarse + sizes.fine
        shapes = (32,), (), (), (samples,), (samples - 1,)
        found = tuple(torch.full((*rays.shape[:2], *shape), torch.nan) for shape in shapes)
        noise = (None if part is None else part.data_ptr() for part in (jitter, u))
        image = Image(*(tensor.data_ptr() for tensor in found))
        self._library.render_rays(
            sizes, texels.data_ptr(), decoder.data_ptr(), Rays(rays.data_ptr(), *noise, count), image
        )
        return found

    def backward(
        self, grads: list[Tensor], saved: list[Tensor], pairs: list[int], settings: list[float], needs: list[bool]
    ) -> tuple[Tensor, ...]:
        """Do what ``torch.ops.talk3d.render_rays_backward`` does, with its arguments."""
        planes, decoder, rays, depths, transmittance = saved
        texels, sizes = self._packed(planes, rays, pairs, settings)
        in_order = needs[0] and needs[3:] == [True]
        gradient, d_planes = torch.zeros(texels.shape), torch.full(planes.shape, torch.nan)
        fixed = torch.zeros(texels.shape, dtype=torch.int64) if in_order else None
        d_decoder, d_rays = torch.full_like(decoder, torch.nan), torch.full_like(rays, torch.nan)
        wanted = (gradient if needs[0] else None, fixed, d_decoder if needs[1] else None, d_rays if needs[2] else None)
        given = Cotangents(*(tensor.data_ptr() for tensor in (*grads, depths, transmittance)))
        pointers = texels.data_ptr(), decoder.data_ptr(), rays.data_ptr()
        to = Gradients(*(None if tensor is None else tensor.data_ptr() for tensor in wanted))
        self._library.differentiate(sizes, *pointers, given, to)
        convention = (c_int64 * len(pairs))(*pairs)
        for one, whole in zip(gradient, d_planes, strict=True):
            shape = planes.shape[1], planes.shape[2], planes.shape[4]
            self._library.unpack_gradient(convention, *shape, c_void_p(one.data_ptr()), c_void_p(whole.data_ptr()))
        found = zip((d_planes, d_decoder, d_rays), needs, strict=False)
        return tuple(tensor if need else tensor.new_empty(0) for tensor, need in found)

    def _packed(self, planes: Tensor, rays: Tensor, pairs: list[int], settings: list[float]) -> tuple[Tensor, Sizes]:
        texels = self.pack(planes.float(), pairs)
        floats = planes.dtype == torch.float32
        texels = texels if floats else texels.half()
        scale, _, coarse, fine, disparity, white_back, clamp_depth, min_weight = settings
        sizes = Sizes(*rays.shape[:2], texels.shape[0], planes.shape[2], texels.shape[1], scale)
        sizes.coarse, sizes.fine, sizes.disparity = int(coarse), int(fine), int(disparity)
        sizes.white_back, sizes.clamp_depth, sizes.min_weight = int(white_back), int(clamp_depth), min_weight
        sizes.floats, sizes.backwards = floats, self.backwards
        return texels, sizes
