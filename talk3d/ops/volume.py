"""Volume rendering: what a camera sees of a tri-plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from talk3d.ops.checks import require_alike
from talk3d.ops.registry import Operator
from talk3d.ops.triplane import _HALVES, AXES, Axes, PackedPlanes, _check_planes, _texels
from talk3d.profiling import annotate

__all__ = ["Decoder", "RenderOptions", "Rendered", "render_rays"]

Decoder = tuple[Tensor, Tensor, Tensor, Tensor]

_MOST_SAMPLES = 2**15  # of a ray, which kernels count in 32 bits
# importance sampling smooths over neighbours and drops both ends: four coarse samples leave one bin
_FEWEST_COARSE_FOR_FINE = 4


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """How rays are marched. The defaults are EG3D's for faces (ffhq512-128).

    Attributes:
        axes: Plane convention, a key of :data:`talk3d.ops.AXES`.
        near: Distance of the first sample along the ray in world units, or ``"auto"``: where the ray enters the box.
        far: Distance of the last sample, or ``"auto"``: where the ray leaves the box, less one interval unless
            ``coupled``, so that jitter moves no sample out of it. Both are auto, or neither.
        coarse: Samples of the first pass, evenly spaced.
        fine: Samples of the second pass, drawn where the first found density. 0 leaves it out.
        disparity: Space the coarse samples evenly in 1/depth.
        box_warp: Side of the cube that the planes cover, in world units.
        white_back: Composite over white instead of black.
        min_weight: Colour may be left out where both neighbouring intervals weigh at most this. 0 is exact; otherwise
            a feature is off by at most ``2 * (coarse + fine) * min_weight``, twice as its range is doubled.
        clamp_depth: Give a ray that meets nothing the depth of its last sample; otherwise its depth is infinite.
        coupled: ``"none"`` makes each ray independent. ``"published"`` reproduces two rules by which rays of one call
            depend on each other in the published code: auto limits of rays that miss the box are taken from those
            that hit it, and depth is clamped to the range of all sample depths in the call.
    """

    axes: Axes
    near: float | Literal["auto"] = 2.25
    far: float | Literal["auto"] = 3.3
    coarse: int = 48
    fine: int = 48
    disparity: bool = False
    box_warp: float = 1.0
    white_back: bool = False
    min_weight: float = 0.0
    clamp_depth: bool = True
    coupled: Literal["none", "published"] = "none"

    def __post_init__(self) -> None:
        if self.axes not in AXES:
            raise ValueError(f"axes must be one of {', '.join(AXES)}, got {self.axes!r}")
        if (self.near == "auto") != (self.far == "auto"):
            raise ValueError(f"near and far are both 'auto' or both numbers, got {self.near!r} and {self.far!r}")
        if self.near != "auto" and self.far != "auto" and not self.near < self.far < float("inf"):
            raise ValueError(f"near must be less than far, and both finite, got {self.near} and {self.far}")
        if self.disparity and self.near != "auto" and not self.near > 0:
            raise ValueError(f"near must be positive with disparity spacing, got {self.near}")
        if self.coarse + self.fine > _MOST_SAMPLES:
            raise ValueError(f"coarse and fine must not exceed {_MOST_SAMPLES}, got {self.coarse} and {self.fine}")
        if self.coarse < 2 or self.fine < 0 or (self.fine and self.coarse < _FEWEST_COARSE_FOR_FINE):
            raise ValueError(
                f"coarse must be at least 2 ({_FEWEST_COARSE_FOR_FINE} with fine samples) and fine at least 0, "
                f"got {self.coarse} and {self.fine}"
            )
        if not self.box_warp > 0 or not self.min_weight >= 0:
            raise ValueError(
                f"box_warp must be positive and min_weight not negative, got {self.box_warp} and {self.min_weight}"
            )
        if self.coupled not in ("none", "published"):
            raise ValueError(f"coupled must be 'none' or 'published', got {self.coupled!r}")


class Rendered(NamedTuple):
    """What the rays see.

    Attributes:
        features: ``[B, R, D]`` in the published range, -1 (nothing) to about 1; the first three are red, green, blue.
        depth: Mean distance along the ray ``[B, R]``, in world units.
        weight: Opacity of the ray ``[B, R]``, 0 to 1.
    """

    features: Float[Tensor, "batch ray channel"]
    depth: Float[Tensor, "batch ray"]
    weight: Float[Tensor, "batch ray"]


class _Settings(NamedTuple):
    """The numbers of the schema's ``float[] settings``, in their order; every implementation unpacks them so."""

    scale: float  # world to plane coordinates: 2 / box_warp
    hidden: float  # width of the decoder's hidden layer
    coarse: float
    fine: float
    disparity: float
    white_back: float
    clamp_depth: float
    min_weight: float


def render_rays(
    planes: Float[Tensor, "planes_batch 3 channel height width"] | PackedPlanes,
    decoder: Decoder,
    origins: Float[Tensor, "batch ray 3"],
    directions: Float[Tensor, "batch ray 3"],
    options: RenderOptions,
    *,
    jitter: Float[Tensor, "batch ray coarse"] | None = None,
    u: Float[Tensor, "batch ray fine"] | None = None,
    impl: str | None = None,
) -> Rendered:
    r"""Render rays through a tri-plane: sample, decode, importance-sample, composite (EG3D, sections 3.2 and 4).

    Coarse samples lie at :math:`t_k = near + (k + jitter_k)\,\Delta`. Their weights, smoothed, are the density from
    which fine samples are drawn by inverting its cumulative distribution at ``u``. All samples together are marched
    with the midpoint rule: between neighbours the raw density :math:`s` and the colour are averaged, and

    .. math:: \alpha_k = 1 - e^{-\mathrm{softplus}(s_k - 1)\,\delta_k}, \qquad w_k = \alpha_k \prod_{j<k} (1 - \alpha_j)

    The decoder takes the mean of the three plane features to a softplus layer, then to a density and 32 colours
    ``1.002 sigmoid - 0.001``.

    Args:
        planes: Feature planes ``[B, 3, C, H, W]``, any strides (channels-last is the fast one), or packed planes.
            A batch of 1 is shared by all cameras without a copy. Their type is that of the rays; or, with rays and
            decoder in float32, float16 or bfloat16: everything else still happens in float32, or is as accurate as the
            planes are (``"cuda"``, whose tensor cores multiply numbers of 16 bits: one or, for float32, two of them).
        decoder: ``(w0 [K, C], b0 [K], w1 [1 + D, K], b1 [1 + D])`` with the run-time gains already applied; row 0
            of the second layer is density. The fast implementations want C = 32, K = 64, D = 32.
        origins: Camera position of each ray ``[B, R, 3]``, world units.
        directions: Unit directions ``[B, R, 3]``; depths are distances along them.
        options: See :class:`RenderOptions`.
        jitter: Where each coarse sample lies in its stratum ``[B, R, coarse]``, in [0, 1). None means 0.5 everywhere:
            a frame depends on nothing but its inputs.
        u: Quantiles of the fine samples ``[B, R, fine]``, in [0, 1), in any order. None means ``(k + 0.5) / fine``.
        impl: ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"reference"``; by default the fastest that accepts the inputs.

    Returns:
        Features, depth and weight of each ray.

    Raises:
        ValueError: On wrong shapes, types or devices; with the name and shape of the argument.

    Note:
        Differentiable once, to planes, decoder, origins and directions. As in the published code sample depths are
        constants, but the positions they lead to are not. The backward recomputes; it keeps two numbers per sample.
        A ray that misses the box has features -1 (or 1 over white), weight 0 and zero gradients.
        With ``torch.use_deterministic_algorithms`` the gradients that ``"cuda"`` finds are the same bits every time, at
        the price of a second look and of 8 bytes a channel of the planes.
    """
    hidden = _check(planes, decoder, origins, directions, options.axes)
    jitter = _check_noise("jitter", jitter, origins, options.coarse)
    u = _check_noise("u", u, origins, options.fine) if options.fine else None
    with annotate("render"):
        rays = torch.cat([origins, directions, _limits(origins, directions, options)], dim=2)
        flat = torch.cat([part.flatten() for part in decoder])
        return _render(planes, (flat, hidden), rays, (jitter, u), options, impl)


def _render(
    planes: Tensor | PackedPlanes,
    decoder: tuple[Tensor, int],
    rays: Tensor,
    noise: tuple[Tensor | None, Tensor | None],
    options: RenderOptions,
    impl: str | None,
) -> Rendered:
    """Render with a decoder in one piece and the width of its hidden layer, and rays with limits ``[B, R, 8]``."""
    published = options.coupled == "published"
    settings = _Settings(
        2 / options.box_warp,
        decoder[1],
        options.coarse,
        options.fine,
        options.disparity,
        options.white_back,
        options.clamp_depth and not published,
        options.min_weight,
    )
    texels, pairs = _texels(planes, options.axes, rays, merge=False, renders=True)
    numbers = [float(number) for number in settings]
    features, depth, weight, depths, _ = _forward(texels, decoder[0], rays, *noise, list(pairs), numbers, impl=impl)
    if published and options.clamp_depth and depths.numel():
        depth = depth.clamp(depths.min(), depths.max())
    return Rendered(features, depth, weight)


def _limits(origins: Tensor, directions: Tensor, options: RenderOptions) -> Tensor:
    """Near and far of each ray ``[B, R, 2]``; constants for the derivative."""
    if options.near != "auto" and options.far != "auto":
        # not a tensor of both, which would be copied from the host: a GPU would be waited for, and no graph captured
        ends = [origins.new_full((1, 1, 1), end) for end in (options.near, options.far)]
        return torch.cat(ends, dim=2).expand(*origins.shape[:2], 2)
    origins, directions = origins.detach(), directions.detach()
    inverse = 1 / directions
    faces = torch.stack([-options.box_warp / 2 - origins, options.box_warp / 2 - origins]) * inverse  # [2, B, R, 3]
    near = faces.amin(0).nan_to_num(-torch.inf).amax(-1)  # nan: the ray runs within a face, which bounds nothing
    far = faces.amax(0).nan_to_num(torch.inf).amin(-1)
    if options.coupled == "published":
        hits = far > near
        keep = hits | ~hits.any()  # with no hit at all, there is nobody to take limits from
        if near.numel():
            lowest, highest = near.where(hits, torch.inf).min(), near.where(hits, -torch.inf).max()  # of near, both
            near, far = near.where(keep, lowest), far.where(keep, highest)
    else:
        nearest = 1e-3 * options.box_warp  # not behind the camera, nor at it: disparity divides by near
        near = near.clamp(min=nearest)
        # a ray that misses has all its samples in one place, where it passes the centre: no interval, no weight
        passing = -(origins * directions).sum(-1).clamp(max=-nearest)
        misses = near >= far
        near, far = near.where(~misses, passing), far.where(~misses, passing)
        # a sample lies up to an interval behind its place, and beyond the box is what planes fade into, not the scene
        far = near + (far - near) * (1 - 1 / options.coarse)
    return torch.stack([near, far], dim=-1)


def _check(planes: Tensor | PackedPlanes, decoder: Decoder, origins: Tensor, directions: Tensor, axes: Axes) -> int:
    """Check shapes and types that the operator relies on; returns the width of the hidden layer."""
    if isinstance(planes, PackedPlanes):
        channels = planes.texels.shape[4]
    else:
        _check_planes(planes, axes)  # before the decoder is held against their channels
        channels = planes.shape[2]
    if origins.ndim != 3 or origins.shape[2] != 3:
        raise ValueError(f"origins must have the shape [batch, rays, 3], got {list(origins.shape)}")
    if directions.shape != origins.shape:
        raise ValueError(f"directions {list(directions.shape)} must have the shape of origins {list(origins.shape)}")
    if len(decoder) != 4:
        raise ValueError(f"decoder must be four tensors (w0, b0, w1, b1), got {len(decoder)}")
    w0, b0, w1, b1 = decoder
    shapes = [list(part.shape) for part in decoder]
    fits = w0.ndim == 2 and w1.ndim == 2 and w0.shape[1] == channels and w1.shape[1] == w0.shape[0]
    if not (fits and w1.shape[0] > 1 and shapes[1] == [w0.shape[0]] and shapes[3] == [w1.shape[0]]):
        raise ValueError(
            f"decoder must be w0 [K, {channels}], b0 [K], w1 [1 + D, K], b1 [1 + D] for planes of {channels} channels, "
            f"got {shapes}"
        )
    for name, tensor in (("directions", directions), *zip(("w0", "b0", "w1", "b1"), decoder, strict=True)):
        require_alike(name, tensor, origins, "origins")
    return w0.shape[0]


def _check_noise(name: str, noise: Tensor | None, origins: Tensor, count: int) -> Tensor | None:
    if noise is None:
        return None
    shape = [*origins.shape[:2], count]
    if list(noise.shape) != shape or noise.dtype != origins.dtype or noise.device != origins.device:
        raise ValueError(
            f"{name} must have the shape {shape} and be {origins.dtype} on {origins.device}, "
            f"got {list(noise.shape)}, {noise.dtype} on {noise.device}"
        )
    return noise.contiguous()


def _fake_forward(planes, decoder, rays, jitter, u, pairs, settings):  # type: ignore[no-untyped-def]
    s = _Settings(*settings)
    samples, outputs = int(s.coarse + s.fine), _outputs(planes, decoder, s)
    return tuple(rays.new_empty(*rays.shape[:2], *last) for last in ((outputs,), (), (), (samples,), (samples - 1,)))


def _outputs(planes: Tensor, decoder: Tensor, settings: _Settings) -> int:
    hidden = int(settings.hidden)
    return (decoder.shape[0] - hidden * (planes.shape[4] + 1)) // (hidden + 1) - 1


def _fake_backward(grads, saved, pairs, settings, needs):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) if n else t.new_empty(0) for t, n in zip(saved[:3], needs[:3], strict=True))


_forward = Operator(
    "render_rays(Tensor planes, Tensor decoder, Tensor rays, Tensor? jitter, Tensor? u, int[] pairs, float[] settings)"
    " -> (Tensor features, Tensor depth, Tensor weight, Tensor depths, Tensor transmittance)",
    fake=_fake_forward,
)
_backward = Operator(
    # grads: of features, depth and weight. saved: planes, decoder, rays, depths, transmittance. needs: the first three,
    # and, if there is a fourth and it is true, sums that come out the same however threads take turns.
    "render_rays_backward(Tensor[] grads, Tensor[] saved, int[] pairs, float[] settings, bool[] needs)"
    " -> (Tensor d_planes, Tensor d_decoder, Tensor d_rays)",
    fake=_fake_backward,
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*inputs[:3], *output[3:])
    ctx.options = inputs[5:]


def _differentiate(ctx, d_features, d_depth, d_weight, *_):  # type: ignore[no-untyped-def]
    if not ctx.options[0]:
        raise NotImplementedError("planes with a border are for inference: for gradients pack them with pack_planes")
    grads = [grad.contiguous() for grad in (d_features, d_depth, d_weight)]
    needs = list(ctx.needs_input_grad[:3])
    in_order = [True] if torch.are_deterministic_algorithms_enabled() else []
    with annotate("render.bwd"):
        found = _backward(grads, list(ctx.saved_tensors), *ctx.options, needs + in_order, impl=ctx.impl)
    return *(grad if need else None for grad, need in zip(found, needs, strict=True)), None, None, None, None


_forward.differentiate(_save, _differentiate)
_backward.refuse_derivative("render_rays is differentiable once; for more, use talk3d.reference.volume.forward")


def _border(impl: str, pairs: list[int]) -> str | None:
    return "it takes planes without a border" if impl == "cpu" and not pairs else None


def _few_texels(planes: Tensor) -> str | None:
    if planes.shape[2] * planes.shape[3] > 2**24:  # the number of a texel is a float32, that of a channel an int32
        return f"it takes planes of at most 2^24 texels, not {planes.shape[2]} x {planes.shape[3]}"
    return None


def _published_size(planes: Tensor, decoder: Tensor, numbers: list[float]) -> str | None:
    settings = _Settings(*numbers)
    sizes = planes.shape[4], int(settings.hidden), _outputs(planes, decoder, settings)
    return None if sizes == (32, 64, 32) else f"it is built for a decoder 32 -> 64 -> 1 + 32, not {sizes}"


def _cpu(planes: Tensor, decoder: Tensor, numbers: list[float], _: list[bool] | None = None) -> str | None:
    if planes.dtype != torch.float32:
        return f"it takes float32, not {planes.dtype}"
    return _few_texels(planes) or _published_size(planes, decoder, numbers)


# Shared memory of the CUDA kernels in bytes: what a block needs beside its 64 rays, 3 planes of 16 bits or of float32.
_SHARED = {"forward": (23952, 42512), "planes": (26272, 43312), "all": (104592, 121632)}
_SMALLEST_SHARED = 99 * 1024  # that any GPU gives a block: compute capability 8.6, 8.9 and 12.0


def _shared_bytes(kind: str, coarse: int, fine: int, dtype: torch.dtype) -> int:
    """What a block takes, with the floats of its rays: depths and weights, or densities and shares of colours."""
    longest = coarse + max(coarse, fine) + 4 if kind == "forward" else 2 * (coarse + fine + 1)
    return _SHARED[kind][dtype == torch.float32] + 64 * 4 * (longest + 1)


def _cuda(planes: Tensor, decoder: Tensor, numbers: list[float], needs: list[bool] | None = None) -> str | None:
    if planes.dtype not in (torch.float32, *_HALVES) or decoder.dtype != torch.float32:
        return (
            "it takes planes of float32, float16 or bfloat16, and float32 otherwise, "
            f"not {planes.dtype} and {decoder.dtype}"
        )
    if planes.shape[2] != planes.shape[3] or planes.shape[2] > 4096:
        return f"it takes square planes of at most 4096 x 4096 texels, not {planes.shape[2]} x {planes.shape[3]}"
    if planes.is_cuda and (capability := torch.cuda.get_device_capability(planes.device)) < (8, 0):
        return f"it needs compute capability 8.0, and this GPU has {capability[0]}.{capability[1]}"
    settings = _Settings(*numbers)
    kind = "forward" if needs is None else "all" if any(needs[1:]) else "planes"
    room = _SMALLEST_SHARED
    if planes.is_cuda:
        properties: Any = torch.cuda.get_device_properties(planes.device)  # whose stub lacks this one
        room = max(room, properties.shared_memory_per_block_optin)
    if _shared_bytes(kind, int(settings.coarse), int(settings.fine), planes.dtype) > room:
        return (
            f"its shared memory of {room // 1024} KiB is too small for {settings.coarse:.0f} coarse and "
            f"{settings.fine:.0f} fine samples{', with gradients of decoder or rays' if kind == 'all' else ''}"
        )
    return _published_size(planes, decoder, numbers)


def _triton(planes: Tensor, decoder: Tensor, numbers: list[float], _: list[bool] | None = None) -> str | None:
    if planes.dtype not in (torch.float32, *_HALVES):
        return f"it takes float32, float16 or bfloat16, not {planes.dtype}"
    settings = _Settings(*numbers)
    if settings.coarse + settings.fine > 1024:  # it holds a ray in the registers of 4 warps
        return f"it takes at most 1024 samples a ray, not {int(settings.coarse + settings.fine)}"
    return _few_texels(planes) or _published_size(planes, decoder, numbers)


for _impl, _module, _supports in (("cpu", None, _cpu), ("cuda", None, _cuda), ("triton", "talk3d.kernels", _triton)):
    _forward.implement(
        _impl,
        _module and f"{_module}.volume:forward",
        supports=lambda planes, decoder, *rest, name=_impl, check=_supports: (
            _border(name, rest[-2]) or check(planes, decoder, rest[-1])
        ),
    )
    _backward.implement(
        _impl,
        _module and f"{_module}.volume:backward",
        supports=lambda grads, saved, pairs, settings, needs, check=_supports: check(*saved[:2], settings, needs),
    )
_forward.implement("reference", "talk3d.reference.volume:forward")
_backward.implement("reference", "talk3d.reference.volume:backward")
