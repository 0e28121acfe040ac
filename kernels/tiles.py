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


# what 128 threads load at once in half precision, 16 bytes each: float32 takes two such loads
ELEMENTWISE = 1024


def bias_act(columns: int) -> dict[str, int]:
    """Rows and columns of one program, which has 128 threads: as many whole rows as make up what they load at once."""
    block_c = min(triton.next_power_of_2(columns), ELEMENTWISE)
    return {"BLOCK_R": ELEMENTWISE // block_c, "BLOCK_C": block_c}


def resample(channels: int, last: bool, up: list[int], down: list[int]) -> dict[str, int]:
    """Rows and columns of groups of one program, and its channels.

    Each of 128 threads loads 8 numbers of a sample at once, 16 bytes in half precision, and holds the sums of 4 results
    of them: 4 rows below one another, in which a sample of a 4 x 4 filter is loaded 1.75 times instead of 4, or the
    2 x 2 results of a doubling. Instructions and registers were counted (docs/kernels/resample_triton.md), time was
    not.
    """
    rows = max(4 // (up[0] * up[1]), 1)
    rows = min(rows, 2) if down[1] > 1 else rows
    block_c = min(triton.next_power_of_2(channels), 64) if last else 1
    return {"ROWS": rows, "TILE_W": min(ELEMENTWISE // block_c, 256), "BLOCK_C": block_c}


def _keys(tokens: int, heads: int) -> dict[str, int]:
    """Heads and tokens, each padded to a power of two, together at least the 16 that tensor cores multiply."""
    padded = triton.next_power_of_2(heads)
    return {"HEADS": padded, "TOKENS": max(triton.next_power_of_2(tokens), 16 // padded)}


def token_attention(width: int, tokens: int, heads: int, *, many: bool) -> dict[str, int]:
    """Texels of one program that attends, their padded channels, and what they attend to.

    A texel lies in the registers of the program whole: of 16 texels with 256 channels a thread holds 32 numbers, or 16
    with ``many`` warps, which backwards and in float32 are still too many. One frame's 3 x 1024 texels make 192
    programs; with 32 at a time a quarter of 132 multiprocessors would have no work.
    """
    block_d = max(triton.next_power_of_2(width), 16)
    longest = max(block_d, *_keys(tokens, heads).values())
    block_n = max(min(4096 // longest, 64), 16)
    return {**_keys(tokens, heads), "BLOCK_N": block_n, "BLOCK_D": block_d, "num_warps": 8 if many else 4}


def fold_tokens(width: int, tokens: int, heads: int, head_width: int) -> dict[str, int]:
    """Channels of one program that folds, for one head of one sample, and what it loops over at a time."""
    keys = _keys(tokens, heads)
    return {
        **keys, "BLOCK_T": max(keys["TOKENS"], 16), "BLOCK_E": 64,
        "BLOCK_W": max(triton.next_power_of_2(head_width), 16),
        "BLOCK_D": min(max(triton.next_power_of_2(width), 16), 64),
    }  # fmt: skip


def group_norm(texels: int, channels: int, groups: int) -> dict[str, int]:
    """Padded groups and their padded channels, texels at a time, and the parts that statistics are first made of.

    At most 64 parts of 256 texels or more: a plane of 256 x 256 gives 192 programs work, and adding up 64 parts for
    each block of 2048 numbers costs less than a launch.
    """
    width = channels // groups
    padded_groups, padded = triton.next_power_of_2(groups), triton.next_power_of_2(width)
    block_n = max(2 * ELEMENTWISE // (padded_groups * padded), 1)
    part = triton.next_power_of_2(max(triton.cdiv(texels, 64), 256, block_n))
    return {
        "WIDTH": width, "GROUPS": padded_groups, "PADDED": padded, "PARTS": triton.cdiv(texels, part), "PART": part,
        "BLOCK_N": block_n,
    }  # fmt: skip


def rollout_pool(size: int, channels: int) -> dict[str, int]:
    """Texels that one program, which has 128 threads, adds up at a time, and their channels.

    A program has one row or column of one plane: 1536 of them for planes of 256 x 256.
    """
    block_c = min(triton.next_power_of_2(channels), 64)
    return {"BLOCK_R": min(ELEMENTWISE // block_c, triton.next_power_of_2(size)), "BLOCK_C": block_c}


def rollout_response(channels: int, out: int) -> dict[str, int]:
    """Positions, channels in and channels out of one program that convolves a profile, each at least 16 for ``dot``.

    It keeps three products of 16 x 32 numbers. One frame's 6 profiles of 128 positions to 64 channels are 96 programs.
    """
    return {
        "BLOCK_R": 16,
        "BLOCK_C": min(max(triton.next_power_of_2(channels), 16), 64),
        "BLOCK_O": min(max(triton.next_power_of_2(out), 16), 32),
    }


def rollout_add(channels: int) -> dict[str, int]:
    """Texels of a row and channels of one program that adds: 8 numbers for each of its 128 threads."""
    block_c = min(triton.next_power_of_2(channels), 64)
    return {"BLOCK_W": ELEMENTWISE // block_c, "BLOCK_C": block_c}


def _product(dtype: torch.dtype) -> dict[str, int]:
    """Rows, columns and stages of one program that multiplies matrices step by step.

    64 rows are what four warps multiply at once on sm_90. float32 is three products of tf32: with 64 columns it would
    spill, and with three stages want more than the 99 KiB of shared memory that most GPUs have.
    """
    few = dtype == torch.float32
    return {"rows": 64, "columns": 32 if few else 64, "num_warps": 4, "num_stages": 2 if few else 3}


def grouped(channels: int, out: int, dtype: torch.dtype) -> dict[str, int]:
    """Texels, channels in and channels out of one program of a 3 x 3 convolution, each at least 16 for ``dot``.

    In 16 bits the coarsest level of one frame, 3 x 1024 texels to 128 channels, is 96 programs, and the finest,
    3 x 65536 to 32, is 3072.
    """
    product = _product(dtype)
    rows, columns = product.pop("rows"), product.pop("columns")
    return {
        "BLOCK_N": rows,
        "BLOCK_C": min(max(triton.next_power_of_2(channels), 16), 64),
        "BLOCK_O": min(max(triton.next_power_of_2(out), 16), columns),
        **product,
    }


def plane_linear(width: int, out: int, dtype: torch.dtype) -> dict[str, int]:
    """Rows, channels in at a time and channels out of one program, each at least 16 for ``dot``.

    In 16 bits one frame's 3 x 1024 texels to 256 channels are 192 programs, to 1024 gated ones 768.
    """
    product = _product(dtype)
    rows, columns = product.pop("rows"), product.pop("columns")
    return {
        "BLOCK_N": rows,
        "BLOCK_D": min(max(triton.next_power_of_2(width), 16), 64),
        "BLOCK_O": min(max(triton.next_power_of_2(out), 16), columns),
        **product,
    }


def act_rgb(channels: int) -> dict[str, int]:
    """Pixels of one program, and their padded channels: 16 numbers for each of its 128 threads, or 8 of 1024 channels.

    A pixel's channels are added up over the threads that hold them: of two pixels or more in a program none does alone.
    """
    block_c = max(triton.next_power_of_2(channels), 16)
    return {"BLOCK_N": max(2 * ELEMENTWISE // block_c, 2), "BLOCK_C": block_c}


RAYS = 128  # a ray for each thread of a program


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def result(dtype: torch.dtype) -> torch.dtype:
    """The type that kernels write results of a type in.

    Triton's interpreter (3.6) cuts float32 off where it should round it to bfloat16: there torch does the rounding.
    """
    return torch.float32 if dtype == torch.bfloat16 and interpreted() else dtype


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
