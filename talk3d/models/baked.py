"""An avatar as it renders: everything that no frame changes is worked out beforehand."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from talk3d import cameras as cams
from talk3d.models.compositing import composite
from talk3d.models.delta import IdentityFeatures, fold_batch_norm
from talk3d.models.driver import Driver
from talk3d.models.encoders import Conditions
from talk3d.models.identity import Identity
from talk3d.models.scene import Generated, View
from talk3d.ops import PackedPlanes, pack_planes, render_rays
from talk3d.profiling import annotate

__all__ = ["Baked"]


class Baked:
    """Render frames of one identity, and nothing twice. Made by :meth:`talk3d.Avatar.bake`.

    Cached or folded are the U-Net's way down with its first self-attention, batch norms, and the modulation of the
    super-resolution. Planes, renderer and tokens stay in float32, for they decide where surfaces are; ``dtype`` is that
    of the convolutions and of the transformer.

    Nothing here is differentiable, and later changes of the avatar's weights do not arrive here.

    Args:
        identity: Planes, decoder, super-resolution.
        driver: What moves it; without one there is the person at rest only.
        dtype: ``torch.float32`` or ``torch.bfloat16``; on a GPU ``torch.float16`` too.
        device: Where to render; by default where the identity is.

    Raises:
        ValueError: On another dtype.
    """

    @torch.no_grad()
    def __init__(
        self,
        identity: Identity,
        driver: Driver | None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self.device = torch.device(device or identity.planes.device)
        allowed = (torch.float32, torch.bfloat16, *([torch.float16] if self.device.type == "cuda" else []))
        if dtype not in allowed:
            raise ValueError(f"dtype must be one of {', '.join(map(str, allowed))} on {self.device}, got {dtype}")
        self.dtype, self.config = dtype, identity.config

        identity = copy.deepcopy(identity).to(self.device, torch.float32)
        self._rest = pack_planes(identity.planes, self.config.rendering.axes)
        self._decoder = identity.decoder.weights()
        self._superresolution = identity.superresolution.fold(identity.w).to(dtype)

        self._conditions = self._unet = self._features = None
        if driver is not None:
            self._conditions = copy.deepcopy(driver.conditions).eval().to(self.device, torch.float32)
            unet = fold_batch_norm(driver.unet).to(self.device, torch.float32)
            # in full precision, once; what depends on it for every frame is in the type of the frame
            self._features = IdentityFeatures(*(part.to(dtype) for part in unet.encode(identity.planes)))
            self._unet = unet.to(dtype)
        self._graphs: dict[tuple[int, int], _Graph] = {}

    @property
    def side(self) -> int:
        """Side of the pictures in pixels."""
        return self._superresolution.shape.resolution

    def tokens(
        self, features: Float[Tensor, "frame *window 16 feature"], conditions: Conditions
    ) -> Float[Tensor, "frame 5 width"]:
        """Make the condition tokens of many frames, such as a whole track: each speech window is encoded once.

        Args:
            features: Speech features of consecutive frames ``[N, 16, F]``, or of any frames with their neighbours
                ``[N, 8, 16, F]``; see :meth:`talk3d.models.encoders.AudioEncoder.forward`.
            conditions: What is seen of the head in these frames.

        Raises:
            ValueError: On wrong shapes, or if nothing drives this avatar.
        """
        if self._conditions is None:
            raise ValueError("this avatar has no driver: it shows the person at rest, without tokens")
        with torch.inference_mode():
            moved = Conditions(*(part.to(self.device, torch.float32) for part in conditions))
            tokens: Tensor = self._conditions(features.to(self.device, torch.float32), moved)
        return tokens

    @torch.inference_mode()
    def frames(
        self,
        tokens: Float[Tensor, "batch token width"] | None,
        cameras: Float[Tensor, "batch 25"],
        *,
        resolution: int | None = None,
        graph: bool = True,
    ) -> Generated:
        """Render a frame for each camera.

        Args:
            tokens: What :meth:`tokens` made for these frames; None shows the person at rest.
            cameras: Camera vectors ``[B, 25]``.
            resolution: Side of the rendered features; by default the configuration's.
            graph: On a GPU, replay a CUDA graph, whose stages no profiler's range can tell apart. Without it they are
                launched one by one.

        Returns:
            Pictures and views. From a graph they lie in buffers that the next call with as many frames overwrites: copy
            what must stay.

        Raises:
            ValueError: On wrong shapes, or tokens for an avatar without a driver.
        """
        if cameras.ndim != 2 or cameras.shape[1] != 25:
            raise ValueError(f"cameras must have the shape [batch, 25], got {list(cameras.shape)}")
        if tokens is not None and self._unet is None:
            raise ValueError("this avatar has no driver: tokens must be None")
        if tokens is not None and (tokens.ndim != 3 or len(tokens) != len(cameras)):
            raise ValueError(f"tokens must be [{len(cameras)}, tokens, width], got {list(tokens.shape)}")
        cameras = cameras.to(self.device, torch.float32)
        tokens = None if tokens is None else tokens.to(self.device)
        side = self.config.resolution if resolution is None else resolution
        if not graph or self.device.type != "cuda" or tokens is None:
            return self._frame(tokens, *_rays(cameras, side))
        key = len(cameras), side
        if key not in self._graphs:
            self._graphs[key] = _Graph(self, tokens, cameras, side)
        with annotate("replay"):
            return self._graphs[key].replay(tokens, cameras)

    @torch.inference_mode()
    def compose(
        self, frames: Generated, background: Float[Tensor, "#batch 3 height width"] | None = None
    ) -> UInt8[Tensor, "batch height width channel"]:
        """Put frames before a background, as pictures of 8 bits.

        Args:
            frames: What :meth:`frames` made.
            background: Of each frame or of all, -1 to 1. None keeps what the volume holds.

        Returns:
            ``[B, H, W, 3]``, 0 to 255, on the device of the frames.
        """
        with annotate("io.uint8"):
            image = frames.image
            if background is not None:
                image = composite(image, frames.view.weight, background.to(image))
            return _bytes((image + 1) / 2)

    @torch.inference_mode()
    def cut_out(self, frames: Generated) -> UInt8[Tensor, "batch height width 4"]:
        """Make pictures of 8 bits with an alpha channel, not premultiplied: ``[B, H, W, 4]``."""
        with annotate("io.uint8"):
            size = frames.image.shape[2:]
            alpha = interpolate(frames.view.weight, size, mode="bilinear", align_corners=False).clamp(0, 1)
            # what is less opaque than a step of 8 bits has no colour that could be told
            color = (frames.image + 1) / 2 / alpha.clamp(min=1 / 255)
            return _bytes(torch.cat([color, alpha], dim=1))

    def _frame(self, tokens: Tensor | None, origins: Tensor, directions: Tensor) -> Generated:
        planes = self._rest if tokens is None else self._moved(tokens)
        seen = render_rays(planes, self._decoder, origins, directions, self.config.rendering)
        side = math.isqrt(origins.shape[1])
        # rays [B, R, C] are a channels-last picture already
        features = seen.features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        view = View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))
        return Generated(self._superresolution(features), view)

    def _moved(self, tokens: Tensor) -> PackedPlanes:
        """Planes of the identity with the delta of each frame, in the renderer's layout."""
        assert self._unet is not None
        delta = self._unet(tokens.to(self.dtype), self._features)
        with annotate("compose"):
            packed = pack_planes(delta, self.config.rendering.axes)
            # packing is linear, so the sum of packed planes is the sum of planes, packed
            return packed._replace(texels=self._rest.texels + packed.texels)


def _rays(cameras: Tensor, side: int) -> tuple[Tensor, Tensor]:
    with annotate("render.rays"):
        return cams.rays(*cams.unpack(cameras), side)


def _bytes(pictures: Tensor) -> Tensor:
    return pictures.clamp(0, 1).mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class _Captured(NamedTuple):
    tokens: Tensor
    origins: Tensor
    directions: Tensor


class _Graph:
    """A frame captured as one CUDA graph, with inputs and outputs in static buffers."""

    def __init__(self, baked: Baked, tokens: Tensor, cameras: Tensor, side: int) -> None:
        self.side = side
        self.inputs = _Captured(tokens.clone(), *(part.clone() for part in _rays(cameras, side)))
        stream = torch.cuda.Stream(baked.device)
        stream.wait_stream(torch.cuda.current_stream(baked.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # what libraries choose and allocate at first must not be captured
                baked._frame(*self.inputs)
        torch.cuda.current_stream(baked.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = baked._frame(*self.inputs)

    def replay(self, tokens: Tensor, cameras: Tensor) -> Generated:
        fresh = _Captured(tokens, *_rays(cameras, self.side))
        for static, found in zip(self.inputs, fresh, strict=True):
            static.copy_(found)
        self.graph.replay()
        return self.output
