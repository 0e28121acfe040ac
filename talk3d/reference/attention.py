"""Token attention in plain PyTorch: normalise, project, attend, project, add."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def forward(
    planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float, with_map: bool
) -> tuple[Tensor, Tensor]:
    """Attend with ``planes`` [B, 3, N, D] to ``tokens`` [B, T, E]; see ``talk3d.ops.token_attention``."""
    _, probabilities, _, found = _attend(planes, tokens, weights, heads, eps)
    out = planes + found @ weights[5].T + weights[6]
    shares = probabilities.mean(3).contiguous() if with_map else planes.new_empty(0)
    return _plane_major(out), shares


def backward(
    d_out: Tensor, planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of :func:`forward` to planes, tokens and weights; it runs the forward again."""
    norm, norm_bias, query, key, value, out, _ = weights
    (q, k, v), probabilities, x, found = _attend(planes, tokens, weights, heads, eps)
    scale = q.shape[4] ** -0.5

    d_found = (d_out @ out).unflatten(3, (heads, -1))  # [B, 3, N, h, d]
    d_v = torch.einsum("bpnht,bpnhd->bthd", probabilities, d_found)
    d_probabilities = torch.einsum("bpnhd,bthd->bpnht", d_found, v)
    shared = (d_probabilities * probabilities).sum(4, keepdim=True)
    d_scores = (d_probabilities - shared) * probabilities * scale
    d_q = torch.einsum("bpnht,bthd->bpnhd", d_scores, k).flatten(3)
    d_k = torch.einsum("bpnht,bpnhd->bthd", d_scores, q).flatten(2)
    d_v = d_v.flatten(2)

    d_x = d_q @ query
    normalised, mean, rstd = torch.native_layer_norm(planes, planes.shape[3:], None, None, eps)
    d_normalised = d_x * norm[:, None]
    d_planes, _, _ = torch.ops.aten.native_layer_norm_backward(
        d_normalised, planes, planes.shape[3:], mean, rstd, None, None, [True, False, False]
    )
    d_weights = [
        (d_x * normalised).sum((0, 2)),
        d_x.sum((0, 2)),
        torch.einsum("bpni,bpnd->id", d_q, x),
        torch.einsum("bti,bte->ie", d_k, tokens),
        torch.einsum("bti,bte->ie", d_v, tokens),
        torch.einsum("bpnd,bpni->di", d_out, found),
        d_out.sum((0, 1, 2)),
    ]
    return _plane_major(d_planes + d_out), d_k @ key + d_v @ value, d_weights


def _attend(
    planes: Tensor, tokens: Tensor, weights: list[Tensor], heads: int, eps: float
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Queries, keys and values; probabilities ``[B, 3, N, h, T]``; normalised texels; what the heads found."""
    norm, norm_bias, query, key, value, *_ = weights
    x = layer_norm(planes, planes.shape[3:], eps=eps) * norm[:, None] + norm_bias[:, None]
    q = (x @ query.T).unflatten(3, (heads, -1))
    k, v = ((tokens @ projection.T).unflatten(2, (heads, -1)) for projection in (key, value))
    scores = torch.einsum("bpnhd,bthd->bpnht", q, k) * q.shape[4] ** -0.5
    probabilities = scores.softmax(4)
    found = torch.einsum("bpnht,bthd->bpnhd", probabilities, v).flatten(3)
    return (q, k, v), probabilities, x, found


def _plane_major(planes: Tensor) -> Tensor:
    """``[B, 3, N, D]`` whose memory is ``[3, B, N, D]``."""
    return planes.transpose(0, 1).contiguous().transpose(0, 1)
