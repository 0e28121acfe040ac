"""Token attention, folded: two skinny products for each texel, ``D x heads*T`` and ``heads*T x D``.

Everything between a normalised texel and its scores is linear and depends on the sample alone, and so is everything
between the probabilities and the result. The probabilities of a head add up to one, so a bias spread over the heads
rides along.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def forward(
    planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float, with_map: bool
) -> tuple[Tensor, Tensor]:
    """Attend with ``planes`` [B, 3, N, D] to ``tokens`` [B, T, E]; see ``talk3d.ops.token_attention``."""
    batch, _, texels, width = planes.shape
    count = tokens.shape[1]
    folded = _fold(tokens, weights, heads)
    flat = _plane_major(planes)
    normalised, _, _ = torch.native_layer_norm(flat, flat.shape[2:], None, None, eps)
    probabilities = _probabilities(normalised, folded, weights, count)
    out = torch.baddbmm(flat, probabilities, (folded.found + weights[6] / heads).repeat(3, 1, 1))
    shares = planes.new_empty(0)
    if with_map:
        shares = probabilities.view(3, batch, texels, heads, count).mean(3).transpose(0, 1).contiguous()
    return out.view(3, batch, texels, width).transpose(0, 1), shares


def backward(
    d_out: Tensor, planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of :func:`forward` to planes, tokens and weights; it runs the forward again."""
    norm, norm_bias, query, key, value, out, _ = weights
    batch, _, texels, width = planes.shape
    count = tokens.shape[1]
    folded = _fold(tokens, weights, heads)
    flat, d_flat = _plane_major(planes), _plane_major(d_out)
    normalised, mean, rstd = torch.native_layer_norm(flat, flat.shape[2:], None, None, eps)
    probabilities = _probabilities(normalised, folded, weights, count)

    d_probabilities = torch.bmm(d_flat, folded.found.repeat(3, 1, 1).mT)
    d_scores = _softmax_backward(d_probabilities, probabilities, count)
    per_plane = 3, batch, heads * count, width
    d_found = torch.bmm(probabilities.mT, d_flat).view(per_plane).sum(0)  # [B, h*T, D]
    seen = torch.bmm(d_scores.mT, normalised).view(per_plane)  # [3, B, h*T, D]
    total = d_scores.sum(1).view(*per_plane[:3], 1)
    d_asked = (seen * norm[:, None, None] + total * norm_bias[:, None, None]).sum(0)

    asked = (folded.asked * norm[:, None, None]).flatten(0, 1)
    d_planes, _, _ = torch.ops.aten.native_layer_norm_backward(
        torch.bmm(d_scores, asked), flat, flat.shape[2:], mean, rstd, None, None, [True, False, False]
    )
    d_planes = (d_planes + d_flat).view(3, batch, texels, width).transpose(0, 1)

    scale = (query.shape[0] // heads) ** -0.5
    asks, finds = (d.view(batch, heads, count, width) for d in (d_asked * scale, d_found))
    by_head = query.unflatten(0, (heads, -1)), out.unflatten(1, (heads, -1))
    d_k = torch.einsum("bhtD,hdD->bthd", asks, by_head[0]).flatten(2)
    d_v = torch.einsum("bhtD,Dhd->bthd", finds, by_head[1]).flatten(2)
    d_weights = [
        (seen * folded.asked).sum((1, 2)),
        (total * folded.asked).sum((1, 2)),
        torch.einsum("bhtD,bthd->hdD", asks, folded.k).flatten(0, 1),
        torch.einsum("bti,bte->ie", d_k, tokens),
        torch.einsum("bti,bte->ie", d_v, tokens),
        torch.einsum("bhtD,bthd->Dhd", finds, folded.v).flatten(1),
        d_flat.sum((0, 1)),
    ]
    return d_planes, d_k @ key + d_v @ value, d_weights


class _Folded(NamedTuple):
    """What the tokens of a sample make of the projections."""

    k: Tensor  # [B, T, h, d]
    v: Tensor  # [B, T, h, d]
    asked: Tensor  # [B, h*T, D]: a texel's score is its product with these
    found: Tensor  # [B, h*T, D]: and what a probability of one adds to it


def _fold(tokens: Tensor, weights: list[Tensor], heads: int) -> _Folded:
    _, _, query, key, value, out, _ = weights
    k, v = ((tokens @ projection.T).unflatten(2, (heads, -1)) for projection in (key, value))
    asked = torch.einsum("bthd,hdD->bhtD", k * k.shape[3] ** -0.5, query.unflatten(0, (heads, -1)))
    found = torch.einsum("bthd,Dhd->bhtD", v, out.unflatten(1, (heads, -1)))
    return _Folded(k, v, asked.flatten(1, 2), found.flatten(1, 2))


def _probabilities(normalised: Tensor, folded: _Folded, weights: list[Tensor], count: int) -> Tensor:
    """Probabilities ``[3 * B, N, h*T]`` for normalised texels ``[3 * B, N, D]``; norm and bias are folded in here."""
    norm, norm_bias = (part[:, None, None] for part in weights[:2])  # [3, 1, 1, D]
    asked = (folded.asked * norm).flatten(0, 1)  # [3 * B, h*T, D]
    offset = (folded.asked * norm_bias).sum(3).flatten(0, 1)  # [3 * B, h*T]
    scores = torch.baddbmm(offset[:, None], normalised, asked.mT)
    return scores.unflatten(2, (scores.shape[2] // count, count)).softmax(3).flatten(2)


def _softmax_backward(d_probabilities: Tensor, probabilities: Tensor, count: int) -> Tensor:
    heads = probabilities.shape[2] // count
    d, p = (part.unflatten(2, (heads, count)) for part in (d_probabilities, probabilities))
    return ((d - (d * p).sum(3, keepdim=True)) * p).flatten(2)


def _plane_major(planes: Tensor) -> Tensor:
    """Texels ``[B, 3, N, D]`` as ``[3 * B, N, D]``."""
    return planes.transpose(0, 1).flatten(0, 1).contiguous()
