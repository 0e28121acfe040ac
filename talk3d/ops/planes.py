"""Planes that move: an identity's and each frame's delta, added in the layout that the CUDA renderer reads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.registry import Operator
from talk3d.ops.triplane import _HALVES, AXES, Axes, PackedPlanes, _check_planes

__all__ = ["add_planes", "border_planes"]


def border_planes(
    planes: Float[Tensor, "batch 3 channel size size"], axes: Axes, *, impl: str | None = None
) -> PackedPlanes:
    """Bring planes into the CUDA renderer's layout once: channels-last, of ``(x, y)``, ``(x, z)`` and ``(z, y)``.

    A border of zeros, one texel wide, is around each. Of planes that see the same coordinates one is added to the
    other. :func:`talk3d.ops.render_rays` takes them: ``"cuda"`` as they are, ``"triton"`` and ``"reference"`` by
    cutting the border off. They are for inference.

    Args:
        planes: Feature planes ``[B, 3, C, R, R]`` of float32 or float16, any strides.
        axes: The convention the features were trained with: a key of :data:`talk3d.ops.AXES`.
        impl: See :func:`add_planes`.

    Raises:
        ValueError: On a wrong shape or type, and an unknown convention.
    """
    _check_planes(planes, axes)
    if planes.dtype == torch.bfloat16:
        raise ValueError("border_planes takes float32 or float16: as float16 bfloat16 keeps its 8 bits")
    side = planes.shape[3] + 2
    zeros = planes.new_zeros(1, 2 if axes == "original" else 3, side, side, planes.shape[2])
    return add_planes(PackedPlanes(zeros, axes, ()), planes, impl=impl)


def add_planes(
    planes: PackedPlanes, delta: Float[Tensor, "batch 3 channel size size"], *, impl: str | None = None
) -> PackedPlanes:
    """Add what moves planes to them: read once, written once, in the renderer's layout.

    Args:
        planes: What :func:`border_planes` made; a batch of 1 is shared by all frames.
        delta: Of each frame ``[B, 3, C, R, R]``, float32, float16 or bfloat16, any strides. Channels-last plane by
            plane, as the U-Net leaves it, it is not copied.
        impl: ``"cuda"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Planes with a border, of the type of ``planes``: sums are taken in float32 and rounded once.

    Raises:
        ValueError: On planes without a border, and wrong shapes, types or devices.

    Note:
        Not differentiable: training adds planes before it packs them.

    Example:
        >>> still = border_planes(torch.ones(1, 3, 2, 4, 4), "zy")
        >>> add_planes(still, torch.ones(1, 3, 2, 4, 4)).texels[0, 0, 0:2, 1, 0]
        tensor([0., 2.])
    """
    if planes.pairs:
        raise ValueError("planes must have a border: make them with border_planes")
    _check_planes(delta, planes.axes)
    texels = planes.texels
    batch, _, channels, size, width = delta.shape
    if size != width or texels.shape[2:] != (size + 2, size + 2, channels) or texels.shape[0] not in (1, batch):
        raise ValueError(f"delta {list(delta.shape)} must be square and fit planes with a border {list(texels.shape)}")
    if texels.device != delta.device:
        raise ValueError(f"planes ({texels.device}) and delta ({delta.device}) must be on one device")
    rows = delta.permute(0, 1, 3, 4, 2)  # [B, 3, R, R, C]
    if not rows[0, 0].is_contiguous():
        rows = rows.contiguous()
    return planes._replace(texels=_add_planes(texels, rows, list(AXES[planes.axes]), impl=impl))


def _fake(planes, delta, pairs):  # type: ignore[no-untyped-def]
    return planes.new_empty(len(delta), *planes.shape[1:])


_add_planes = Operator("add_planes(Tensor planes, Tensor delta, int[] pairs) -> Tensor", fake=_fake)
_add_planes.refuse_derivative("it is for inference; add planes first, and pack them with pack_planes")


def _cuda(planes: Tensor, delta: Tensor, pairs: list[int]) -> str | None:
    if planes.dtype not in (torch.float32, torch.float16) or delta.dtype not in (torch.float32, *_HALVES):
        return f"it takes float32 or float16, and a delta of these or bfloat16, not {planes.dtype} and {delta.dtype}"
    if delta.shape[4] != 32 or delta.shape[2] > 4096:
        return f"it takes planes of 32 channels and at most 4096 x 4096 texels, not {list(delta.shape)}"
    in_16_bytes = 16 // delta.element_size()
    if delta.data_ptr() % 16 or planes.data_ptr() % 16 or any(step % in_16_bytes for step in delta.stride()[:2]):
        return "it takes planes that begin at multiples of 16 bytes"
    return None


_add_planes.implement("cuda", supports=_cuda)
_add_planes.implement("reference", "talk3d.reference.planes:add_planes")
