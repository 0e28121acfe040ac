"""Tri-plane sampling: what a point in the volume sees on three feature planes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import arrive_alike
from talk3d.ops.registry import Operator

__all__ = ["AXES", "PackedPlanes", "pack_planes", "sample_triplane"]

Axes = Literal["original", "zy", "yz"]

# For each plane, which coordinate runs along its width and which along its height (0 = x, 1 = y, 2 = z).
# The convention is baked into trained features; a checkpoint sampled with another one has no geometry.
AXES: dict[str, tuple[int, ...]] = {
    "original": (0, 1, 0, 2, 2, 0),  # EG3D, main branch: planes 1 and 2 both hold (x, z), one transposed
    "zy": (0, 1, 0, 2, 2, 1),  # Talk3D, and most community fixes
    "yz": (0, 1, 1, 2, 2, 0),  # EG3D, branch fixed_triplanes
}

_HALVES = (torch.float16, torch.bfloat16)

# Adding one plane to another, transposed, costs as much as the reads it saves at 8 points a texel (256 x 256 x 32,
# AVX-512); from twice as many on it is done for planes that were not packed.
_MERGE_POINTS_PER_TEXEL = 16


class PackedPlanes(NamedTuple):
    """Planes in the layout that the kernels read. Made by :func:`pack_planes`; its fields are not an interface.

    Those of :func:`talk3d.ops.border_planes` have no pairs: their order is the renderer's.
    """

    texels: Float[Tensor, "batch plane height width channel"]
    axes: Axes
    pairs: tuple[int, ...]


def pack_planes(planes: Float[Tensor, "batch 3 channel height width"], axes: Axes) -> PackedPlanes:
    """Bring planes into the kernels' layout once, so that many calls can use it.

    The texels become channels-last. For ``"original"``, whose planes 1 and 2 meet the same point ``(x, z)``, the two
    are added into one (exact: bilinear interpolation is linear in the texels), which saves a third of the reads.
    Differentiable.

    Args:
        planes: Feature planes ``[B, 3, C, H, W]``, any strides.
        axes: The convention the features were trained with: a key of :data:`AXES`.

    Raises:
        ValueError: If the shape is not ``[B, 3, C, H, W]`` or the convention is unknown.
    """
    _check_planes(planes, axes)
    pairs = AXES[axes]
    if axes == "original" and planes.shape[3] == planes.shape[4]:
        planes = torch.stack([planes[:, 0], planes[:, 1] + planes[:, 2].transpose(2, 3)], dim=1)
        pairs = pairs[:4]
    return PackedPlanes(_channels_last(planes), axes, pairs)


def sample_triplane(
    planes: Float[Tensor, "planes_batch 3 channel height width"] | PackedPlanes,
    points: Float[Tensor, "batch point 3"],
    *,
    box_warp: float,
    axes: Axes | None = None,
    reduce: Literal["mean", "none"] = "mean",
    impl: str | None = None,
) -> Float[Tensor, "batch point channel"] | Float[Tensor, "batch 3 point channel"]:
    r"""Project points onto three planes, interpolate there, and average (EG3D, section 3.2).

    A point is scaled by ``2 / box_warp``; each plane sees two of its coordinates, the first along the width, the second
    along the height, from -1 at the outer edge of the first texel to 1 at the outer edge of the last
    (``grid_sample`` with ``align_corners=False``). Texels outside count as zero, and the mean always divides by 3.
    So a point at infinity sees nothing; one that is not a number gives features that are not.

    Args:
        planes: Feature planes ``[B, 3, C, H, W]``, any strides (channels-last is the fast one), or packed planes.
            A batch of 1 is shared by all points without a copy.
        points: World coordinates ``[B, M, 3]``.
        box_warp: Side of the cube that the planes cover, in world units.
        axes: The convention of the planes: a key of :data:`AXES`. Packed planes know theirs.
        reduce: ``"mean"`` over the planes, or ``"none"``.
        impl: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Features ``[B, M, C]``, or ``[B, 3, M, C]`` with ``reduce="none"``.

    Raises:
        ValueError: On wrong shapes, types, devices or options; with the name and shape of the argument.

    Note:
        Differentiable once, to planes and points.

    Example:
        >>> planes = torch.ones(1, 3, 2, 4, 4)
        >>> sample_triplane(planes, torch.zeros(1, 1, 3), box_warp=1.0, axes="zy").round(decimals=4)
        tensor([[[1., 1.]]])
    """
    if reduce not in ("mean", "none"):
        raise ValueError(f"reduce must be 'mean' or 'none', got {reduce!r}")
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"points must have the shape [batch, points, 3], got {list(points.shape)}")
    if not box_warp > 0:
        raise ValueError(f"box_warp must be positive, got {box_warp}")
    texels, pairs = _texels(planes, axes, points, merge=reduce == "mean" and impl != "reference")
    if reduce == "none" and len(pairs) != 6:
        raise ValueError("reduce='none' needs three planes: packing merged two of these ('original'); pass the tensor")
    features: Tensor = _forward(texels, points.contiguous(), list(pairs), 2 / box_warp, reduce == "mean", impl=impl)
    return features


def _texels(
    planes: Tensor | PackedPlanes, axes: Axes | None, points: Tensor, *, merge: bool, renders: bool = False
) -> tuple[Tensor, tuple[int, ...]]:
    """Channels-last texels and coordinate pairs for a call that samples at ``points`` ``[B, M, ...]``.

    What ``renders`` takes planes of 16 bits for points in float32, and planes with a border, which have no pairs.
    """
    if isinstance(planes, PackedPlanes):
        if axes not in (None, planes.axes):
            raise ValueError(f"axes is {axes!r}, but the planes were packed as {planes.axes!r}")
        texels, pairs = planes.texels, planes.pairs
        if not pairs and not renders:
            raise ValueError("planes with a border (border_planes) are for render_rays: pack them with pack_planes")
    else:
        if axes is None:
            raise ValueError(f"axes is needed with a tensor of planes: one of {', '.join(AXES)}")
        _check_planes(planes, axes)
        if planes.shape[0] > 1 and planes.stride(0) == 0:
            planes = planes[:1]  # an expanded batch is one set of planes
        per_texel = points.shape[0] * points.shape[1] >= _MERGE_POINTS_PER_TEXEL * planes.shape[3] * planes.shape[4]
        if merge and axes == "original" and planes.shape[3] == planes.shape[4] and per_texel:
            texels, _, pairs = pack_planes(planes, axes)
        else:
            texels, pairs = _channels_last(planes), AXES[axes]
    if texels.shape[0] not in (1, points.shape[0]):
        raise ValueError(f"planes have a batch of {texels.shape[0]}, the points or rays one of {points.shape[0]}")
    halves = renders and points.dtype == torch.float32 and texels.dtype in _HALVES
    if not (halves or arrive_alike(texels, points)) or texels.device != points.device:
        raise ValueError(
            f"planes ({texels.dtype}, {texels.device}) and points or rays ({points.dtype}, {points.device}) "
            "must have one type and one device"
        )
    return texels, pairs


def _check_planes(planes: Tensor, axes: str) -> None:
    if axes not in AXES:
        raise ValueError(f"axes must be one of {', '.join(AXES)}, got {axes!r}")
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"planes must have the shape [batch, 3, channels, height, width], got {list(planes.shape)}")
    if not planes.dtype.is_floating_point or 0 in planes.shape:
        raise ValueError(f"planes must be floating-point and not empty, got {planes.dtype} {list(planes.shape)}")


def _channels_last(planes: Tensor) -> Tensor:
    return planes.permute(0, 1, 3, 4, 2).contiguous()


def _fake_forward(planes, points, pairs, scale, mean):  # type: ignore[no-untyped-def]
    batch, count, _ = points.shape
    shape = (batch, count) if mean else (batch, len(pairs) // 2, count)
    return points.new_empty(*shape, planes.shape[4])


def _fake_backward(d_features, planes, points, pairs, scale, mean, needs_planes, needs_points):  # type: ignore[no-untyped-def]
    return (
        torch.empty_like(planes) if needs_planes else planes.new_empty(0),
        torch.empty_like(points) if needs_points else points.new_empty(0),
    )


_forward = Operator(
    "sample_triplane(Tensor planes, Tensor points, int[] pairs, float scale, bool mean) -> Tensor", fake=_fake_forward
)
_backward = Operator(
    "sample_triplane_backward(Tensor d_features, Tensor planes, Tensor points, int[] pairs, float scale, bool mean,"
    " bool needs_planes, bool needs_points) -> (Tensor, Tensor)",
    fake=_fake_backward,
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[2:]


def _differentiate(ctx, d_features):  # type: ignore[no-untyped-def]
    needs = ctx.needs_input_grad[:2]
    grads = _backward(d_features.contiguous(), *ctx.saved_tensors, *ctx.options, *needs, impl=ctx.impl)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


_forward.differentiate(_save, _differentiate)
_backward.refuse_derivative("sample_triplane is differentiable once; for more, use talk3d.reference.triplane.forward")


def _float32(*arguments: object) -> str | None:
    planes = next(tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.ndim == 5)
    return None if planes.dtype == torch.float32 else f"it takes float32, not {planes.dtype}"


def _compiled(*arguments: object) -> str | None:
    planes = next(tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.ndim == 5)
    if planes.shape[2] * planes.shape[3] > 2**24:  # it computes the number of a texel in float32
        return f"it takes planes of at most 2^24 texels, not {planes.shape[2]} x {planes.shape[3]}"
    return _float32(*arguments)


for _operator, _function in ((_forward, "forward"), (_backward, "backward")):
    _operator.implement("cpu", supports=_compiled)
    _operator.implement("cuda", supports=_compiled)
    _operator.implement("triton", f"talk3d.kernels.triplane:{_function}", supports=_float32)
    _operator.implement("reference", f"talk3d.reference.triplane:{_function}")
