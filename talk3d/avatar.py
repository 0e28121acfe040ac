"""An avatar: what a user loads, bakes, renders and saves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talk3d.cameras import TALK3D_FOCAL, TALK3D_PIVOT
from talk3d.models.baked import Baked
from talk3d.models.driver import Driver
from talk3d.models.encoders import Conditions
from talk3d.models.identity import Identity
from talk3d.models.scene import Generated, SceneConfig
from talk3d.ops.triplane import Axes
from talk3d.weights.convert import convert
from talk3d.weights.load import fact, filled, filled_driver, load_driver, load_generator, load_latent
from talk3d.weights.store import Weights, read_weights, write_weights

__all__ = ["Avatar", "convert_avatar"]


class Avatar(nn.Module):
    """A person: an identity, and what moves it.

    Args:
        identity: Planes, decoder, super-resolution.
        driver: Speech and head to delta planes; without one the avatar shows the person at rest. A super-resolution
            that was tuned with it moves to the identity, in place of its own.
        facts: What the weights do not say and nothing here reads, such as the speech features that the driver wants.
            Ready for JSON; saved beside the weights.

    Raises:
        ValueError: If identity and driver do not fit each other.

    Example:
        >>> avatar = Avatar.load("avatars/ada")                         # doctest: +SKIP
        >>> baked = avatar.bake()                                       # doctest: +SKIP
        >>> tokens = baked.tokens(features, conditions)                 # doctest: +SKIP
        >>> baked.render(tokens[:1], cameras[:1]).image.shape           # doctest: +SKIP
        torch.Size([1, 3, 512, 512])
    """

    def __init__(
        self, identity: Identity, driver: Driver | None = None, facts: Mapping[str, Any] | None = None
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
        weights = read_weights(folder)
        if weights.kind == "generator":
            w = load_latent(Path(w)) if isinstance(w, (str, Path)) else w
            identity = Identity.from_generator(load_generator(folder), w)
            source = {"generator": weights.facts.get("source")}
            return cls(identity, None if driver is None else load_driver(Path(driver)), source).eval()
        if driver is not None or w is not None:
            raise ValueError(f"{folder} is a whole {weights.kind}: a driver or a latent goes with a generator")
        weights = read_weights(folder, "avatar")
        identity = filled(Identity(SceneConfig.from_dict(fact(folder, weights, "scene"))), weights, "identity", folder)
        moved = filled_driver(weights, folder) if "networks" in weights.facts else None
        return cls(identity, moved, fact(folder, weights, "facts")).eval()

    def save(self, folder: Path | str) -> None:
        """Write a folder of safetensors and JSON, which appears whole or not at all.

        Raises:
            ValueError: If the folder exists and is not empty.
        """
        parts = {"identity": self.identity.state_dict()}
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
        return self.identity(cameras, planes + self.driver(features, conditions, planes))

    def bake(self, dtype: torch.dtype = torch.float32, *, device: torch.device | str | None = None) -> Baked:
        """Prepare for rendering; see :class:`talk3d.models.baked.Baked`."""
        return Baked(self.identity, self.driver, dtype=dtype, device=device)


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
