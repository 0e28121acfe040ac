"""The mapping network: from a random vector and a camera to a generator's latent (StyleGAN, section 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.nn import EqualizedLinear

__all__ = ["MappingNetwork"]

_LR_MULTIPLIER = 0.01
_AVERAGE_DECAY = 0.998


class MappingNetwork(nn.Module):
    """Normalise, embed the camera, and map both to ``w``.

    The discriminator has one too, which sees the camera alone.

    Args:
        z_dim: Width of the random vector; 0 if there is none.
        camera_dim: Width of the camera vector.
        w_dim: Width of the latent, and of every layer.
        layers: How many.
        average: Whether to keep the mean latent ``w_avg``, to which :meth:`truncate` pulls.
    """

    w_avg: Tensor | None

    def __init__(self, z_dim: int, camera_dim: int, w_dim: int, *, layers: int, average: bool = True) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.embed = EqualizedLinear(camera_dim, w_dim)
        self.layers = nn.ModuleList(
            EqualizedLinear(
                z_dim + w_dim if layer == 0 else w_dim, w_dim, activation="lrelu", lr_multiplier=_LR_MULTIPLIER
            )
            for layer in range(layers)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim) if average else None)

    def forward(
        self, z: Float[Tensor, "batch z_dim"] | None, cameras: Float[Tensor, "batch camera_dim"]
    ) -> Float[Tensor, "batch w_dim"]:
        """Map ``z`` ``[B, z_dim]`` (None if that is 0) and camera vectors ``[B, camera_dim]`` to ``w`` ``[B, w_dim]``.

        Raises:
            ValueError: If a shape does not fit.
        """
        camera_dim = self.embed.weight.shape[1]
        if cameras.ndim != 2 or cameras.shape[1] != camera_dim:
            raise ValueError(f"cameras must have the shape [batch, {camera_dim}], got {list(cameras.shape)}")
        expected = [len(cameras), self.z_dim] if self.z_dim else None
        found = None if z is None else list(z.shape)
        if found != expected:
            raise ValueError(f"z must have the shape {expected}, got {found}")
        x = _normalize(self.embed(cameras))
        x = x if z is None else torch.cat([_normalize(z), x], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x

    def truncate(
        self, ws: Float[Tensor, "batch layer w_dim"], psi: float, cutoff: int | None = None
    ) -> Float[Tensor, "batch layer w_dim"]:
        """Pull the latents of the first ``cutoff`` layers (None: of all) to the mean: ``w_avg + psi (w - w_avg)``."""
        if psi == 1:
            return ws
        if self.w_avg is None:
            raise ValueError(f"psi={psi} needs a mean latent, which this network does not keep")
        pulled = self.w_avg.lerp(ws[:, :cutoff], psi)
        return pulled if cutoff is None else torch.cat([pulled, ws[:, cutoff:]], dim=1)

    @torch.no_grad()
    def update_average(self, w: Float[Tensor, "batch w_dim"]) -> None:
        """Move ``w_avg`` towards the mean of a batch, by a share of 0.002."""
        if self.w_avg is None:
            raise ValueError("this network keeps no mean latent")
        self.w_avg.lerp_(w.mean(0), 1 - _AVERAGE_DECAY)


def _normalize(x: Tensor) -> Tensor:
    """Scale to a mean square of 1 over the features."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
