"""The 3D-aware generator (EG3D, figure 3): latent to planes, planes and camera to a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from talk3d import cameras as cams
from talk3d.models.mapping import MappingNetwork
from talk3d.models.superresolution import SuperResolution, Variant
from talk3d.models.synthesis import BackboneShape, SynthesisBackbone
from talk3d.nn import Decoder, Noise
from talk3d.ops import PackedPlanes, RenderOptions, render_rays, sample_triplane

__all__ = ["CONFIGS", "Generated", "GeneratorConfig", "TriPlaneGenerator", "View"]

_CAMERA = 25  # numbers of a camera vector


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """What the weights of a generator do not say. The defaults are EG3D's for faces (ffhq512-128).

    Attributes:
        rendering: How rays are marched, with the convention of the planes, which weights are worthless without.
        resolution: Side of the rendered features.
        superresolution: A key of :data:`talk3d.models.superresolution.VARIANTS`.
        superresolution_clamp: Largest magnitude of its activations, if there is one.
        z_dim: Width of the random vector.
        w_dim: Width of the latents.
        mapping_layers: Layers of the mapping network.
        plane_resolution: Side of the planes.
        plane_channels: Channels of each plane, and colours that the decoder makes.
        channel_base: The backbone has ``channel_base / side`` channels at each side ...
        channel_max: ... but no more than this.
        decoder_lr_multiplier: How much slower than others the decoder learns; its weights are stored divided by it.
        conditioning_scale: What the camera is multiplied by before the mapping network sees it; 0 hides it.
        focal: Focal length of the frontal camera, in picture widths.
        radius: Its distance from the origin.
        pivot: Where it looks.
    """

    rendering: RenderOptions
    resolution: int = 128
    superresolution: Variant = "8xdc"
    superresolution_clamp: float | None = 256.0
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    plane_resolution: int = 256
    plane_channels: int = 32
    channel_base: int = 32768
    channel_max: int = 512
    decoder_lr_multiplier: float = 1.0
    conditioning_scale: float = 1.0
    focal: float = cams.FFHQ_FOCAL
    radius: float = cams.RADIUS
    pivot: tuple[float, float, float] = cams.FFHQ_PIVOT

    @property
    def backbone(self) -> BackboneShape:
        """Sizes of the backbone."""
        return BackboneShape(self.plane_resolution, 3 * self.plane_channels, self.channel_base, self.channel_max)

    def frontal_camera(self) -> Float[Tensor, " 25"]:
        """Camera vector of the view from the front, with which latents are made at inference."""
        pose = cams.look_at(0.0, 0.0, radius=self.radius, pivot=self.pivot)
        return cams.pack(pose, cams.intrinsics(self.focal))

    def to_dict(self) -> dict[str, Any]:
        """Write as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: If a name is unknown, or the convention of the planes is missing.
        """
        rendering = dict(values.get("rendering", {}))
        for kind, found in ((cls, values), (RenderOptions, rendering)):
            if unknown := found.keys() - {known.name for known in fields(kind)}:
                raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
        if "axes" not in rendering:
            raise ValueError("rendering.axes, the convention of the planes, is missing")
        rest = {name: value for name, value in values.items() if name != "rendering"}
        if "pivot" in rest:
            rest["pivot"] = tuple(rest["pivot"])
        return cls(rendering=RenderOptions(**rendering), **rest)


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


class View(NamedTuple):
    """What a camera sees of the planes.

    Attributes:
        features: ``[B, D, R, R]``, from -1 to about 1; the first three are red, green and blue.
        depth: Distance along the ray ``[B, 1, R, R]``, world units.
        weight: Opacity ``[B, 1, R, R]``, 0 to 1.
    """

    features: Float[Tensor, "batch channel height width"]
    depth: Float[Tensor, "batch 1 height width"]
    weight: Float[Tensor, "batch 1 height width"]


class Generated(NamedTuple):
    """A picture, and the view it was made from.

    Attributes:
        image: ``[B, 3, H, W]``, super-resolved, -1 to about 1.
        view: Its ``features[:, :3]`` are the picture at low resolution.
    """

    image: Float[Tensor, "batch 3 height width"]
    view: View


class TriPlaneGenerator(nn.Module):
    """Mapping network, backbone, decoder and super-resolution around a volume renderer.

    All randomness is an argument: without any, a picture depends on nothing but latent and camera.

    Args:
        config: Sizes and conventions.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config.z_dim, _CAMERA, config.w_dim, layers=config.mapping_layers)
        self.backbone = SynthesisBackbone(config.backbone, w_dim=config.w_dim)
        self.decoder = Decoder(
            config.plane_channels, outputs=config.plane_channels, lr_multiplier=config.decoder_lr_multiplier
        )
        self.superresolution = SuperResolution(
            config.superresolution,
            channels=config.plane_channels,
            w_dim=config.w_dim,
            clamp=config.superresolution_clamp,
        )

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
            cameras = self.config.frontal_camera().to(z).expand(len(z), -1)
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

    def render(
        self,
        planes: Float[Tensor, "planes_batch 3 channel height width"] | PackedPlanes,
        cameras: Float[Tensor, "batch 25"],
        *,
        resolution: int | None = None,
        options: RenderOptions | None = None,
        jitter: Float[Tensor, "batch ray coarse"] | None = None,
        u: Float[Tensor, "batch ray fine"] | None = None,
    ) -> View:
        """Render features.

        Args:
            planes: Planes of each camera, or of all.
            cameras: Camera vectors ``[B, 25]``.
            resolution: Side of the view; by default the configuration's.
            options: Instead of the configuration's.
            jitter: As in :func:`talk3d.ops.render_rays`.
            u: As in :func:`talk3d.ops.render_rays`.

        Raises:
            ValueError: If a shape does not fit.
        """
        if cameras.ndim != 2:
            raise ValueError(f"cameras must have the shape [batch, {_CAMERA}], got {list(cameras.shape)}")
        side = self.config.resolution if resolution is None else resolution
        origins, directions = cams.rays(*cams.unpack(cameras), side)
        options = options or self.config.rendering
        seen = render_rays(planes, self.decoder.weights(), origins, directions, options, jitter=jitter, u=u)
        features = seen.features.transpose(1, 2).unflatten(2, (side, side))
        return View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))

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

    def query(
        self,
        planes: Float[Tensor, "planes_batch 3 channel height width"] | PackedPlanes,
        points: Float[Tensor, "batch point 3"],
    ) -> tuple[Float[Tensor, "batch point"], Float[Tensor, "batch point color"]]:
        """Look up what fills the volume: raw densities ``[B, M]`` and colours ``[B, M, D]`` at world coordinates.

        See :class:`talk3d.nn.Decoder` for their ranges.
        """
        rendering = self.config.rendering
        return self.decoder(sample_triplane(planes, points, box_warp=rendering.box_warp, axes=rendering.axes))
