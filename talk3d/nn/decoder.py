"""The small network that turns plane features into density and colour."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from talk3d.nn.equalized import EqualizedLinear

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """Features to density and colours: linear, softplus, linear (EG3D, section 4.2).

    Args:
        channels: Width of the features.
        hidden: Width of the hidden layer.
        outputs: How many colours; the first three are red, green and blue.
        lr_multiplier: How much slower than others it learns.
    """

    def __init__(self, channels: int = 32, hidden: int = 64, outputs: int = 32, *, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.hidden = EqualizedLinear(channels, hidden, lr_multiplier=lr_multiplier)
        self.output = EqualizedLinear(hidden, 1 + outputs, lr_multiplier=lr_multiplier)

    def forward(
        self, features: Float[Tensor, "*point channel"]
    ) -> tuple[Float[Tensor, "*point"], Float[Tensor, "*point color"]]:
        """Decode features ``[..., C]``, the mean over the planes, to raw densities ``[...]`` and colours ``[..., D]``.

        A density is what ``softplus(density - 1)`` makes positive; colours lie between -0.001 and 1.001.
        """
        w0, b0, w1, b1 = self.weights()
        decoded = linear(softplus(linear(features, w0, b0)), w1, b1)
        return decoded[..., 0], decoded[..., 1:].sigmoid() * 1.002 - 0.001

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(w0, b0, w1, b1)`` with their gains applied, as :func:`talk3d.ops.render_rays` takes them."""
        return *self.hidden.scaled(), *self.output.scaled()
