"""Who a face is: the residual networks of ArcFace (Deng et al. 2019), and of CurricularFace (Huang et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SIDE", "ArcFace", "CurricularFace", "FaceNetwork"]

SIDE = 112  # pixels of the faces that they know
_WIDTH = 512  # of what they say of one


class _Stage(NamedTuple):
    """Units of one width; the first halves the size."""

    before: int
    width: int
    units: int


class FaceNetwork(nn.Module):
    """An improved residual network (IR) that turns a face into a unit vector; equal people have equal vectors.

    Args:
        units: In each of the four stages, of 64, 128, 256 and 512 channels.
        squeeze: Whether units weigh their channels (squeeze and excitation).
        affine: Whether the last normalisation has a scale and a shift of its own.
    """

    title = "a face network"

    def __init__(self, units: Sequence[int], *, squeeze: bool, affine: bool) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        stages = [_Stage(*stage) for stage in zip(widths[:-1], widths[1:], units, strict=True)]
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(
            *(
                _Unit(stage.width if k else stage.before, stage.width, stride=1 if k else 2, squeeze=squeeze)
                for stage in stages
                for k in range(stage.units)
            )
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(),  # of training; here it only keeps the published numbers
            nn.Flatten(),
            nn.Linear(512 * (SIDE // 16) ** 2, _WIDTH),
            nn.BatchNorm1d(_WIDTH, affine=affine),
        )

    def forward(self, faces: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch 512"]:
        """Recognise faces ``[B, 3, 112, 112]``: red, green and blue from -1 to 1.

        Raises:
            ValueError: If they have another shape.
        """
        if faces.ndim != 4 or faces.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"faces must have the shape [batch, 3, {SIDE}, {SIDE}], got {list(faces.shape)}")
        found = self.output_layer(self.body(self.input_layer(faces)))
        return found / found.norm(dim=1, keepdim=True)


class ArcFace(FaceNetwork):
    """IR-SE50, ``model_ir_se50.pth``: of the identity loss."""

    title = "ArcFace IR-SE50"

    def __init__(self) -> None:
        super().__init__((3, 4, 14, 3), squeeze=True, affine=True)


class CurricularFace(FaceNetwork):
    """IR-101, ``CurricularFace_Backbone.pth``: of the metric of identity."""

    title = "CurricularFace IR-101"

    def __init__(self) -> None:
        super().__init__((3, 13, 30, 3), squeeze=False, affine=False)


class _Unit(nn.Module):
    """A residual unit, ``[B, I, H, W]`` to ``[B, O, H / stride, W / stride]``; nothing follows the sum."""

    def __init__(self, before: int, width: int, *, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            *([_Squeeze(width)] if squeeze else []),
        )
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)  # every stride-th pixel
            if before == width
            else nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class _Squeeze(nn.Module):
    """Scale channels by what their means say (Hu, Shen and Sun 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(width // 16, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))
