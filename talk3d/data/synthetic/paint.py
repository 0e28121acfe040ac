"""Colours of the head, its hair and its shirt at points of their surfaces, in linear light. Compiled by numba."""

from __future__ import annotations

from math import exp, floor, sin, sqrt

from numba import njit

from talk3d.data.synthetic.head import (
    BROW,
    EYE_R,
    EYE_X,
    EYE_Y,
    EYE_Z,
    GAP,
    GAZE_X,
    GAZE_Y,
    LEFT_EYE,
    MOUTH_Y,
    RIGHT_EYE,
    WIDTH,
    eye_opening,
    lip_curves,
    lip_sizes,
)

# what a pixel shows: the label map of the truth
NOTHING, TORSO, NECK, FACE, HAIR, EAR, LIPS, MOUTH, LID, EYE, BROWS = range(11)


@njit(fastmath=True, cache=True)
def hash3(i, j, k):
    """A number from 0 to 1 for each cell of a lattice."""
    h = (i * 73856093) ^ (j * 19349663) ^ (k * 83492791)
    h = (h ^ (h >> 13)) * 1274126177
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@njit(fastmath=True, cache=True)
def noise(x, y, z):
    """Smooth noise from 0 to 1, of one period per unit."""
    fx, fy, fz = floor(x), floor(y), floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    x, y, z = x - fx, y - fy, z - fz
    x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = (x if a else 1 - x) * (y if b else 1 - y) * (z if c else 1 - z)
                total += weight * hash3(i + a, j + b, k + c)
    return total


@njit(fastmath=True, cache=True)
def step(low, high, x):
    """0 below low, 1 above high, smooth between."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(fastmath=True, cache=True)
def mix(a, b, s):
    """Linear mixture of two colours."""
    return a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]), a[2] + s * (b[2] - a[2])


@njit(fastmath=True, cache=True)
def paint_eye(x, y, z, face):
    """Colour of an eyeball at a point of its surface, in linear light."""
    side = 1.0 if x > 0 else -1.0
    # where on the ball, as seen along the gaze
    px = (x - side * EYE_X) / EYE_R - face[GAZE_X]
    py = (y - EYE_Y) / EYE_R - face[GAZE_Y]
    r = sqrt(px * px + py * py) if z > EYE_Z else 2.0
    white = (0.80, 0.77, 0.75)
    rays = 0.75 + 0.5 * noise(9 * px / max(r, 0.05), 9 * py / max(r, 0.05), 4 * r)
    iris = (0.045 * rays, 0.17 * rays, 0.20 * rays)
    iris = mix(iris, (0.16, 0.20, 0.09), step(0.34, 0.2, r))
    iris = mix(iris, (0.01, 0.025, 0.03), step(0.41, 0.47, r))
    color = mix(iris, white, step(0.45, 0.5, r))
    color = mix((0.004, 0.004, 0.004), color, step(0.18, 0.22, r))
    opening, above = eye_opening(abs(x), y, face[LEFT_EYE] if x > 0 else face[RIGHT_EYE])
    shadow = step(-0.38, 0.0, above)  # of the lid and its lashes
    color = mix(color, (0.10 * color[0], 0.08 * color[1], 0.08 * color[2]), 0.75 * shadow)
    corner = step(0.75, 1.0, (EYE_X - abs(x)) / 1.3)
    return mix(color, (0.50, 0.22, 0.19), 0.7 * corner)


@njit(fastmath=True, cache=True)
def paint_skin(x, y, z, face, lips):
    """Colour and label of skin at a point of the head's frame."""
    ax = abs(x)
    color = (0.66, 0.395, 0.285)
    tone = noise(0.45 * x + 7, 0.45 * y, 0.45 * z) - 0.5
    color = mix(color, (0.60, 0.30, 0.22), 0.5 * tone + 0.25)
    fine = 1 + 0.10 * (noise(2.6 * x, 2.6 * y, 2.6 * z) - 0.5)
    color = (color[0] * fine, color[1] * fine, color[2] * fine)
    label = FACE
    if y < -9.6 or (z < -1.5 and y < -5.5):
        label = NECK
    if ax > 6.6 and -5.7 < z < -2.0 and abs(y - 0.5) < 3.4:
        label = EAR
        color = mix(color, (0.62, 0.25, 0.19), 0.5)
    if z < 0:
        return color, label
    nostril = sqrt((ax - 0.64) ** 2 / 0.045 + (y + 1.98) ** 2 / 0.05) if z > 4.6 else 9.0
    color = mix((0.20, 0.075, 0.055), color, step(0.7, 1.3, nostril))
    # blush and freckles
    bx, by = ax - 4.1, y + 0.9
    blush = exp(-(bx * bx / 3.4 + by * by / 2.2)) + 0.5 * exp(-(x * x + (y + 1.0) ** 2) / 0.9)
    color = mix(color, (0.64, 0.23, 0.17), 0.5 * blush)
    spots = exp(-(by + 0.1) * (by + 0.1) / 2.6) * step(6.2, 3.5, ax) + 0.12
    dots = step(0.70, 0.82, noise(3.1 * x, 3.1 * y, 1.5 * z)) * spots
    color = mix(color, (0.33, 0.145, 0.075), 0.4 * dots)
    # brows: short hairs along an arch
    rise = face[BROW]
    u = (ax - 3.15) / 2.0
    arch = 4.35 + rise + 0.42 * (1 - u * u) - (0.25 * u if u > 0 else 0.1 * u)
    thick = 0.36 * (1 - 0.55 * step(0.0, 1.0, u)) * step(1.12, 0.85, abs(u))
    hairs = 0.75 + 0.5 * noise(2.5 * (ax - 0.9 * y), 6.0 * (y + 0.4 * ax), 0.0)
    brow = step(1.0, 0.55, abs(y - arch) / max(thick, 0.01)) * min(hairs, 1.0) * (thick > 0.02)
    color = mix(color, (0.075, 0.035, 0.022), 0.88 * brow)
    if brow > 0.5:
        label = BROWS
    # lids and lashes
    ex, ey = (ax - EYE_X) / 1.75, (y - EYE_Y - 0.15) / 1.05
    if ex * ex + ey * ey < 1 and z > EYE_Z:
        label = LID
        opening, above = eye_opening(ax, y, face[LEFT_EYE] if x > 0 else face[RIGHT_EYE])
        fade = step(1.0, 0.45, ex * ex + ey * ey)
        color = mix(color, (0.50, 0.24, 0.19), 0.45 * fade)
        inside = step(1.12, 0.92, abs(ax - EYE_X) / 1.32)
        lash = step(0.2, 0.1, abs(above - 0.05)) * inside
        color = mix(color, (0.02, 0.012, 0.01), 0.93 * lash)
        lower = step(0.12, 0.0, opening) * inside * (above < -0.1)
        color = mix(color, (0.28, 0.13, 0.10), 0.6 * lower)
    # lips, painted from the front
    up, low, _, dome = lip_curves(min(ax, face[WIDTH]), face)
    thick, fuller = lip_sizes(ax, dome)
    edge = max(max(y - up - 1.55 * thick, low - 1.6 * fuller - y), 0.5 * (ax - face[WIDTH]))
    rim = step(0.07, -0.07, edge) * (z > 2.4)
    if rim > 0:
        creases = 0.9 + 0.2 * noise(5 * x, 1.5 * y, 0.0)
        color = mix(color, (0.44 * creases, 0.095 * creases, 0.10 * creases), 0.9 * rim)
        if rim > 0.5:
            label = LIPS
    # inside of the mouth
    my = y - MOUTH_Y
    if face[GAP] > 0.02 and lips > 0.06 and z < 4.9 and ax < face[WIDTH] and -2.3 < my < 0.9:
        deep = step(4.75, 4.2, z + 0.12 * x * x) * step(0.06, 0.2, lips)
        inner = z < 4.6 - 0.16 * x * x - 0.1 * abs(my)
        if inner:
            color = mix(color, (0.05, 0.008, 0.008), deep)
            label = MOUTH
    return color, label


@njit(fastmath=True, cache=True)
def paint_hair(x, y, z):
    """Colour of hair: strands that run back from the parting."""
    side = step(4.0, 8.0, abs(x))
    a = noise(2.6 * x + 0.6 * sin(0.4 * z), 0.35 * y, 0.3 * z)
    b = noise(0.4 * x, 0.35 * y, 2.6 * z + 0.6 * sin(0.5 * y))
    fine = noise(7 * x, 0.8 * y, 0.8 * z) * (1 - side) + noise(0.8 * x, 0.8 * y, 7 * z) * side
    s = 0.6 * (a * (1 - side) + b * side) + 0.4 * fine
    return mix((0.050, 0.020, 0.011), (0.27, 0.125, 0.060), s * s * 1.3)


@njit(fastmath=True, cache=True)
def paint_shirt(x, y, z, is_collar):
    """Colour of the shirt: checks, a placket and buttons; the collar is plain."""
    weave = 0.94 + 0.12 * noise(4 * x, 4 * y, 4 * z)
    color = (0.06 * weave, 0.19 * weave, 0.30 * weave)
    if is_collar:
        return mix(color, (0.30, 0.46, 0.55), 0.35)
    u, v = x / 3.0 - floor(x / 3.0), y / 3.0 - floor(y / 3.0)
    line = step(0.16, 0.08, abs(u - 0.5)) + step(0.16, 0.08, abs(v - 0.5))
    color = mix(color, (0.32, 0.47, 0.55), 0.22 * line)
    if z > -4 and abs(x) < 1.5:
        color = mix(color, (0.03, 0.10, 0.17), step(0.12, 0.04, abs(abs(x) - 1.3)))
        by = (y + 21.4) / 4.0
        by = 4.0 * (by - floor(by + 0.5))
        color = mix(color, (0.75, 0.72, 0.66), step(0.42, 0.34, sqrt(x * x + by * by)))
    return color
