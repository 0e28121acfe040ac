"""Token attention in Triton: layer norm to residual in one kernel. See docs/kernels/attention_triton.md."""

# triton has no types
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from talk3d.kernels import tiles
from talk3d.kernels.field import multiply

OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _fold_kernel(
    tokens_ptr,  # [B, T, E]
    query_ptr,  # [heads * width, D]
    key_ptr,  # [heads * width, E]
    value_ptr,  # [heads * width, E]
    out_ptr,  # [D, heads * width]
    asked_ptr,  # [B, HEADS * TOKENS, D], float32
    found_ptr,  # [B, HEADS * TOKENS, D], float32
    T,
    D,
    heads,
    width,
    scale,
    E: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the tokens of a sample make of the projections, for one head and some channels; padding is zero."""
    batch, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    t, w = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_W)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    row = head * width + w
    is_row, is_channel = (w < width) & (head < heads), d < D
    k, v = tl.zeros([BLOCK_T, BLOCK_W], tl.float32), tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    for block in tl.static_range((E + BLOCK_E - 1) // BLOCK_E):
        e = block * BLOCK_E + tl.arange(0, BLOCK_E)
        at = tokens_ptr + batch * T * E + t[:, None] * E + e[None, :]
        token = tl.load(at, mask=(t < T)[:, None] & (e < E)[None, :], other=0.0)
        at = row[None, :] * E + e[:, None]
        there = is_row[None, :] & (e < E)[:, None]
        k = multiply(token, tl.load(key_ptr + at, mask=there, other=0.0).to(OPERAND), k, PRECISION)
        v = multiply(token, tl.load(value_ptr + at, mask=there, other=0.0).to(OPERAND), v, PRECISION)
    there = is_row[:, None] & is_channel[None, :]
    query = tl.load(query_ptr + row[:, None] * D + d[None, :], mask=there, other=0.0).to(OPERAND)
    out = tl.load(out_ptr + d[None, :] * (heads * width) + row[:, None], mask=there, other=0.0).to(OPERAND)
    nothing = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    at = (batch * HEADS + head) * TOKENS * D + t[:, None] * D + d[None, :]
    wanted = (t < TOKENS)[:, None] & is_channel[None, :]
    tl.store(asked_ptr + at, multiply(k * scale, query, nothing, PRECISION), mask=wanted)
    tl.store(found_ptr + at, multiply(v, out, nothing, PRECISION), mask=wanted)


@triton.jit
def _normalised(x, exists, is_channel, D, eps):
    """Texels with mean 0 and variance 1, and the inverse of their deviation."""
    mean = tl.sum(x, 1) / D
    centred = tl.where(is_channel[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.where(exists, tl.sum(centred * centred, 1) / D + eps, 1.0))
    return centred * rstd[:, None], rstd


@triton.jit
def _probabilities(scores, T, BLOCK_N: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr):
    """Softmax over the tokens of each head: ``[BLOCK_N, HEADS, TOKENS]``."""
    t = tl.arange(0, TOKENS)[None, None, :]
    scores = tl.where(t < T, tl.reshape(scores, [BLOCK_N, HEADS, TOKENS]), -3e38)
    e = tl.exp(scores - tl.max(scores, 2)[:, :, None])
    return e / tl.sum(e, 2)[:, :, None]


@triton.jit
def _attend_kernel(
    planes_ptr,  # [B, 3, N, D], any strides but the last
    norm_ptr,  # [3, D]
    norm_bias_ptr,  # [3, D]
    out_bias_ptr,  # [D]
    asked_ptr,  # [B, HEADS * TOKENS, D], float32
    found_ptr,  # [B, HEADS * TOKENS, D], float32
    planes_out_ptr,  # [3, B, N, D]
    map_ptr,  # [B, 3, N, T], or anything without MAP
    B,
    N,
    D,
    T,
    heads,
    stride_b,
    stride_p,
    stride_n,
    eps,
    MAP: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Some texels of one plane of one sample, from layer norm to residual: read once, written once."""
    KEYS: tl.constexpr = HEADS * TOKENS
    blocks = tl.cdiv(N, BLOCK_N)
    plane, batch = tl.program_id(0) // blocks // B, (tl.program_id(0) // blocks % B).to(tl.int64)
    n, d = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    is_channel = d < D
    inside = (n < N)[:, None] & is_channel[None, :]
    at = planes_ptr + batch * stride_b + plane.to(tl.int64) * stride_p + n[:, None] * stride_n + d[None, :]
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    normalised, _ = _normalised(x, n < N, is_channel, D, eps)
    norm = tl.load(norm_ptr + plane * D + d, mask=is_channel, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + plane * D + d, mask=is_channel, other=0.0).to(tl.float32)
    seen = normalised * norm[None, :] + norm_bias[None, :]

    key = tl.arange(0, KEYS)
    folded = batch * KEYS * D + key[:, None] * D + d[None, :]
    asked = tl.load(asked_ptr + folded, mask=is_channel[None, :], other=0.0).to(OPERAND)
    scores = multiply(seen, tl.trans(asked), tl.zeros([BLOCK_N, KEYS], tl.float32), PRECISION)
    probabilities = _probabilities(scores, T, BLOCK_N, HEADS, TOKENS)
    found = tl.load(found_ptr + folded, mask=is_channel[None, :], other=0.0).to(OPERAND)
    x += tl.load(out_bias_ptr + d, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    x = multiply(tl.reshape(probabilities, [BLOCK_N, KEYS]), found, x, PRECISION)
    at = planes_out_ptr + (plane * B + batch) * N * D + n[:, None] * D + d[None, :]
    tl.store(at, x.to(planes_out_ptr.dtype.element_ty), mask=inside)
    if MAP:
        t = tl.arange(0, TOKENS)
        counts = tl.arange(0, HEADS)[None, :, None] < heads
        shares = tl.sum(tl.where(counts, probabilities, 0.0), 1) / heads
        at = map_ptr + (batch * 3 + plane) * N * T + n[:, None] * T + t[None, :]
        tl.store(at, shares.to(map_ptr.dtype.element_ty), mask=(n < N)[:, None] & (t < T)[None, :])


@triton.jit
def _attend_bwd_kernel(
    d_out_ptr,  # [3, B, N, D]
    planes_ptr,  # [3, B, N, D]
    norm_ptr,  # [3, D]
    norm_bias_ptr,  # [3, D]
    asked_ptr,  # [B, HEADS * TOKENS, D], float32
    found_ptr,  # [B, HEADS * TOKENS, D], float32
    d_planes_ptr,  # [3, B, N, D]
    normalised_ptr,  # [3, B, N, D]
    probabilities_ptr,  # [3, B, N, HEADS * TOKENS]
    d_scores_ptr,  # [3, B, N, HEADS * TOKENS]
    B,
    N,
    D,
    T,
    eps,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The same texels back, after the forward again. What gradients of weights are sums of is written down."""
    KEYS: tl.constexpr = HEADS * TOKENS
    blocks = tl.cdiv(N, BLOCK_N)
    place = (tl.program_id(0) // blocks).to(tl.int64)
    plane, batch = place // B, place % B
    n, d = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    is_channel = d < D
    inside = (n < N)[:, None] & is_channel[None, :]
    at = place * N * D + n[:, None] * D + d[None, :]
    x = tl.load(planes_ptr + at, mask=inside, other=0.0).to(tl.float32)
    normalised, rstd = _normalised(x, n < N, is_channel, D, eps)
    norm = tl.load(norm_ptr + plane * D + d, mask=is_channel, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + plane * D + d, mask=is_channel, other=0.0).to(tl.float32)
    seen = normalised * norm[None, :] + norm_bias[None, :]

    key = tl.arange(0, KEYS)
    folded = batch * KEYS * D + key[:, None] * D + d[None, :]
    asked = tl.load(asked_ptr + folded, mask=is_channel[None, :], other=0.0).to(OPERAND)
    scores = multiply(seen, tl.trans(asked), tl.zeros([BLOCK_N, KEYS], tl.float32), PRECISION)
    probabilities = _probabilities(scores, T, BLOCK_N, HEADS, TOKENS)
    found = tl.load(found_ptr + folded, mask=is_channel[None, :], other=0.0).to(OPERAND)
    d_out = tl.load(d_out_ptr + at, mask=inside, other=0.0)
    d_found = multiply(d_out, tl.trans(found), tl.zeros([BLOCK_N, KEYS], tl.float32), PRECISION)
    d_found = tl.reshape(d_found, [BLOCK_N, HEADS, TOKENS])
    shared = tl.sum(d_found * probabilities, 2)
    d_scores = tl.reshape((d_found - shared[:, :, None]) * probabilities, [BLOCK_N, KEYS])
    d_seen = multiply(d_scores, asked, tl.zeros([BLOCK_N, BLOCK_D], tl.float32), PRECISION)
    d_normalised = d_seen * norm[None, :]
    along = tl.sum(d_normalised * normalised, 1) / D
    d_x = (d_normalised - (tl.sum(d_normalised, 1) / D)[:, None] - normalised * along[:, None]) * rstd[:, None]
    element: tl.constexpr = d_planes_ptr.dtype.element_ty
    tl.store(d_planes_ptr + at, (d_x + d_out.to(tl.float32)).to(element), mask=inside)
    tl.store(normalised_ptr + at, normalised.to(element), mask=inside)
    at = place * N * KEYS + n[:, None] * KEYS + key[None, :]
    there = (n < N)[:, None] & (key >= 0)[None, :]
    tl.store(probabilities_ptr + at, tl.reshape(probabilities, [BLOCK_N, KEYS]).to(element), mask=there)
    tl.store(d_scores_ptr + at, d_scores.to(element), mask=there)


def forward(
    planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float, with_map: bool
) -> tuple[Tensor, Tensor]:
    B, _, N, D = planes.shape
    T = tokens.shape[1]
    result = tiles.result(planes.dtype)
    out = planes.new_empty(3, B, N, D, dtype=result)
    shares = planes.new_empty((B, 3, N, T) if with_map else 0, dtype=result)
    if out.numel():
        planes = planes if planes.stride(3) == 1 else planes.contiguous()
        norm, norm_bias, out_bias = (weights[k].contiguous() for k in (0, 1, 6))
        asked, found = _fold(tokens, weights, heads)
        tile = tiles.token_attention(D, T, heads, many=planes.dtype == torch.float32)
        _attend_kernel[(3 * B * triton.cdiv(N, tile["BLOCK_N"]),)](
            planes, norm, norm_bias, out_bias, asked, found, out, shares, B, N, D, T, heads, *planes.stride()[:3],
            eps, with_map, OPERANDS[planes.dtype], tiles.precision(planes.dtype), **tile,
        )  # fmt: skip
    return out.to(planes.dtype).transpose(0, 1), shares.to(planes.dtype)


def backward(
    d_out: Tensor, planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    norm, norm_bias, query, key, value, out, _ = weights
    B, _, N, D = planes.shape
    T = tokens.shape[1]
    result, dtype = tiles.result(planes.dtype), planes.dtype
    if not planes.numel():
        nothing = planes.new_zeros(3, B, N, D).transpose(0, 1)
        return nothing, torch.zeros_like(tokens), [weight.new_zeros(weight.shape) for weight in weights]
    tile = tiles.token_attention(D, T, heads, many=True)
    HEADS, TOKENS = tile["HEADS"], tile["TOKENS"]
    asked, found = _fold(tokens, weights, heads)
    d_out = d_out.transpose(0, 1).contiguous()
    d_planes, normalised = (planes.new_empty(3, B, N, D, dtype=result) for _ in range(2))
    probabilities, d_scores = (planes.new_empty(3, B, N, HEADS * TOKENS, dtype=result) for _ in range(2))
    _attend_bwd_kernel[(3 * B * triton.cdiv(N, tile["BLOCK_N"]),)](
        d_out, planes.transpose(0, 1).contiguous(), norm.contiguous(), norm_bias.contiguous(), asked, found, d_planes,
        normalised, probabilities, d_scores, B, N, D, T, eps, OPERANDS[dtype], tiles.precision(dtype), **tile,
    )  # fmt: skip

    def of_keys(keys: Tensor) -> Tensor:
        """Without padding: ``[..., heads, T, D]``."""
        return keys.unflatten(-2, (HEADS, TOKENS))[..., :heads, :T, :]

    d_found = of_keys(torch.einsum("pbnk,pbnd->bkd", probabilities, d_out.to(result)))
    seen = of_keys(d_scores.mT @ normalised)  # [3, B, heads, T, D]
    total = of_keys(d_scores.sum(2).unsqueeze(3))  # [3, B, heads, T, 1]
    by_plane = norm[:, None, None, None], norm_bias[:, None, None, None]
    d_asked = (seen * by_plane[0] + total * by_plane[1]).sum(0)
    k, v = ((tokens @ projection.T).unflatten(2, (heads, -1)) for projection in (key, value))  # [B, T, heads, d]
    asks = d_asked * k.shape[3] ** -0.5
    d_k = torch.einsum("bhtD,hdD->bthd", asks, query.unflatten(0, (heads, -1)).to(result)).flatten(2).to(dtype)
    d_v = torch.einsum("bhtD,Dhd->bthd", d_found, out.unflatten(1, (heads, -1)).to(result)).flatten(2).to(dtype)
    asked = of_keys(asked)
    d_weights = [
        (seen * asked).sum((1, 2, 3)),
        (total * asked).sum((1, 2, 3)),
        torch.einsum("bhtD,bthd->hdD", asks, k.to(result)).flatten(0, 1),
        torch.einsum("bti,bte->ie", d_k, tokens),
        torch.einsum("bti,bte->ie", d_v, tokens),
        torch.einsum("bhtD,bthd->Dhd", d_found, v.to(result)).flatten(1),
        d_out.sum((0, 1, 2)),
    ]
    d_weights = [found.to(dtype) for found in d_weights]
    return d_planes.to(dtype).transpose(0, 1), d_k @ key + d_v @ value, d_weights


def _fold(tokens: Tensor, weights: list[Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Both foldings ``[B, HEADS * TOKENS, D]`` in float32, with rows of zeros where heads and tokens are padded."""
    _, _, query, key, value, out, _ = (weight.contiguous() for weight in weights)
    (B, T, E), (inner, D) = tokens.shape, query.shape
    tile = tiles.fold_tokens(D, T, heads, inner // heads)
    HEADS = tile["HEADS"]
    asked, found = (tokens.new_empty(B, HEADS * tile["TOKENS"], D, dtype=torch.float32) for _ in range(2))
    _fold_kernel[(B * HEADS, triton.cdiv(D, tile["BLOCK_D"]))](
        tokens.contiguous(), query, key, value, out, asked, found, T, D, heads, inner // heads,
        (inner // heads) ** -0.5, E, OPERANDS[tokens.dtype], tiles.precision(tokens.dtype), **tile,
    )  # fmt: skip
    return asked, found
