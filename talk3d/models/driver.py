"""What moves an identity: condition tokens, and the delta planes that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from talk3d.models.delta import DeltaUNet, IdentityFeatures
from talk3d.models.encoders import ConditionEncoder, Conditions
from talk3d.models.superresolution import SuperResolution

__all__ = ["Driver"]


class Driver(nn.Module):
    """Speech and head to delta planes.

    Args:
        unet: Tokens and identity planes to delta planes.
        conditions: Speech and head to tokens.
        superresolution: Tuned together with them, to stand for the identity's; None if that stays.

    Raises:
        ValueError: If the two disagree on the semantics or on the width of a token.
    """

    def __init__(
        self, unet: DeltaUNet, conditions: ConditionEncoder, superresolution: SuperResolution | None = None
    ) -> None:
        super().__init__()
        if (unet.semantics, unet.condition) != (conditions.semantics, conditions.width):
            raise ValueError(
                f"the U-Net is {unet.semantics} with tokens of width {unet.condition}, "
                f"the encoders are {conditions.semantics} with width {conditions.width}"
            )
        self.unet, self.conditions, self.superresolution = unet, conditions, superresolution

    @classmethod
    def from_options(cls, options: Mapping[str, Mapping[str, Any]]) -> Driver:
        """Make the networks that :attr:`options` describes, with fresh weights.

        Raises:
            ValueError: If an option is missing, unknown, or out of range.
        """
        try:
            tuned = options.get("superresolution")
            return cls(
                DeltaUNet(**options["unet"]),
                ConditionEncoder(**options["conditions"]),
                None if tuned is None else SuperResolution(**tuned),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"its networks cannot be made ({error})") from error

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """What the networks are made from, ready for JSON."""
        networks = {"unet": self.unet, "conditions": self.conditions, "superresolution": self.superresolution}
        return {name: network.options for name, network in networks.items() if network is not None}

    def forward(
        self,
        features: Float[Tensor, "batch *window 16 feature"],
        conditions: Conditions,
        identity: Float[Tensor, "identities 3 channel size size"] | IdentityFeatures,
    ) -> Float[Tensor, "batch 3 channel size size"]:
        """Make the delta planes of each frame; see :class:`ConditionEncoder` and :class:`DeltaUNet`."""
        delta: Tensor = self.unet(self.conditions(features, conditions), identity)
        return delta
