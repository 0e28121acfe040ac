"""The face mesh of MediaPipe: which of its 478 vertices is what, and where they lie in the generator's world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHIN",
    "EYES",
    "EYE_CORNERS",
    "LIDS",
    "LIPS",
    "NOSE_TIP",
    "OVAL",
    "RIGID",
    "VERTICES",
    "anchors",
]

VERTICES = 478  # 468 of the face, and 5 of each iris

NOSE_TIP, CHIN = 1, 152
EYE_CORNERS = (33, 263)  # outer ones; left and right are the picture's where the face is frontal
# around each eye, from the outer corner along the lower lid to the inner corner and back
EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
# of each eye: pairs on the upper and the lower lid, outer and inner corner
LIDS = (
    (((160, 144), (159, 145), (158, 153)), (33, 133)),
    (((387, 373), (386, 374), (385, 380)), (263, 362)),
)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)  # outer contour
# around the face, clockwise in the picture from the top
OVAL: tuple[int, ...] = (
    10,
    338,
    297,
    332,
    284,
    251,
    389,
    356,
    454,
    323,
    361,
    288,
    397,
    365,
    379,
    378,
    400,
    377,
    152,
    148,
    176,
    149,
)
OVAL += (150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)

# what bone holds: nose, eye corners, cheekbones, temples, upper forehead; no lid, brow, lip or jaw
_MIDDLE = (1, 2, 4, 5, 6, 168, 195, 197, 10, 151)
_RIGHT: tuple[int, ...] = (
    33,
    133,
    245,
    188,
    122,
    174,
    196,
    3,
    236,
    217,
    198,
    131,
    134,
    51,
    45,
    44,
    220,
    115,
    48,
    64,
    98,
    97,
)
_RIGHT += (116, 117, 118, 111, 143, 34, 127, 162, 139, 21, 71, 54, 68, 103, 67, 109, 123, 50, 101, 100)
_LEFT: tuple[int, ...] = (
    263,
    362,
    465,
    412,
    351,
    399,
    419,
    248,
    456,
    437,
    420,
    360,
    363,
    281,
    275,
    274,
    440,
    344,
    278,
    294,
    327,
    326,
)
_LEFT += (345, 346, 347, 340, 372, 264, 356, 389, 368, 251, 301, 284, 298, 332, 297, 338, 352, 280, 330, 329)
RIGID = (*_MIDDLE, *_RIGHT, *_LEFT)

# positions in MediaPipe's metric space, cm: x to the picture's right, y up, z out of the face
_CANONICAL = {
    33: (-4.445859, 2.663991, 3.173422),
    133: (-1.856432, 2.585245, 3.757904),
    362: (1.856432, 2.585245, 3.757904),
    263: (4.445859, 2.663991, 3.173422),
    1: (0.0, -1.126865, 7.475604),
    61: (-2.456206, -4.342621, 4.283884),
    291: (2.456206, -4.342621, 4.283884),
    152: (0.0, -9.403378, 4.264492),
}
# where the average face of the generator has them: world = scale * cm + offset
_SCALE, _OFFSET = 0.027, (0.0, 0.020, 0.107)


def anchors() -> tuple[list[int], NDArray[np.float64]]:
    """Vertices whose place in the generator's world is known, and where: indices, and positions ``[A, 3]``.

    The first is the outer corner of the right eye and the fourth that of the left.
    """
    return list(_CANONICAL), _SCALE * np.array(list(_CANONICAL.values())) + np.array(_OFFSET)
