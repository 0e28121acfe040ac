"""Block sizes of the Triton kernels, each with the reason for it. Nothing is tuned at run time."""

# triton has no types
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import os

import torch
import triton


def sample_triplane(channels: int) -> dict[str, int]:
    """Points and channels of one program, which has 128 threads.

    Multiples of 16 channels are loaded by four: 1024 floats are two such loads for each thread. With 32 channels on
    sm_90 that takes 64 registers forward and 86 backward; twice the points would take 150 and 192, which leaves too few
    warps to hide the loads, and four times the points would spill. Other numbers of channels are loaded one by one,
    each with an address of its own: 1024 floats would spill. Registers were counted, time was not.
    """
    block_c = triton.next_power_of_2(channels)
    floats = 256 if channels % 16 else 1024
    return {"BLOCK_M": max(floats // block_c, 1), "BLOCK_C": block_c}


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def precision(dtype: torch.dtype) -> str:
    """How matrices are multiplied, if they are float32: on NVIDIA's tensor cores, as three products of tf32.

    Three products keep 21 bits of mantissa. AMD's matrix cores take float32 as it is. The interpreter multiplies the
    bits of bfloat16: there it is widened after it was rounded.
    """
    if dtype == torch.bfloat16 and interpreted():
        return "widened"
    return "ieee" if torch.version.hip or dtype != torch.float32 else "tf32x3"


def gradient_precision(dtype: torch.dtype) -> str:
    """How gradients are multiplied: they are float32, also where planes have half precision and 11 bits are enough."""
    return precision(torch.float32) if torch.version.hip or dtype == torch.float32 else "tf32"


def ptx() -> bool:
    """Whether kernels may hold PTX: NVIDIA's instructions, which Triton's interpreter does not know."""
    return torch.version.hip is None and not interpreted()


def render_rays() -> dict[str, int]:
    """Rays of one program, how many of their samples it takes at a time, and warps.

    64 rows are what four warps multiply at once on sm_90. With float16 planes and 48 + 48 samples a forward takes 87
    instructions a sample there, and 128 registers. Twice the rays: 93 and 198. 2 samples and 2 warps: 89 and 153; one
    of each, 142 and 188. 16384 rays make 1024 programs. Instructions were counted, time was not.
    """
    return {"BLOCK_R": 16, "SUB": 4, "num_warps": 4, "num_stages": 1}


def _per_row(row: int) -> int:
    """Rays of a program of 4 warps whose threads hold 8 numbers each."""
    return max(1024 // row, 1)


def _steps(count: int) -> int:
    """Steps of a bisection among ``count`` things: 0 to count of them are to be told apart."""
    return count.bit_length()


def draw(coarse: int, fine: int) -> dict[str, int]:
    """Rays of one program that places the fine samples, the padded rows, and steps of its bisection."""
    rows = {"BLOCK_S": triton.next_power_of_2(coarse), "BLOCK_F": triton.next_power_of_2(fine)}
    return {"BLOCK_R": _per_row(max(rows.values())), "STEPS": _steps(coarse - 2), **rows}


def march(fine: int, samples: int) -> dict[str, int]:
    """Rays of one program that marches, the padded row, and steps of its bisection."""
    row = triton.next_power_of_2(samples)
    return {"BLOCK_R": _per_row(row), "BLOCK_N": row, "STEPS": _steps(fine)}


def march_backward(samples: int) -> dict[str, int]:
    """Rays of one program that marches backwards, and the padded row."""
    row = triton.next_power_of_2(samples)
    return {"BLOCK_R": _per_row(row), "BLOCK_N": row}
