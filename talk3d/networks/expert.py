"""Whether lips and sound go together: the expert of Wav2Lip (Prajwal et al. 2020, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["COLUMNS", "FRAMES", "LipSyncExpert"]

FRAMES, COLUMNS = 5, 16  # pictures and steps of sound that it looks at: 0.2 s
_MOUTH = (48, 96)  # the lower half of a face of 96 pixels


class _Layer(NamedTuple):
    """A convolution with normalisation. A residual one keeps channels and size."""

    width: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    padding: int = 1
    residual: bool = False


def _same(width: int, count: int) -> list[_Layer]:
    return [_Layer(width, residual=True)] * count


_FACE = [
    _Layer(32, kernel=7, padding=3),
    *(_Layer(64, kernel=5, stride=(1, 2)), *_same(64, 2)),
    *(_Layer(128, stride=2), *_same(128, 3)),
    *(_Layer(256, stride=2), *_same(256, 2)),
    *(_Layer(512, stride=2), *_same(512, 2)),
    *(_Layer(512, stride=2), _Layer(512, padding=0), _Layer(512, kernel=1, padding=0)),
]
_SOUND = [
    *(_Layer(32), *_same(32, 2)),
    *(_Layer(64, stride=(3, 1)), *_same(64, 2)),
    *(_Layer(128, stride=3), *_same(128, 2)),
    *(_Layer(256, stride=(3, 2)), *_same(256, 2)),
    *(_Layer(512, padding=0), _Layer(512, kernel=1, padding=0)),
]


class LipSyncExpert(nn.Module):
    """Wav2Lip's SyncNet, ``lipsync_expert.pth``: unit vectors without negative numbers, equal where lips fit sound."""

    title = "Wav2Lip's lip-sync expert"

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = _encoder(3 * FRAMES, _FACE)
        self.audio_encoder = _encoder(1, _SOUND)

    def forward(
        self, mel: Float[Tensor, "batch 1 80 16"], mouths: Float[Tensor, "batch 15 48 96"]
    ) -> tuple[Float[Tensor, "batch 512"], Float[Tensor, "batch 512"]]:
        """Encode sound and lips.

        Args:
            mel: As :func:`talk3d.audio.spectra.expert_mel` makes it, bands by steps.
            mouths: Lower halves of five consecutive faces, frame after frame, each blue, green, red, from 0 to 1.

        Returns:
            Unit vectors of the sound and of the lips.

        Raises:
            ValueError: If a shape does not fit.
        """
        for name, value, wanted in (("mel", mel, (1, 80, COLUMNS)), ("mouths", mouths, (3 * FRAMES, *_MOUTH))):
            if value.ndim != 4 or value.shape[1:] != wanted:
                raise ValueError(f"{name} must have the shape [batch, {str(wanted)[1:-1]}], got {list(value.shape)}")
        heard, seen = self.audio_encoder(mel).flatten(1), self.face_encoder(mouths).flatten(1)
        return normalize(heard, dim=1), normalize(seen, dim=1)


def _encoder(channels: int, layers: list[_Layer]) -> nn.Sequential:
    widths = [channels, *(layer.width for layer in layers)]
    return nn.Sequential(*(_Block(before, layer) for before, layer in zip(widths, layers, strict=False)))


class _Block(nn.Module):
    def __init__(self, before: int, layer: _Layer) -> None:
        super().__init__()
        convolution = nn.Conv2d(before, layer.width, layer.kernel, layer.stride, layer.padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(layer.width))
        self.residual = layer.residual

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv_block(x)
        return torch.relu(made + x if self.residual else made)
