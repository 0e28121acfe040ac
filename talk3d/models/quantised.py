"""Super-resolution in 8 bits: the plain convolutions of a folded network, most of its work, calibrated for it."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from talk3d.models.superresolution import FoldedSuperResolution
from talk3d.ops import Activation, bias_act

__all__ = ["LEAST_PSNR", "Kind", "QuantisedConv", "quantise", "why_not"]

Kind = Literal["fp8", "int8"]

LEAST_PSNR = 45.0  # dB against the network that is quantised; below that a difference can be seen

# largest magnitude that each type holds, and the compute capability that multiplies it
_TYPES = {"fp8": (torch.float8_e4m3fn, 448.0, (8, 9)), "int8": (torch.int8, 127.0, (8, 0))}


def why_not(kind: Kind, device: torch.device) -> str | None:
    """Say why a device cannot multiply this type, or None. A CPU emulates both."""
    if device.type == "cpu":
        return None
    needed = _TYPES[kind][2]
    if device.type != "cuda" or torch.version.hip:
        return f"{kind} is for NVIDIA GPUs, not for {device}"
    found = torch.cuda.get_device_capability(device)
    if found < needed:
        since, (major, minor) = {"fp8": "Ada or Hopper", "int8": "Ampere"}[kind], needed
        return f"{kind} needs compute capability {major}.{minor} ({since}), {device} has {found[0]}.{found[1]}"
    return None


class QuantisedConv(nn.Module):
    """A 3 x 3 convolution of 8 bits, then bias and activation in the type that came in.

    Inputs have one scale, found beforehand; weights one for each output channel. Products are summed in 32 bits. On a
    CPU they are computed in float32, which holds the products of either type exactly.

    Args:
        weight: ``[O, C, 3, 3]``.
        bias: ``[O]``.
        activation: What follows.
        largest: Largest magnitude of the inputs; what is above is clamped.
        kind: The type.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation, largest: Tensor, kind: Kind) -> None:
        super().__init__()
        self.activation, self.kind = activation, kind
        self.dtype, limit, _ = _TYPES[kind]
        rows = weight.detach().float().permute(0, 2, 3, 1).flatten(1)  # [O, 9 * C]
        scale = rows.abs().amax(1).clamp(min=1e-12) / limit
        self.register_buffer("weight", _rounded(rows / scale[:, None], self.dtype, limit))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", largest.detach().float().clamp(min=1e-12) / limit)
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Take pictures ``[B, C, H, W]`` to ``[B, O, H, W]``, channels-last."""
        y, bias, (act, alpha, gain, clamp) = self.begin(x)
        return bias_act(y, bias, act, alpha=alpha, gain=gain, clamp=clamp)

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor, Activation]:
        """Convolve, and leave bias and activation to what follows."""
        B, C, H, W = x.shape
        limit = _TYPES[self.kind][1]
        scaled = x.permute(0, 2, 3, 1).float() / self.input_scale
        texels = pad(scaled, (0, 0, 1, 1, 1, 1))
        texels = _rounded(texels, self.dtype, limit)  # zero is exact in both types
        b, h, w, c = texels.stride()
        # the nine neighbours of each texel, as rows of a matrix
        rows = texels.as_strided((B, H, W, 3, 3, C), (b, h, w, h, w, c)).reshape(B * H * W, 9 * C)
        if x.device.type == "cpu":
            product = rows.float() @ self.weight.float().T * (self.input_scale * self.weight_scale)
        elif self.kind == "int8":
            product = torch._int_mm(rows, self.weight.T).float() * (self.input_scale * self.weight_scale)
        else:
            scales = self.input_scale.expand(len(rows), 1).contiguous(), self.weight_scale[None]
            product = torch._scaled_mm(rows, self.weight.T, *scales, out_dtype=torch.bfloat16)
        return product.view(B, H, W, -1).permute(0, 3, 1, 2).to(x.dtype), self.bias.to(x.dtype), self.activation


def quantise(
    network: FoldedSuperResolution, features: Float[Tensor, "frame channels height width"], *, kind: Kind = "fp8"
) -> tuple[FoldedSuperResolution, float]:
    """Quantise a folded network for one identity.

    Args:
        network: What :meth:`talk3d.models.SuperResolution.fold` made, in bfloat16 or what it renders in.
        features: Rendered features of frames that show what the identity does, two or more. Scales are found in every
            second one; all are compared.
        kind: ``"fp8"`` (E4M3) or ``"int8"``.

    Returns:
        The quantised network, and its PSNR in dB against the other; pictures have a range of 2.

    Raises:
        ValueError: If the device cannot, there are less than two frames, or the PSNR is below :data:`LEAST_PSNR`.
    """
    if kind not in _TYPES:
        raise ValueError(f"kind must be one of {', '.join(_TYPES)}, got {kind!r}")
    if reason := why_not(kind, features.device):
        raise ValueError(reason)
    if len(features) < 2:
        raise ValueError(f"two frames or more are needed to calibrate and to compare, got {len(features)}")
    with torch.no_grad():
        largest = _largest(network, features[::2])
        quantised = copy.deepcopy(network)
        for block, found in zip((quantised.block0, quantised.block1), largest, strict=True):
            weight, bias = (getattr(block.conv1, name) for name in ("weight", "bias"))
            block.conv1 = QuantisedConv(weight, bias, block.activation, found, kind)
        errors = [(quantised(frame[None]).float() - network(frame[None]).float()).square().mean() for frame in features]
        psnr = float(10 * torch.log10(4 / torch.stack(errors).mean().clamp(min=1e-12)))
    if not psnr >= LEAST_PSNR:
        raise ValueError(
            f"in {kind} the super-resolution of this identity has {psnr:.1f} dB against what it was; below "
            f"{LEAST_PSNR:.0f} dB it is not used"
        )
    return quantised, psnr


def _largest(network: FoldedSuperResolution, features: Tensor) -> list[Tensor]:
    """Largest magnitudes that come to the two convolutions."""
    watched = copy.deepcopy(network)
    found = []
    for block in (watched.block0, watched.block1):
        block.conv1 = _Watch(block.conv1)
        found.append(block.conv1)
    for frame in features:
        watched(frame[None])
    return [watch.largest for watch in found]


class _Watch(nn.Module):
    """Remembers the largest magnitude that went through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.largest = torch.zeros(())

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor | None, Activation | None]:
        """Look, and convolve."""
        self.largest = torch.maximum(self.largest.to(x.device), x.detach().abs().amax().float())
        return self.inner.begin(x)  # type: ignore[operator]  # any in this place has that


def _rounded(x: Tensor, dtype: torch.dtype, limit: float) -> Tensor:
    """The nearest values of a type of 8 bits."""
    held = x.clamp(-limit, limit)
    return (held.round() if dtype == torch.int8 else held).to(dtype)
