"""The 3D-aware generator (EG3D, figure 3): latent to planes, planes and camera to a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from talk3d.models.mapping import MappingNetwork
from talk3d.models.scene import CAMERA, Generated, Scene, SceneConfig
from talk3d.models.synthesis import BackboneShape, SynthesisBackbone
from talk3d.nn import Noise
from talk3d.ops import RenderOptions

__all__ = ["CONFIGS", "GeneratorConfig", "TriPlaneGenerator"]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(SceneConfig):
    """What the weights of a generator do not say. The defaults are EG3D's for faces (ffhq512-128).

    Attributes:
        z_dim: Width of the random vector.
        mapping_layers: Layers of the mapping network.
        channel_base: The backbone has ``channel_base / side`` channels at each side ...
        channel_max: ... but no more than this.
        conditioning_scale: What the camera is multiplied by before the mapping network sees it; 0 hides it.
    """

    z_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    conditioning_scale: float = 1.0

    @property
    def backbone(self) -> BackboneShape:
        """Sizes of the backbone."""
        return BackboneShape(self.plane_resolution, 3 * self.plane_channels, self.channel_base, self.channel_max)


_FFHQ = GeneratorConfig(rendering=RenderOptions(axes="original"))
_CARS = RenderOptions(axes="original", near=0.1, far=2.6, coarse=64, fine=64, box_warp=1.6, white_back=True)

# EG3D's published models, with the plane convention of its main branch; the cars' camera is not a condition
CONFIGS: dict[str, GeneratorConfig] = {
    "ffhq512-128": _FFHQ,
    "afhq512-128": replace(_FFHQ, pivot=(0.0, 0.0, -0.06)),
    "shapenetcars128-64": GeneratorConfig(
        rendering=_CARS,
        resolution=64,
        superresolution="2x",
        conditioning_scale=0.0,
        focal=1.7074,
        radius=1.7,
        pivot=(0.0, 0.0, 0.0),
    ),
    "tiny": GeneratorConfig(
        rendering=RenderOptions(axes="zy", coarse=8, fine=8),
        resolution=16,
        superresolution="2x",
        z_dim=16,
        w_dim=32,
        plane_resolution=32,
        channel_base=512,
        channel_max=16,
    ),
}


class TriPlaneGenerator(Scene):
    """Mapping network, backbone, decoder and super-resolution around a volume renderer.

    All randomness is an argument: without any, a picture depends on nothing but latent and camera.

    Args:
        config: Sizes and conventions.
    """

    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.mapping = MappingNetwork(config.z_dim, CAMERA, config.w_dim, layers=config.mapping_layers)
        self.backbone = SynthesisBackbone(config.backbone, w_dim=config.w_dim)

    def latents(
        self,
        z: Float[Tensor, "batch z_dim"],
        cameras: Float[Tensor, "batch 25"] | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> Float[Tensor, "batch num_ws w_dim"]:
        """Map random vectors to a latent for each layer of the backbone.

        Args:
            z: Random vectors ``[B, z_dim]``.
            cameras: Cameras that the latents are conditioned on; by default the frontal one. They are not the cameras
                that the picture is seen from.
            psi: Truncation: how far from the mean latent to stay, 1 for no limit.
            cutoff: How many layers are truncated; by default all.

        Raises:
            ValueError: If a shape does not fit.
        """
        if cameras is None:
            cameras = self.config.camera().to(z).expand(len(z), -1)
        w = self.mapping(z, cameras * self.config.conditioning_scale)
        ws = w[:, None].expand(-1, self.backbone.num_ws, -1)
        return self.mapping.truncate(ws, psi, cutoff)

    def planes(
        self, ws: Float[Tensor, "batch num_ws w_dim"], *, noise: Noise = "const"
    ) -> Float[Tensor, "batch 3 channel height width"]:
        """Make the planes; ``noise`` is ``"const"``, ``"none"`` or a generator.

        Raises:
            ValueError: If the shape of ``ws`` does not fit.
        """
        return self.backbone(ws, noise=noise).unflatten(1, (3, self.config.plane_channels))

    def forward(
        self,
        ws: Float[Tensor, "batch num_ws w_dim"],
        cameras: Float[Tensor, "batch 25"],
        *,
        noise: Noise = "const",
        resolution: int | None = None,
        options: RenderOptions | None = None,
        jitter: Float[Tensor, "batch ray coarse"] | None = None,
        u: Float[Tensor, "batch ray fine"] | None = None,
    ) -> Generated:
        """Make pictures: :meth:`planes`, :meth:`render`, then super-resolution with the last latent."""
        planes = self.planes(ws, noise=noise)
        view = self.render(planes, cameras, resolution=resolution, options=options, jitter=jitter, u=u)
        return Generated(self.superresolution(view.features, ws[:, -1]), view)
