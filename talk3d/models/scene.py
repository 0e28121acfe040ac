"""What a generator and an identity have in common: planes are rendered, and what is rendered becomes a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from talk3d import cameras as cams
from talk3d.models.superresolution import SuperResolution, Variant
from talk3d.nn import Decoder
from talk3d.ops import PackedPlanes, RenderOptions, render_rays, sample_triplane
from talk3d.profiling import annotate

__all__ = ["Generated", "Scene", "SceneConfig", "View"]

CAMERA = 25  # numbers of a camera vector

Config = TypeVar("Config", bound="SceneConfig")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What the weights of a scene do not say. The defaults are EG3D's for faces (ffhq512-128).

    Attributes:
        rendering: How rays are marched, with the convention of the planes, which weights are worthless without.
        resolution: Side of the rendered features.
        superresolution: A key of :data:`talk3d.models.superresolution.VARIANTS`.
        superresolution_clamp: Largest magnitude of its activations, if there is one.
        w_dim: Width of the latents.
        plane_resolution: Side of the planes.
        plane_channels: Channels of each plane, and colours that the decoder makes.
        decoder_lr_multiplier: How much slower than others the decoder learns; its weights are stored divided by it.
        focal: Focal length of the frontal camera, in picture widths.
        radius: Its distance from the origin.
        pivot: Where it looks.
    """

    rendering: RenderOptions
    resolution: int = 128
    superresolution: Variant = "8xdc"
    superresolution_clamp: float | None = 256.0
    w_dim: int = 512
    plane_resolution: int = 256
    plane_channels: int = 32
    decoder_lr_multiplier: float = 1.0
    focal: float = cams.FFHQ_FOCAL
    radius: float = cams.RADIUS
    pivot: tuple[float, float, float] = cams.FFHQ_PIVOT

    def camera(self, yaw: float = 0.0, pitch: float = 0.0) -> Float[Tensor, " 25"]:
        """Camera vector of a view on the sphere, by default from the front; degrees, see :mod:`talk3d.cameras`."""
        pose = cams.look_at(yaw, pitch, radius=self.radius, pivot=self.pivot)
        return cams.pack(pose, cams.intrinsics(self.focal))

    def scene(self) -> SceneConfig:
        """The part of a generator's configuration that a scene has too."""
        return SceneConfig(**{known.name: getattr(self, known.name) for known in fields(SceneConfig)})

    def to_dict(self) -> dict[str, Any]:
        """Write as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
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


class Scene(nn.Module):
    """Decoder and super-resolution around a volume renderer.

    All randomness is an argument: without any, a picture depends on nothing but its inputs.

    Args:
        config: Sizes and conventions.
    """

    config: SceneConfig

    def __init__(self, config: SceneConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(
            config.plane_channels, outputs=config.plane_channels, lr_multiplier=config.decoder_lr_multiplier
        )
        self.superresolution = SuperResolution(
            config.superresolution,
            channels=config.plane_channels,
            w_dim=config.w_dim,
            clamp=config.superresolution_clamp,
        )

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
            raise ValueError(f"cameras must have the shape [batch, {CAMERA}], got {list(cameras.shape)}")
        side = self.config.resolution if resolution is None else resolution
        with annotate("render.rays"):
            origins, directions = cams.rays(*cams.unpack(cameras), side)
        options = options or self.config.rendering
        seen = render_rays(planes, self.decoder.weights(), origins, directions, options, jitter=jitter, u=u)
        features = seen.features.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # channels-last, also to torch
        return View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))

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
