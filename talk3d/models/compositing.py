"""The person over a background: the volume holds the person alone, and its opacity says where the rest shows."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["composite"]


def composite(
    picture: Float[Tensor, "batch channel height width"],
    weight: Float[Tensor, "batch 1 view_height view_width"],
    plate: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """Lay a rendered picture over a plate: ``picture + (1 - weight) * (plate + 1)``.

    A render is premultiplied by its opacity and then mapped from 0..1 to -1..1, so nothing is -1; hence the 1.

    Args:
        picture: Rendered or super-resolved, ``[B, C, H, W]``, -1 to 1.
        weight: Opacity of the view ``[B, 1, h, w]``, enlarged bilinearly if it is smaller than the picture.
        plate: What is behind ``[B, C, H, W]``, -1 to 1; one for all, or of one colour, broadcasts.

    Raises:
        ValueError: If the plate has another size than the picture.
    """
    if plate.shape[2:] not in (picture.shape[2:], (1, 1)):
        raise ValueError(f"plate {list(plate.shape)} must have the height and width of picture {list(picture.shape)}")
    if weight.shape[2:] != picture.shape[2:]:
        weight = interpolate(weight, picture.shape[2:], mode="bilinear", align_corners=False)
    return picture + (1 - weight) * (plate + 1)
