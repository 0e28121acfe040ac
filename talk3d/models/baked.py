"""An avatar as it renders: everything that no frame changes is worked out beforehand."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_map

from talk3d import cameras as cams
from talk3d.models.compiled import Choice, compiled, faster
from talk3d.models.compositing import composite
from talk3d.models.delta import fold_batch_norm
from talk3d.models.driver import Driver
from talk3d.models.encoders import Conditions
from talk3d.models.identity import Identity
from talk3d.models.quantised import Kind, QuantisedConv, quantise, why_not
from talk3d.models.scene import Generated, View
from talk3d.models.superresolution import FoldedSuperResolution
from talk3d.ops import PackedPlanes, add_planes, border_planes, pack_planes
from talk3d.ops.pencil import FlatDecoder, render_pencils
from talk3d.ops.registry import operators
from talk3d.profiling import annotate

__all__ = ["GRAPHS", "Baked"]

GRAPHS = 4  # that are kept: each has the memory of a frame for itself


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
        device: Where to render; by default where the identity is. ``"cuda"`` is the GPU that is the current one now.

    Attributes:
        side: Side of the pictures in pixels.
        choice: What was measured, where the faster of two super-resolutions was asked for.

    Raises:
        ValueError: On another dtype, or a GPU that is not there.
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
        self.device = _place(torch.device(device or identity.planes.device))
        allowed = (torch.float32, torch.bfloat16, *([torch.float16] if self.device.type == "cuda" else []))
        if dtype not in allowed:
            raise ValueError(f"dtype must be one of {', '.join(map(str, allowed))} on {self.device}, got {dtype}")
        if dtype == torch.bfloat16 and self.device.type == "cuda":
            capability = torch.cuda.get_device_capability(self.device)
            if capability < (8, 0) and not torch.version.hip:
                raise ValueError(
                    f"{self.device} has compute capability {capability[0]}.{capability[1]} and bfloat16 needs 8.0: "
                    "bake with torch.float16"
                )
        self.dtype, self.config = dtype, identity.config

        identity = copy.deepcopy(identity).to(self.device, torch.float32)
        # the CUDA renderer's own layout spares it to pack planes at every call
        bordered = self.device.type == "cuda" and operators()["add_planes"].why_not("cuda") is None
        self._rest = (border_planes if bordered else pack_planes)(identity.planes, self.config.rendering.axes)
        self._decoder = FlatDecoder.of(identity.decoder.weights())
        self._superresolution: nn.Module = identity.superresolution.fold(identity.w).to(dtype)
        self.side: int = identity.superresolution.shape.resolution
        self.choice: Choice | None = None

        self._conditions = self._unet = None
        if driver is not None:
            self._conditions = copy.deepcopy(driver.conditions).eval().to(self.device, torch.float32)
            unet = fold_batch_norm(driver.unet).to(self.device, torch.float32)
            # in full precision, once; what depends on it for every frame is in the type of the frame
            self._unet = unet.for_frames(unet.encode(identity.planes), dtype)
        self._graphs: OrderedDict[tuple[int, int], _Graph] = OrderedDict()
        self._largest: int | None = None  # batch that there is memory for, once there was not enough

    def quantise(self) -> float:
        """Go over to super-resolution in 8 bits, calibrated on this identity at rest; see docs/quantised.md.

        Returns:
            Its PSNR in dB against what it replaces.

        Raises:
            ValueError: If the device multiplies no 8 bits, or the PSNR is below 45 dB: nothing has changed then.
        """
        kind: Kind = "fp8" if why_not("fp8", self.device) is None else "int8"
        if reason := why_not(kind, self.device):
            raise ValueError(reason)
        network = self._folded()
        with torch.no_grad():
            features = self._at_rest(5).clone()  # no inference tensor, which cannot be copied
            self._superresolution, psnr = quantise(network, features, kind=kind)
        self._graphs.clear()
        return psnr

    def compile(self, batch: int = 1, *, if_faster: bool = False) -> None:
        """Go over to super-resolution by ``torch.compile``, which takes minutes; see docs/kernels/frame.md.

        Args:
            batch: Frames at a time that it is compiled for now. Another number is compiled when it first comes.
            if_faster: Measure it for so many frames against what it would replace, and keep the faster one;
                ``choice`` says which.

        Raises:
            ValueError: If ``batch`` is not positive.
            RuntimeError: If it cannot be compiled, or is wrong: nothing has changed then.
        """
        if batch < 1:
            raise ValueError(f"batch must be positive, got {batch}")
        network = self._folded()
        features = self._at_rest(batch)
        if if_faster:
            self._superresolution, self.choice = faster(network, features)
        else:
            self._superresolution = compiled(network, features)
        self._graphs.clear()

    def _folded(self) -> FoldedSuperResolution:
        network = self._superresolution
        changed = any(isinstance(part, QuantisedConv) for part in network.modules())
        if changed or not isinstance(network, FoldedSuperResolution):
            raise ValueError("the super-resolution of this avatar is not the plain one any more: bake again")
        return network

    def _at_rest(self, count: int) -> Tensor:
        """Features of the person at rest, from -20 to 20 degrees."""
        yaws = torch.linspace(-20, 20, count).tolist() if count > 1 else [0.0]
        return self.frames(None, torch.stack([self.config.camera(yaw=yaw) for yaw in yaws])).view.features

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
            ValueError: On wrong shapes, or tokens for an avatar without a driver; and on cameras that are not finite,
                if they are on the CPU: on a GPU nothing is looked at, which would wait for it.
            torch.OutOfMemoryError: If there is no memory for one frame. Where there is none for a batch, it is halved
                from then on, and a warning says so once.

        Note:
            A graph belongs to a number of frames and a resolution; another one is captured for others, and the
            :data:`GRAPHS` used last are kept.
        """
        if cameras.ndim != 2 or cameras.shape[1] != 25:
            raise ValueError(f"cameras must have the shape [batch, 25], got {list(cameras.shape)}")
        if tokens is not None and self._unet is None:
            raise ValueError("this avatar has no driver: tokens must be None")
        if tokens is not None and (tokens.ndim != 3 or len(tokens) != len(cameras)):
            raise ValueError(f"tokens must be [{len(cameras)}, tokens, width], got {list(tokens.shape)}")
        cams.unpack(cameras)  # says what is wrong with them
        pencils = _pencils(cameras.to(torch.float32)).to(self.device)
        tokens = None if tokens is None else tokens.to(self.device)
        side = self.config.resolution if resolution is None else resolution
        graph = graph and self.device.type == "cuda" and tokens is not None
        return self._some(tokens, pencils, side, graph)

    def _some(self, tokens: Tensor | None, pencils: Tensor, side: int, graph: bool) -> Generated:
        """Frames at once, or in as many parts as memory takes."""
        count = len(pencils)
        if self._largest is None or count <= self._largest:
            try:
                return self._captured(tokens, pencils, side) if graph else self._frame(tokens, pencils, side)
            except torch.OutOfMemoryError:
                if count < 2:
                    raise
                self._graphs.clear()
                if self._largest is None:
                    warnings.warn(f"no memory for {count} frames at a time: batches are halved", stacklevel=4)
                self._largest = count // 2
        starts = range(0, count, self._largest)
        some = [slice(start, start + self._largest) for start in starts]
        # copies, for a graph's buffers are written again
        parts = [
            tree_map(torch.clone, self._some(None if tokens is None else tokens[part], pencils[part], side, graph))
            for part in some
        ]
        return tree_map(lambda *found: torch.cat(found), *parts)

    def _captured(self, tokens: Tensor | None, pencils: Tensor, side: int) -> Generated:
        assert tokens is not None
        key = len(pencils), side
        if key not in self._graphs:
            while len(self._graphs) >= GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = _Graph(self, tokens, pencils, side)
        self._graphs.move_to_end(key)
        with annotate("replay"):
            return self._graphs[key].replay(tokens, pencils)

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

    def _frame(self, tokens: Tensor | None, pencils: Tensor, side: int) -> Generated:
        planes = self._rest if tokens is None else self._moved(tokens)
        seen = render_pencils(planes, self._decoder, pencils, side, self.config.rendering)
        # rays [B, R, C] are a channels-last picture already
        features = seen.features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        view = View(features, *(part.unflatten(1, (1, side, side)) for part in seen[1:]))
        return Generated(self._superresolution(features), view)

    def _moved(self, tokens: Tensor) -> PackedPlanes:
        """Planes of the identity with the delta of each frame, in the renderer's layout."""
        assert self._unet is not None
        delta = self._unet(tokens)
        with annotate("compose"):
            if not self._rest.pairs:  # they have a border
                return add_planes(self._rest, delta)
            packed = pack_planes(delta, self.config.rendering.axes)
            # packing is linear, so the sum of packed planes is the sum of planes, packed
            return packed._replace(texels=self._rest.texels + packed.texels)


def _place(device: torch.device) -> torch.device:
    """A device by its number, which stays the same when another one becomes the current one."""
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError(f"there is no GPU for the device {str(device)!r}; talk3d info says why")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise ValueError(f"there is no {device}: torch finds {count} GPU{'s' * (count > 1)}, from cuda:0 on")
    return torch.device("cuda", index)


def _pencils(cameras: Tensor) -> Tensor:
    """Rays of camera vectors ``[B, 25]`` as ``[B, 4, 3]``.

    Steps of the direction across and down the whole picture, the direction of its upper left corner, and the origin. A
    few numbers, on the device that the cameras are on: mostly the CPU, where that launches nothing.
    """
    cam2world, intrinsics = cameras[:, :16].view(-1, 4, 4), cameras[:, 16:]
    fx, skew, cx, _, fy, cy, *_ = intrinsics[:, :, None].unbind(1)  # [B, 1]
    right, down, forward, position = cam2world[:, :3].unbind(2)  # [B, 3]
    across = right / fx
    below = (down - skew * across) / fy
    return torch.stack([across, below, forward - cx * across - cy * below, position], dim=1)


def _bytes(pictures: Tensor) -> Tensor:
    return pictures.clamp(0, 1).mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class _Graph:
    """A frame captured as one CUDA graph, with inputs and outputs in static buffers."""

    def __init__(self, baked: Baked, tokens: Tensor, pencils: Tensor, side: int) -> None:
        self.inputs = tokens.clone(), pencils.clone()
        with torch.cuda.device(baked.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # what libraries choose and allocate at first must not be captured
                    baked._frame(*self.inputs, side)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            # torch's own stream for captures is on the device that captured first
            with torch.cuda.graph(self.graph, stream=stream):
                self.output = baked._frame(*self.inputs, side)

    def replay(self, tokens: Tensor, pencils: Tensor) -> Generated:
        for static, found in zip(self.inputs, (tokens, pencils), strict=True):
            static.copy_(found)
        with torch.cuda.device(pencils.device):  # on whose current stream a graph runs, after the copies
            self.graph.replay()
        return self.output
