"""An avatar: what a user loads, bakes, renders and saves."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from talk3d.backdrop import Backdrop
from talk3d.cameras import TALK3D_FOCAL, TALK3D_PIVOT
from talk3d.models.baked import Baked
from talk3d.models.driver import Driver
from talk3d.models.encoders import Conditions
from talk3d.models.identity import Identity
from talk3d.models.scene import Generated, SceneConfig
from talk3d.motion import FPS, Motion, imagine, ping_pong
from talk3d.ops.triplane import Axes
from talk3d.profiling import annotate
from talk3d.weights.convert import convert
from talk3d.weights.load import described, fact, filled, filled_driver, load_driver, load_generator, load_latent
from talk3d.weights.store import Weights, read_facts, read_weights, write_weights

__all__ = ["Avatar", "BakedAvatar", "SuperResolutionKind", "convert_avatar"]

SuperResolutionKind = Literal["plain", "compiled", "fastest", "8bit"]
"""How a baked avatar enlarges; see :meth:`Avatar.bake`."""


class Avatar(nn.Module):
    """A person: an identity, and what moves it.

    Args:
        identity: Planes, decoder, super-resolution.
        driver: Speech and head to delta planes; without one the avatar shows the person at rest. A super-resolution
            that was tuned with it moves to the identity, in place of its own.
        facts: What the weights do not say, ready for JSON; saved beside them. ``"features"`` are the fields of
            :class:`talk3d.audio.FeaturesInfo`: the speech features that the driver wants.
        motion: How the head moved in the clip; rendering borrows from it. Without one, a quiet motion is made up.
        plate: The clip's background, uint8 ``[Hs, Ws, 3]``, for an identity whose volume holds the person alone. None
            if the volume holds the background too, as EG3D's does.

    Raises:
        ValueError: If identity and driver do not fit each other.

    Example:
        >>> avatar = Avatar.load("avatars/ada")                         # doctest: +SKIP
        >>> baked = avatar.bake()                                       # doctest: +SKIP
        >>> tokens = baked.tokens(features, conditions)                 # doctest: +SKIP
        >>> baked.frames(tokens[:1], cameras[:1]).image.shape           # doctest: +SKIP
        torch.Size([1, 3, 512, 512])
    """

    def __init__(
        self,
        identity: Identity,
        driver: Driver | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        motion: Motion | None = None,
        plate: UInt8[Tensor, "height width 3"] | None = None,
    ) -> None:
        super().__init__()
        if driver is not None:
            config, unet = identity.config, driver.unet
            wanted = (config.rendering.axes, config.plane_channels, config.plane_resolution)
            if wanted != (unet.axes, unet.channels, unet.resolution):
                raise ValueError(
                    f"the identity's planes are {wanted[0]!r}, {wanted[1]} x {wanted[2]}^2, "
                    f"the driver's {unet.axes!r}, {unet.channels} x {unet.resolution}^2"
                )
            if driver.superresolution is not None:
                identity.adopt(driver.superresolution)
                driver.superresolution = None
        self.identity, self.driver, self.facts = identity, driver, dict(facts or {})
        self.motion, self.plate = motion, plate

    @classmethod
    def load(
        cls, folder: Path | str, *, driver: Path | str | None = None, w: Tensor | Path | str | None = None
    ) -> Avatar:
        """Load an avatar on the CPU, for inference.

        Args:
            folder: What :meth:`save` wrote, or the folder of a converted generator.
            driver: With a generator: the folder of a converted driver.
            w: With a generator: the latent, ``[w_dim]`` or one for each layer ``[L, w_dim]``, or the folder of a
                converted one. By default the mean latent, which is the generator's average face.

        Raises:
            ValueError: If a folder holds something else, is of another version or damaged, or parts do not fit.
        """
        folder = Path(folder)
        kind, facts = read_facts(folder)
        if kind == "generator":
            w = load_latent(Path(w)) if isinstance(w, (str, Path)) else w
            identity = Identity.from_generator(load_generator(folder), w)
            source = {"generator": facts.get("source")}
            return cls(identity, None if driver is None else load_driver(Path(driver)), source).eval()
        if driver is not None or w is not None:
            raise ValueError(f"{folder} is a whole {kind}: a driver or a latent goes with a generator")
        weights = read_weights(folder, "avatar")
        scene = fact(folder, weights, "scene")
        with described(folder):
            made = Identity(SceneConfig.from_dict(scene))
        identity = filled(made, weights, "identity", folder)
        moved = filled_driver(weights, folder) if "networks" in weights.facts else None
        motion = weights.parts.get("motion")
        if motion is not None and motion.keys() != set(Motion._fields):
            raise ValueError(f"{folder / 'motion.safetensors'} is damaged: it holds {', '.join(sorted(motion))}")
        if motion is not None and (reason := Motion(**motion).damage()):
            raise ValueError(f"{folder / 'motion.safetensors'} is damaged: {reason}")
        plate = weights.parts.get("plate", {}).get("plate")
        if "plate" in weights.parts and (plate is None or plate.dtype != torch.uint8 or not _is_picture(plate)):
            raise ValueError(f"{folder / 'plate.safetensors'} is damaged: it holds no picture [H, W, 3] of bytes")
        return cls(
            identity,
            moved,
            fact(folder, weights, "facts"),
            motion=None if motion is None else Motion(**motion),
            plate=plate,
        ).eval()

    def save(self, folder: Path | str) -> None:
        """Write a folder of safetensors and JSON, which appears whole or not at all.

        Raises:
            ValueError: If the folder exists and is not empty.
        """
        parts: dict[str, dict[str, Tensor]] = {"identity": self.identity.state_dict()}
        if self.motion is not None:
            parts["motion"] = self.motion._asdict()
        if self.plate is not None:
            parts["plate"] = {"plate": self.plate}
        facts: dict[str, Any] = {"scene": self.identity.config.to_dict(), "facts": self.facts}
        if self.driver is not None:
            parts |= {name: network.state_dict() for name, network in self.driver.named_children()}
            facts["networks"] = self.driver.options
        write_weights(Weights("avatar", parts, facts), Path(folder))

    def forward(
        self,
        features: Float[Tensor, "batch *window 16 feature"],
        conditions: Conditions,
        cameras: Float[Tensor, "batch 25"],
    ) -> Generated:
        """Render frames, differentiable and with nothing cached; :meth:`bake` is for many.

        Args:
            features: Speech features; see :meth:`talk3d.models.encoders.ConditionEncoder.forward`.
            conditions: What is seen of the head.
            cameras: Camera vectors ``[B, 25]``.

        Raises:
            ValueError: On wrong shapes, or without a driver.
        """
        if self.driver is None:
            raise ValueError("this avatar has no driver: call avatar.identity(cameras) for the person at rest")
        planes = self.identity.planes
        delta = self.driver(features, conditions, planes)
        with annotate("compose"):
            planes = planes + delta
        return self.identity(cameras, planes)

    def bake(
        self,
        dtype: torch.dtype = torch.float32,
        *,
        device: torch.device | str | None = None,
        superresolution: SuperResolutionKind = "plain",
        batch: int = 1,
    ) -> BakedAvatar:
        """Prepare for rendering; see :class:`talk3d.models.baked.Baked`.

        Args:
            dtype: Of the networks.
            device: Where to render.
            superresolution: ``"plain"`` runs our kernels; ``"compiled"`` what torch.compile makes of it in a minute or
                more; ``"fastest"`` measures both and keeps the faster, as ``choice`` of the result says; ``"8bit"``
                multiplies 8 bits, where that cannot be seen.
            batch: Frames at a time, for which it is compiled and measured.

        Raises:
            ValueError: On a wrong argument; on 8 bits that the device does not multiply, or that can be seen.
            RuntimeError: If torch.compile fails.
        """
        if superresolution not in get_args(SuperResolutionKind):
            kinds = ", ".join(map(repr, get_args(SuperResolutionKind)))
            raise ValueError(f"superresolution must be one of {kinds}, got {superresolution!r}")
        baked = BakedAvatar(self, dtype=dtype, device=device)
        if superresolution == "8bit":
            baked.quantise()
        elif superresolution != "plain":
            baked.compile(batch, if_faster=superresolution == "fastest")
        return baked


class BakedAvatar(Baked):
    """A baked identity that knows how its head moved, and what was behind it."""

    def __init__(
        self, avatar: Avatar, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__(avatar.identity, avatar.driver, dtype=dtype, device=device)
        self.facts, self.motion, self.plate = avatar.facts, avatar.motion, avatar.plate

    def moves(self, frames: range) -> Motion:
        """How the head moves in frames: as in its clip, forth and back; or, without one, as is made up."""
        if self.motion is not None:
            return self.motion.at(ping_pong(frames, len(self.motion.blink)))
        return imagine(frames, focal=self.config.focal, radius=self.config.radius, pivot=self.config.pivot)

    def encode_speech(self, audio: Path | str, out: Path) -> int:
        """Write the speech features of a sound file, which the driver of this avatar wants.

        Args:
            audio: Any file that FFmpeg reads.
            out: The ``.npy`` file to write, ``[N, 16, F]``.

        Returns:
            N, frames from the beginning to the end of the sound, the last one perhaps beyond it.

        Raises:
            ValueError: If the file has no sound, or less than a frame of it, or the avatar does not say what it wants.
        """
        from talk3d.audio import FeaturesInfo, decode_sound, encode_speech  # which need libraries that frames do not

        if "features" not in self.facts:
            raise ValueError("this avatar does not say which speech features it listens to")
        try:
            wanted = FeaturesInfo(**self.facts["features"])
        except TypeError:
            raise ValueError("this avatar is damaged: what it says of its speech features cannot be read") from None
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder, "speech.wav")
            with annotate("io.load"):
                sound = decode_sound(Path(audio), wav)
            if sound is None:
                raise ValueError(f"{audio} has no sound")
            if sound.seconds < 1 / FPS:
                raise ValueError(f"{audio} is too short: {1000 * sound.seconds:.0f} ms, and one frame takes 40 ms")
            frames = math.ceil(sound.seconds * FPS - 1e-6)
            with annotate("audio.features"):
                encode_speech(wav, out, frames, like=wanted)
        return frames

    def render(
        self,
        audio: Path | str,
        camera: Float[Tensor, "frame 25"] | Float[Tensor, " 25"] | None = None,
        *,
        batch: int = 1,
    ) -> Iterator[UInt8[Tensor, "height width 3"]]:
        """Render the person speaking, frame by frame, 25 a second.

        Args:
            audio: Any file that FFmpeg reads.
            camera: Camera vectors that are gone through again and again, or one that stands still; by default the
                camera of the clip.
            batch: Frames at a time.

        Yields:
            Pictures ``[H, W, 3]``, 0 to 255, before the clip's background if the avatar has one.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "features.npy")
            count = self.encode_speech(audio, file)
            features = np.load(file, mmap_mode="r")
            for start in range(0, count, batch):
                frames = range(start, min(start + batch, count))
                pictures = self.compose(self.speak(features, frames, camera), self.behind(frames))
                with annotate("io.d2h"):
                    pictures = pictures.cpu()
                yield from pictures

    def speak(
        self,
        features: NDArray[np.float32],
        frames: range,
        camera: Tensor | None = None,
        *,
        resolution: int | None = None,
    ) -> Generated:
        """Render frames of a speech whose features ``[N, 16, F]`` are there; see :meth:`render`."""
        from talk3d.audio import windows

        moves = self.moves(frames)
        heard = torch.from_numpy(windows(features, frames))
        tokens = self.tokens(heard, Conditions(moves.blink, moves.angles, moves.landmarks))
        if camera is None:
            cameras = moves.cameras
        else:
            cameras = camera.expand(len(frames), -1) if camera.ndim == 1 else camera[[f % len(camera) for f in frames]]
        return self.frames(tokens, cameras, resolution=resolution)

    def behind(self, frames: range) -> Float[Tensor, "frame 3 side side"] | None:
        """What the clip's crops show behind the person; None if the volume holds that."""
        if self.plate is None:
            return None
        with annotate("backdrop"):
            if self.motion is None:
                backdrop, rows = Backdrop(self.plate, self.moves(frames).crops, self.side), list(range(len(frames)))
            else:
                backdrop, rows = self._backdrop, ping_pong(frames, len(self.motion.blink))
            return torch.stack([backdrop(row) for row in rows])

    @cached_property
    def _backdrop(self) -> Backdrop:
        """Of the whole clip: each needs the plate in its own size and type."""
        assert self.plate is not None
        assert self.motion is not None
        return Backdrop(self.plate, self.motion.crops, self.side)


def _is_picture(plate: Tensor) -> bool:
    return plate.ndim == 3 and plate.shape[2] == 3 and plate.numel() > 0


def convert_avatar(
    generator: Path,
    out: Path,
    *,
    driver: Path | None = None,
    latent: Path | None = None,
    axes: Axes | None = None,
) -> tuple[Avatar, list[str]]:
    """Make an avatar of published checkpoints, and run nothing of them.

    Args:
        generator: A generator, such as Talk3D's ``G_tune.pkl``; see :func:`talk3d.weights.convert`.
        out: The folder to write. It must not exist, or be empty.
        driver: Talk3D's ``.pt``. With it, the frontal camera is Talk3D's, in whose crops it was trained.
        latent: The person's latent, ``inversion_w_person.pt``; by default the generator's mean.
        axes: The convention of the generator's planes, where the file does not say it.

    Returns:
        The avatar, and sentences on what was left out or assumed.

    Raises:
        ValueError: If a file cannot be converted, the parts do not fit, or the folder is not empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = {"generator": generator, "driver": driver, "latent": latent}
        parts, notes = {}, []
        for name, source in sources.items():
            if source is not None:
                if not source.exists():
                    raise ValueError(f"{source}, which should be the checkpoint of a {name}, does not exist")
                parts[name] = Path(folder, name)
                found = convert(source, parts[name], axes=axes if name == "generator" else None)
                if found.kind != name:
                    raise ValueError(f"{source} holds the weights of a {found.kind}, not of a {name}")
                notes += found.facts["notes"]
        avatar = Avatar.load(parts["generator"], driver=parts.get("driver"), w=parts.get("latent"))
    if driver is not None:
        avatar.identity.config = replace(avatar.identity.config, focal=TALK3D_FOCAL, pivot=TALK3D_PIVOT)
    avatar.facts = {name: source.name for name, source in sources.items() if source is not None}
    avatar.save(out)
    return avatar, notes
