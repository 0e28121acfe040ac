"""What drives a frame, as tokens: speech, blink, head pose and landmarks (Talk3D, sections 3.2 and 3.3)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from talk3d.models.delta import Semantics
from talk3d.profiling import annotate

__all__ = ["TOKENS", "AudioEncoder", "ConditionEncoder", "Conditions", "FourierEncoder", "fourier"]

# the order in which the U-Net sees them
TOKENS = ("audio", "blink", "null", "angles", "landmarks")

_NEIGHBOURS = 8  # frames that a speech token hears: four before, itself, three after
_STEPS = 16  # feature steps around one frame
_SPEECH_SLOPE = 0.02


class Conditions(NamedTuple):
    """What is seen of the head in each frame.

    Attributes:
        blink: How far the eyes are closed, mean of both, 0 (open) to 1 ``[B]``.
        angles: Pitch, yaw and roll of the head in degrees ``[B, 3]``.
        landmarks: Nose tip and the outer corners of the left and the right eye in the uncropped frame ``[B, 3, 2]``,
            x and y from its middle, in halves of its width.
    """

    blink: Float[Tensor, " batch"]
    angles: Float[Tensor, "batch 3"]
    landmarks: Float[Tensor, "batch 3 2"]


def fourier(values: Float[Tensor, "batch value"], octaves: int) -> Float[Tensor, "batch encoded"]:
    """Encode values by sines and cosines of frequencies 1, 2, 4, ... radians (NeRF, section 5.1, without its pi).

    Args:
        values: ``[B, V]``.
        octaves: Number of frequencies.

    Returns:
        ``[B, V * (1 + 2 * octaves)]``: the values, sines of all at the first frequency, cosines, and so on.
    """
    angles = [values * 2.0**octave for octave in range(octaves)]
    return torch.cat([values, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


class FourierEncoder(nn.Module):
    """Encode a few numbers as a token: Fourier features, then three linear layers.

    Args:
        values: How many numbers.
        octaves: See :func:`fourier`.
        width: Of the token.
    """

    def __init__(self, values: int, octaves: int, width: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.layers = nn.Sequential(
            nn.Linear(values * (1 + 2 * octaves), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(self, values: Float[Tensor, "batch value"]) -> Float[Tensor, "batch width"]:
        """Take ``[B, V]`` to ``[B, E]``."""
        encoded: Tensor = self.layers(fourier(values, self.octaves))
        return encoded


class AudioEncoder(nn.Module):
    """Encode speech features: convolutions over the steps of a frame, then attention among eight frames (AD-NeRF).

    Args:
        features: Width F of the speech features.
        width: Of the token.
    """

    def __init__(self, features: int, width: int = 64) -> None:
        super().__init__()
        self.features = features
        narrow = width // 2
        self.convs = _convs((features, narrow, narrow, width, width), stride=2)
        self.project = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(_SPEECH_SLOPE), nn.Linear(width, width))
        self.attention = _convs((width, 16, 8, 4, 2, 1), stride=1)
        self.mix = nn.Linear(_NEIGHBOURS, _NEIGHBOURS)

    def forward(
        self, features: Float[Tensor, "frame 16 feature"] | Float[Tensor, "frame 8 16 feature"]
    ) -> Float[Tensor, "frame width"]:
        """Encode frames.

        Args:
            features: Of consecutive frames, ``[N, 16, F]``: each is encoded once, and the frames before the first and
                after the last count as zero features. Or of any frames, each with its neighbours from four before to
                three after, ``[N, 8, 16, F]``.

        Returns:
            A token of each frame ``[N, E]``.

        Raises:
            ValueError: If the shape is neither.
        """
        shape, of_frame = list(features.shape), [_STEPS, self.features]
        if shape[1:] not in (of_frame, [_NEIGHBOURS, *of_frame]):
            raise ValueError(
                f"features must have the shape [frames, {_STEPS}, {self.features}] or "
                f"[frames, {_NEIGHBOURS}, {_STEPS}, {self.features}], got {shape}"
            )
        if features.ndim == 4:
            return self.attend(self.encode(features.flatten(0, 1)).unflatten(0, (-1, _NEIGHBOURS)))
        before = _NEIGHBOURS // 2
        padded = pad(features, (0, 0, 0, 0, before, _NEIGHBOURS - 1 - before))
        return self.attend(self.encode(padded).unfold(0, _NEIGHBOURS, 1).mT)

    @torch.no_grad()
    def look_at_the_middle(self) -> None:
        """Begin with attention to the frame itself; that to all neighbours alike would blur speech over 0.3 s."""
        self.mix.weight.mul_(0.1)
        self.mix.bias.copy_(-(torch.arange(_NEIGHBOURS) - _NEIGHBOURS // 2).square() / 2)

    def encode(self, features: Float[Tensor, "frame 16 feature"]) -> Float[Tensor, "frame width"]:
        """Encode frames one by one: ``[M, 16, F]`` to ``[M, E]``."""
        encoded: Tensor = self.project(self.convs(features.mT).squeeze(2))
        return encoded

    def attend(self, neighbours: Float[Tensor, "frame 8 width"]) -> Float[Tensor, "frame width"]:
        """Average encoded neighbours ``[N, 8, E]`` with weights that depend on them: ``[N, E]``."""
        shares = self.mix(self.attention(neighbours.mT).squeeze(1)).softmax(1)
        return torch.einsum("nw,nwe->ne", shares, neighbours)


class ConditionEncoder(nn.Module):
    """Encode what drives a frame as the five tokens :data:`TOKENS`; "null" is one that is learned, and nothing drives.

    ``semantics="published"`` feeds the numbers to frequencies so high that they alias, as released weights expect:
    blink in the range 0 to 2 of a facial action unit, angles in degrees. ``"aligned"`` brings each to about -1 to 1 and
    stops where a frequency would resolve less than the tracker does; its fresh tokens vary as much as their inputs do,
    so that training hears speech from its first step.

    Args:
        features: Width of the speech features, such as 80 mel bands.
        semantics: ``"aligned"`` for new training, ``"published"`` for released weights.
        width: Of a token.

    Raises:
        ValueError: On unknown semantics.
    """

    def __init__(self, features: int, *, semantics: Semantics = "aligned", width: int = 64) -> None:
        super().__init__()
        if semantics not in ("aligned", "published"):
            raise ValueError(f"semantics must be 'aligned' or 'published', got {semantics!r}")
        self.features, self.semantics, self.width = features, semantics, width
        blink, angles, landmarks = (16, 10, 6) if semantics == "published" else (4, 4, 6)
        self.audio = AudioEncoder(features, width)
        self.blink = FourierEncoder(1, blink, width)
        self.null = nn.Parameter(torch.randn(width))
        self.angles = FourierEncoder(3, angles, width)
        self.landmarks = FourierEncoder(6, landmarks, width)
        if semantics == "aligned":
            self.apply(_keep_variance)
            self.audio.look_at_the_middle()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make such a network, ready for JSON."""
        return {"features": self.features, "semantics": self.semantics, "width": self.width}

    def forward(
        self, features: Float[Tensor, "batch *window 16 feature"], conditions: Conditions
    ) -> Float[Tensor, "batch 5 width"]:
        """Make the tokens of each frame.

        Args:
            features: Speech features of consecutive frames ``[B, 16, F]``, or of any with their neighbours
                ``[B, 8, 16, F]``; see :meth:`AudioEncoder.forward`.
            conditions: What is seen of the head in the same frames.

        Returns:
            ``[B, 5, E]``.

        Raises:
            ValueError: On wrong shapes; with the name and shape of the argument.
        """
        with annotate("audio"):
            audio = self.audio(features)
        batch = audio.shape[0]
        for (name, found), shape in zip(conditions._asdict().items(), ([], [3], [3, 2]), strict=True):
            if list(found.shape) != [batch, *shape]:
                raise ValueError(f"{name} must have the shape {[batch, *shape]}, got {list(found.shape)}")
        blink, angles, landmarks = conditions
        if self.semantics == "published":
            blink = 2 * blink
        else:
            blink, angles = 2 * blink - 1, angles / 90
        with annotate("tokens"):
            tokens = (
                audio,
                self.blink(blink[:, None]),
                self.null.expand(batch, -1),
                self.angles(angles),
                self.landmarks(landmarks.flatten(1)),
            )
            return torch.stack(tokens, dim=1)


def _keep_variance(layer: nn.Module) -> None:
    """He initialisation. By torch's own a fresh speech token varies by 0.003, beside 1 of the one that is learned."""
    if isinstance(layer, (nn.Linear, nn.Conv1d)) and layer.bias is not None:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def _convs(widths: tuple[int, ...], stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, out in pairwise(widths):
        layers += [nn.Conv1d(width, out, 3, stride, padding=1), nn.LeakyReLU(_SPEECH_SLOPE)]
    return nn.Sequential(*layers)
