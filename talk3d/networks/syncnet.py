"""How far lips are from the sound: SyncNet v2 (Chung and Zisserman 2016), of the metrics LSE-C and LSE-D."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["COLUMNS", "FRAMES", "SIDE", "SyncNet"]

FRAMES, COLUMNS, SIDE = 5, 20, 224  # pictures and steps of sound that it looks at, 0.2 s; pixels of a picture
_CEPSTRUM = 13


class SyncNet(nn.Module):
    """SyncNet v2, ``syncnet_v2.model``: features of sound and of lips, near each other where they go together."""

    title = "SyncNet v2"

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer(nn.Conv2d(1, 64, 3, padding=1)),
            nn.MaxPool2d(1, 1),
            *_layer(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *_layer(nn.Conv2d(192, 384, 3, padding=1)),
            *_layer(nn.Conv2d(384, 256, 3, padding=1)),
            *_layer(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_layer(nn.Conv2d(256, 512, (5, 4))),
        )
        flat = (0, 1, 1)
        self.netcnnlip = nn.Sequential(
            *_layer(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), flat)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), flat),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=flat)),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=flat)),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=flat)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        self.netfcaud, self.netfclip = _head(), _head()

    def sound(self, cepstra: Float[Tensor, "batch 1 13 20"]) -> Float[Tensor, "batch 1024"]:
        """Features of sound; ``cepstra`` as :func:`talk3d.audio.spectra.cepstra` makes them.

        Raises:
            ValueError: If they have another shape.
        """
        _require("cepstra", cepstra, (1, _CEPSTRUM, COLUMNS))
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))

    def lips(self, pictures: Float[Tensor, "batch 3 5 224 224"]) -> Float[Tensor, "batch 1024"]:
        """Features of five consecutive pictures: blue, green and red from 0 to 255.

        Raises:
            ValueError: If they have another shape.
        """
        _require("pictures", pictures, (3, FRAMES, SIDE, SIDE))
        return self.netfclip(self.netcnnlip(pictures).flatten(1))


def _layer(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    normal = nn.BatchNorm3d if isinstance(convolution, nn.Conv3d) else nn.BatchNorm2d
    return convolution, normal(convolution.out_channels), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def _require(name: str, value: Tensor, wanted: tuple[int, ...]) -> None:
    if value.shape[1:] != wanted:
        raise ValueError(f"{name} must have the shape [batch, {str(wanted)[1:-1]}], got {list(value.shape)}")
