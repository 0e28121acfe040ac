"""The thin parts of the roll-out convolution in Triton, beside torch's own. See docs/kernels/rollout_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import conv2d, pad

from talk3d.kernels import tiles
from talk3d.kernels.attention import OPERANDS
from talk3d.kernels.field import multiply

_ROUTES = 6
_ENDS = 3  # the first position, all between, and the last


@triton.jit
def _sender(route):
    """Of the two routes to each plane, the planes that they come from: 1, 2; 0, 2; 0, 1."""
    receiver = route // 2
    return tl.where(route % 2 == 0, tl.where(receiver == 0, 1, 0), tl.where(receiver == 2, 1, 2))


@triton.jit
def _pool_kernel(
    texels_ptr,  # [places, R, R, C]
    sums_ptr,  # [2, places, R, C], float32: what varies along the height, and along the width
    C,
    factor,
    R: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The sum over a row, or over a column, times a factor."""
    place, kept, here = (tl.program_id(0) // R).to(tl.int64), tl.program_id(1), tl.program_id(0) % R
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    stride_kept, stride = tl.where(kept == 0, R * C, C), tl.where(kept == 0, C, R * C)
    texels_ptr += place * R * R * C + here * stride_kept
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for block in tl.static_range((R + BLOCK_R - 1) // BLOCK_R):
        r = block * BLOCK_R + tl.arange(0, BLOCK_R)
        at = r[:, None] * stride + c[None, :]
        total += tl.load(texels_ptr + at, mask=(r < R)[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
    places = tl.num_programs(0) // R
    at = sums_ptr + ((kept * places + place) * R + here) * C + c
    tl.store(at, tl.sum(total, 0) * factor, mask=c < C)


@triton.jit
def _respond_kernel(
    profiles_ptr,  # [2, 3, B, R, C], float32
    weight_ptr,  # [3, O, 3 * C, 3, 3], any strides
    responses_ptr,  # [6, B, 3 (ends), R, O], float32
    B,
    R,
    C: tl.constexpr,
    O,  # noqa: E741
    stride_p,
    stride_o,
    stride_c,
    stride_h,
    stride_w,
    kept_bits,
    laid_bits,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Convolve one profile for one receiver: three products, one for each column of the kernels across the profile.

    Of a map that is constant along an axis, the first position misses the first column of its kernels, the last one the
    last.
    """
    blocks = tl.cdiv(R, BLOCK_R)
    route, batch = tl.program_id(1) // B, tl.program_id(1) % B
    kept, laid = (kept_bits >> route) & 1, (laid_bits >> route) & 1
    sender = _sender(route)
    r = tl.program_id(0) % blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    o = tl.program_id(0) // blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    # the kernels' rows go along the profile where it is laid along the height, their columns where along the width
    along, across = tl.where(laid == 0, stride_h, stride_w), tl.where(laid == 0, stride_w, stride_h)
    profiles_ptr += ((kept * 3 + sender) * B + batch).to(tl.int64) * R * C
    weight_ptr += (route // 2).to(tl.int64) * stride_p + sender * C * stride_c
    one = tl.zeros([BLOCK_R, BLOCK_O], tl.float32)
    two, three = one, one
    for block in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)
        there = (c < C)[:, None] & (o < O)[None, :]
        for tap in tl.static_range(3):
            p = r + tap - 1
            at = profiles_ptr + p[:, None] * C + c[None, :]
            profile = tl.load(at, mask=((p >= 0) & (p < R))[:, None] & (c < C)[None, :], other=0.0)
            at = weight_ptr + o[None, :] * stride_o + c[:, None] * stride_c + tap * along
            one = multiply(profile, tl.load(at, mask=there, other=0.0).to(OPERAND), one, PRECISION)
            two = multiply(profile, tl.load(at + across, mask=there, other=0.0).to(OPERAND), two, PRECISION)
            three = multiply(profile, tl.load(at + 2 * across, mask=there, other=0.0).to(OPERAND), three, PRECISION)
    wide = tl.where(R > 1, 1.0, 0.0)  # of a single position, both ends are one
    at = responses_ptr + (route * B + batch).to(tl.int64) * 3 * R * O + r[:, None] * O + o[None, :]
    there = (r < R)[:, None] & (o < O)[None, :]
    tl.store(at, two + three * wide, mask=there)
    tl.store(at + R * O, one + two + three, mask=there)
    tl.store(at + 2 * R * O, one * wide + two, mask=there)


@triton.jit
def end_of(position, R):
    """Which of the three positions of a response belongs here."""
    return tl.where(position == 0, 0, tl.where(position == R - 1, 2, 1))


@triton.jit
def _add_kernel(
    first_ptr,  # [B, R, R, C]: what planes 0, 1 and 2 have of their own
    second_ptr,
    third_ptr,
    bias_ptr,  # [3, C], or anything without BIAS
    responses_ptr,  # [6, B, 3 (ends), R, C]; without ENDS profiles [2, 3, B, R, C]
    out_ptr,  # [3, B, R, R, C]
    B,
    R,
    C,
    laid_bits,
    BIAS: tl.constexpr,
    ENDS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Lay two responses along each plane, or both of its own profiles, and add them to what there is."""
    blocks = tl.cdiv(R, BLOCK_W)
    h, place = tl.program_id(0) // blocks % R, tl.program_id(0) // blocks // R
    plane, batch = place // B, (place % B).to(tl.int64)
    w, c = (
        tl.program_id(0) % blocks * BLOCK_W + tl.arange(0, BLOCK_W),
        tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C),
    )
    inside = (w < R)[:, None] & (c < C)[None, :]
    at = (h * R + w)[:, None] * C + c[None, :]
    here = batch * R * R * C
    if plane == 0:
        own = tl.load(first_ptr + here + at, mask=inside, other=0.0)
    elif plane == 1:
        own = tl.load(second_ptr + here + at, mask=inside, other=0.0)
    else:
        own = tl.load(third_ptr + here + at, mask=inside, other=0.0)
    total = own.to(tl.float32)
    if BIAS:
        total += tl.load(bias_ptr + plane * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(2):
        if ENDS:
            route = 2 * plane + k
            laid = (laid_bits >> route) & 1
            end = tl.where(laid == 0, end_of(w, R), end_of(h + 0 * w, R))
            line = ((route * B + batch) * 3 + end) * R + tl.where(laid == 0, h, w)
        else:
            line = ((k * 3 + plane) * B + batch) * R + (h + 0 * w if k == 0 else w)
        total += tl.load(responses_ptr + line[:, None] * C + c[None, :], mask=inside, other=0.0)
    at = out_ptr + (plane * B * R * R * C).to(tl.int64) + here + at
    tl.store(at, total.to(out_ptr.dtype.element_ty), mask=inside)


def forward(planes: Tensor, weight: Tensor, bias: Tensor | None, exchanges: list[int]) -> Tensor:
    texels = planes.permute(1, 0, 3, 4, 2).contiguous()  # [3, B, R, R, C]
    _, B, R, _, C = texels.shape
    O = weight.shape[1]  # noqa: E741
    out = texels.new_empty(3, B, R, R, O, dtype=tiles.result(planes.dtype))
    if out.numel():
        responses = respond(texels, weight, exchanges)
        own = [
            conv2d(plane.permute(0, 3, 1, 2), kernels[:, receiver * C : (receiver + 1) * C], padding=1)
            for receiver, (plane, kernels) in enumerate(zip(texels, weight, strict=True))
        ]
        _add([found.permute(0, 2, 3, 1) for found in own], bias, responses, out, bits(exchanges)[1], ends=True)
    return out.to(planes.dtype).permute(1, 0, 4, 2, 3)


def respond(texels: Tensor, weight: Tensor, exchanges: list[int]) -> Tensor:
    """What the profiles of planes ``[3, B, R, R, C]`` become in the others: ``[6, B, 3 (ends), R, O]`` in float32."""
    _, B, R, _, C = texels.shape
    O = weight.shape[1]  # noqa: E741
    responses = texels.new_empty(_ROUTES, B, _ENDS, R, O, dtype=torch.float32)
    tile = tiles.rollout_response(C, O)
    grid = triton.cdiv(R, tile["BLOCK_R"]) * triton.cdiv(O, tile["BLOCK_O"]), _ROUTES * B
    _respond_kernel[grid](
        _pool(texels, 1 / R), weight, responses, B, R, C, O, *weight.stride(), *bits(exchanges),
        OPERANDS[texels.dtype], tiles.precision(texels.dtype), **tile,
    )  # fmt: skip
    return responses


def backward(
    d_out: Tensor, planes: Tensor, weight: Tensor, exchanges: list[int], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = planes.dtype
    texels, d_texels = (tensor.permute(1, 0, 3, 4, 2).contiguous() for tensor in (planes, d_out))
    _, B, R, _, C = texels.shape
    O = weight.shape[1]  # noqa: E741
    d_weight = weight.new_zeros(weight.shape) if needs[1] else weight.new_empty(0)
    if not texels.numel():
        d_bias = weight.new_zeros(3, O) if needs[2] else weight.new_empty(0)
        return torch.zeros_like(planes) if needs[0] else planes.new_empty(0), d_weight, d_bias
    d_sums = _pool(d_texels, 1.0)
    d_planes = planes.new_empty(0)
    if needs[0] or needs[1]:
        # [6, B * R, 3, O] and [6, 3 * C, 3, O]: what each column of the kernels responded with, and those kernels
        d_products = _products_back(d_texels, d_sums, exchanges).to(dtype).flatten(2)
        routes = list(_routes(exchanges))
    own = []
    for receiver in range(3) if needs[0] or needs[1] else ():
        mine = slice(receiver * C, (receiver + 1) * C)
        found = torch.ops.aten.convolution_backward(
            d_texels[receiver].permute(0, 3, 1, 2), texels[receiver].permute(0, 3, 1, 2), weight[receiver, :, mine],
            None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [needs[0], needs[1], False],
        )  # fmt: skip
        own.append(found[0])
        if needs[1]:
            d_weight[receiver, :, mine] = found[1]
    if needs[1]:
        profiles = _pool(texels, 1 / R)
        shifted = torch.stack([_shifted(profiles[kept, sender]) for _, sender, kept, _ in routes])  # [6, B * R, 3 * C]
        found = (shifted.to(dtype).mT @ d_products).view(_ROUTES, 3, C, 3, O)
        for (receiver, sender, _, laid), kernels in zip(routes, found, strict=True):
            order = (3, 1, 0, 2) if laid == 0 else (3, 1, 2, 0)
            d_weight[receiver, :, sender * C : (sender + 1) * C] = kernels.permute(order)
    if needs[0]:
        found = d_products @ torch.stack([_kernels(weight, C, *route) for route in routes]).mT
        d_profiles = torch.zeros(2, 3, B, R, C, dtype=torch.float32, device=planes.device)
        for (_, sender, kept, _), d_shifted in zip(routes, found.view(_ROUTES, B, R, 3, C).float(), strict=True):
            for tap in range(3):  # a tap met the position behind it
                first, last = max(0, tap - 1), min(R, R + tap - 1)
                d_profiles[kept, sender, :, first:last] += d_shifted[:, first - tap + 1 : last - tap + 1, tap]
        out = torch.empty_like(texels, dtype=tiles.result(dtype))
        _add([d.permute(0, 2, 3, 1) for d in own], None, d_profiles / R, out, 0, ends=False)
        d_planes = out.to(dtype).permute(1, 0, 4, 2, 3)
    d_bias = d_sums[0].sum((1, 2)).to(dtype) if needs[2] else weight.new_empty(0)
    return d_planes, d_weight, d_bias


def _pool(texels: Tensor, factor: float) -> Tensor:
    """Sums of planes ``[3, B, R, R, C]`` times a factor: ``[2, 3, B, R, C]``, over the width and over the height."""
    _, B, R, _, C = texels.shape
    sums = texels.new_empty(2, 3, B, R, C, dtype=torch.float32)
    tile = tiles.rollout_pool(R, C)
    _pool_kernel[(3 * B * R, 2, triton.cdiv(C, tile["BLOCK_C"]))](texels, sums, C, factor, R, **tile)
    return sums


def _add(own: list[Tensor], bias: Tensor | None, responses: Tensor, out: Tensor, laid: int, *, ends: bool) -> None:
    _, B, R, _, C = out.shape
    tile = tiles.rollout_add(C)
    planes = [plane.contiguous() for plane in own]
    _add_kernel[(3 * B * R * triton.cdiv(R, tile["BLOCK_W"]), triton.cdiv(C, tile["BLOCK_C"]))](
        *planes, responses if bias is None else bias.contiguous(), responses, out, B, R, C, laid, bias is not None,
        ends, **tile,
    )  # fmt: skip


def _routes(exchanges: list[int]) -> list[tuple[int, int, int, int]]:
    """Receiver, sender, and which axis of the sender is laid along which of the receiver."""
    pairs = [(receiver, sender) for receiver in range(3) for sender in range(3) if sender != receiver]
    return [(*pair, kept, laid) for pair, kept, laid in zip(pairs, exchanges[::2], exchanges[1::2], strict=True)]


def bits(exchanges: list[int]) -> tuple[int, int]:
    """The axes that are kept, and those that they are laid along: a bit for each route."""
    kept, laid = exchanges[::2], exchanges[1::2]
    return sum(bit << route for route, bit in enumerate(kept)), sum(bit << route for route, bit in enumerate(laid))


def _products_back(d_texels: Tensor, d_sums: Tensor, exchanges: list[int]) -> Tensor:
    """Gradients of the three products of each route ``[6, B * R, 3, O]``: an end that a column misses gives nothing."""
    found = []
    for receiver, _, _, laid in _routes(exchanges):
        total = d_sums[laid, receiver]  # [B, R, O]
        ends = d_texels[receiver, :, :, :: max(d_texels.shape[3] - 1, 1)] if laid == 0 else None
        if ends is None:
            ends = d_texels[receiver, :, :: max(d_texels.shape[2] - 1, 1)].transpose(1, 2)
        found.append(torch.stack([total - ends[:, :, 0], total, total - ends[:, :, -1]], dim=2).flatten(0, 1))
    return torch.stack(found)


def _shifted(profile: Tensor) -> Tensor:
    """What the three taps along a profile ``[B, R, C]`` meet: ``[B * R, 3 * C]``."""
    return pad(profile, (0, 0, 1, 1)).unfold(1, profile.shape[1], 1).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def _kernels(weight: Tensor, C: int, receiver: int, sender: int, _: int, laid: int) -> Tensor:
    """The kernels of a route: taps along its profile and channels in, columns across it and channels out."""
    kernels = weight[receiver, :, sender * C : (sender + 1) * C]  # [O, C, 3, 3]
    return kernels.permute((2, 1, 3, 0) if laid == 0 else (3, 1, 2, 0)).flatten(2).flatten(0, 1)
