"""Block sizes of the Triton kernels, each with the reason for it. Nothing is tuned at run time."""

# triton has no types
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

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
