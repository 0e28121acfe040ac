"""A person at rest: planes, and what makes pictures of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.models.generator import TriPlaneGenerator
from talk3d.models.scene import Generated, Scene, SceneConfig, View
from talk3d.models.superresolution import SuperResolution
from talk3d.ops import PackedPlanes

__all__ = ["Identity"]


class Identity(Scene):
    """Planes of one person, with decoder, super-resolution, and the latent that styles it.

    Args:
        config: Sizes and conventions.
    """

    w: Tensor

    def __init__(self, config: SceneConfig) -> None:
        super().__init__(config)
        side = config.plane_resolution
        self.planes = nn.Parameter(torch.zeros(1, 3, config.plane_channels, side, side))
        self.register_buffer("w", torch.zeros(config.w_dim))

    @classmethod
    @torch.no_grad()
    def from_generator(
        cls,
        generator: TriPlaneGenerator,
        ws: Float[Tensor, "layer w_dim"] | Float[Tensor, " w_dim"] | None = None,
        *,
        planes: Float[Tensor, "1 3 channel side side"] | None = None,
    ) -> Identity:
        """Take what a generator makes of one latent.

        Args:
            generator: The generator; its decoder and super-resolution are copied.
            ws: A latent for each layer of the backbone ``[L, w_dim]``, or one for all ``[w_dim]``; by default the mean
                latent, which is the generator's average face.
            planes: Planes ``[1, 3, C, R, R]`` instead of the ones that the backbone makes.

        Raises:
            ValueError: If a shape does not fit, or there is no mean latent.
        """
        ws = generator.mapping.w_avg if ws is None else ws
        if ws is None:
            raise ValueError("the generator keeps no mean latent: pass ws")
        layers, width = generator.backbone.num_ws, generator.config.w_dim
        if list(ws.shape) not in ([width], [1, width], [layers, width]):
            raise ValueError(f"ws must have the shape [{width}] or [{layers}, {width}], got {list(ws.shape)}")
        ws = ws.expand(layers, -1)
        identity = cls(generator.config.scene())
        identity.decoder.load_state_dict(generator.decoder.state_dict())
        identity.superresolution.load_state_dict(generator.superresolution.state_dict())
        found = generator.planes(ws[None]) if planes is None else planes
        if found.shape != identity.planes.shape:
            raise ValueError(f"planes must have the shape {list(identity.planes.shape)}, got {list(found.shape)}")
        identity.planes.copy_(found)
        identity.w.copy_(ws[-1])
        return identity.eval().requires_grad_(False)

    def forward(
        self,
        cameras: Float[Tensor, "batch 25"],
        planes: Float[Tensor, "planes_batch 3 channel side side"] | PackedPlanes | None = None,
        *,
        resolution: int | None = None,
    ) -> Generated:
        """Make pictures of the person at rest, or as other ``planes`` have it; see :meth:`Scene.render`."""
        view = self.render(self.planes if planes is None else planes, cameras, resolution=resolution)
        return Generated(self.enlarge(view), view)

    def enlarge(self, view: View) -> Float[Tensor, "batch 3 height width"]:
        """Super-resolve a view."""
        return self.superresolution(view.features, self.w.expand(len(view.features), -1))

    def adopt(self, superresolution: SuperResolution) -> None:
        """Take another super-resolution in place of this one.

        Raises:
            ValueError: If it wants other features or another latent.
        """
        options, mine = superresolution.options, self.superresolution.options
        if any(options[name] != mine[name] for name in ("channels", "w_dim")):
            raise ValueError(f"a super-resolution of {options} does not fit an identity with {mine}")
        self.superresolution = superresolution
        self.config = replace(self.config, superresolution=options["variant"], superresolution_clamp=options["clamp"])
