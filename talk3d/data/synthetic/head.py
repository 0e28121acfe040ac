"""The head as implicit surfaces, compiled by numba: distances in centimetres, in the frames of :mod:`.motion`.

Ellipsoids, cones and tubes flow into each other by smooth minima. Lids and lips are cut open along curves that the
face of the moment gives, a row of :class:`~talk3d.data.synthetic.motion.Performance.face`.
"""

from __future__ import annotations

from math import cos, exp, sin, sqrt

import numpy as np
from numba import njit

# columns of Performance.face
GAP, WIDTH, ROUND, JAW, LEFT_EYE, RIGHT_EYE, GAZE_X, GAZE_Y, BROW = range(9)

FAR = 1e3
EYE_X, EYE_Y, EYE_Z, EYE_R = 3.15, 2.58, 2.15, 1.27
EYE_HALF = 1.32  # from the middle of an eye to its corners
UPPER_LID, LOWER_LID = 0.66, -0.4  # of an open eye, from its corners' line
MOUTH_Y = -4.0


@njit(fastmath=True, cache=True)
def smin(a, b, k):
    """The smaller of two distances, with a fillet where they differ by less than k."""
    h = k - abs(a - b)
    return min(a, b) - h * h / (4 * k) if h > 0 else min(a, b)


@njit(fastmath=True, cache=True)
def ellipsoid(x, y, z, a, b, c):
    """Distance to an ellipsoid around the origin, right to first order near it."""
    x, y, z = x / a, y / b, z / c
    k = sqrt(x * x + y * y + z * z)
    x, y, z = x / a, y / b, z / c
    g = sqrt(x * x + y * y + z * z)
    return k * (k - 1) / g if g > 1e-6 else -min(a, b, c)


@njit(fastmath=True, cache=True)
def cone(x, y, z, a, b, radii):
    """Distance to balls along the segment from a to b, whose radius runs from one to the other."""
    ax, ay, az = a
    ux, uy, uz = b[0] - ax, b[1] - ay, b[2] - az
    x, y, z = x - ax, y - ay, z - az
    s = min(max((x * ux + y * uy + z * uz) / (ux * ux + uy * uy + uz * uz), 0.0), 1.0)
    x, y, z = x - s * ux, y - s * uy, z - s * uz
    return sqrt(x * x + y * y + z * z) - radii[0] - s * (radii[1] - radii[0])


@njit(fastmath=True, cache=True)
def eye_opening(ax, y, openness):
    """Signed distance, in front view, to the opening between the lids of one eye; negative inside.

    Also returns the height above the upper lid's edge.
    """
    t = (ax - EYE_X) / EYE_HALF
    dome = 1 - t * t
    line = EYE_Y - 0.02 + 0.09 * t  # the outer corner is the higher
    low = line + LOWER_LID * dome
    lid = low + openness * (UPPER_LID - LOWER_LID) * dome * (1 - 0.12 * t)
    slope = 1 / sqrt(1 + t * t)
    return max(y - lid, low - y) * slope, (y - lid) * slope


@njit(fastmath=True, cache=True)
def lip_curves(ax, face):
    """Heights of the upper and lower edge of the opening, depth of the lips, and 1 - (x / half width)^2."""
    t = ax / face[WIDTH]
    dome = 1 - t * t
    line = MOUTH_Y - 0.02 * t * t + 0.05 * t * t * face[WIDTH] * max(face[WIDTH] - 2.5, 0.0)
    inner = max(1 - (ax / (0.95 * face[WIDTH])) ** 2, -2.0)
    depth = 5.42 + 0.5 * face[ROUND] - (0.20 + 0.05 * face[ROUND]) * ax * ax
    return line + 0.32 * face[GAP] * inner, line - 0.68 * face[GAP] * inner, depth, dome


@njit(fastmath=True, cache=True)
def lip_sizes(ax, dome):
    """Radii of the upper and the lower lip; the upper has a bow."""
    swell = sqrt(max(dome, 0.0))
    return 0.10 + (0.34 - 0.07 * exp(-(ax * ax) / 0.12)) * swell, 0.10 + 0.42 * swell


@njit(fastmath=True, cache=True)
def mouth_parts(x, y, z, face):
    """Distances to lips, to the opening that is cut (negative inside), and to teeth and tongue."""
    ax = abs(x)
    half = face[WIDTH]
    cx = min(ax, half)
    up, low, depth, dome = lip_curves(cx, face)
    thick, fuller = lip_sizes(cx, dome)
    dx, dy, dz = ax - cx, y - up - 0.72 * thick, z - depth + 0.28
    upper = sqrt(dx * dx + dy * dy + 0.75 * dz * dz) - thick
    dy, dz = y - low + 0.72 * fuller, z - depth + 0.36
    lower = sqrt(dx * dx + dy * dy + 0.75 * dz * dz) - fuller
    lips = smin(upper, lower, 0.08)
    slope = 1 / sqrt(1 + (1.5 * face[GAP] * cx / (half * half)) ** 2)
    gap = max(max(y - up, low - y) * slope, ax - half)
    gap = max(gap, ellipsoid(x, y - MOUTH_Y + 0.4 * face[GAP], z - 4.2, 3.2, 2.6, 3.0))
    # the arches of the teeth, and the tongue
    arch = abs(sqrt(x * x + (z - 2.3) * (z - 2.3)) - 2.35) - 0.2
    top = max(arch, abs(y - MOUTH_Y - 0.62) - 0.5)
    bottom = max(arch + 0.15, abs(y - MOUTH_Y + 0.68 * face[GAP] + 0.5) - 0.32)
    teeth = max(min(top, bottom), 2.0 - z)
    tongue = ellipsoid(x, y - MOUTH_Y + 0.95 + 0.8 * face[JAW], z - 2.6, 1.7, 0.55, 1.9)
    return lips, gap, teeth, tongue


@njit(fastmath=True, cache=True)
def hair_distance(x, y, z, ax, slack):
    """Distance to the hair: a cap with a parting, and a bob behind the ears."""
    front = ellipsoid(x, y + 1.4, z - 6.6, 9.0, 11.2, 8.6)  # the face, where hair is cut away
    if front < -1.5 - slack:
        return -front
    cap = ellipsoid(x, y - 4.9, z + 3.6, 8.35, 9.1, 9.7)
    cap = smin(cap, ellipsoid(x + 1.9, y - 11.2, z + 0.6, 3.9, 2.5, 4.8), 2.8)
    cap = smin(cap, ellipsoid(x - 3.1, y - 10.4, z + 0.9, 2.9, 2.3, 4.6), 2.2)
    bob = ellipsoid(ax - 1.6, y + 2.5, z + 7.6, 7.3, 9.0, 4.7)
    d = smin(cap, bob, 2.5)
    if d > 1.2:
        return d - 0.2
    # strands run back from the parting
    u = sin(2.1 * (x + 2.6) + 0.5 * sin(0.7 * y)) + 0.6 * sin(5.3 * x + 1.1 * sin(0.9 * y + z))
    v = sin(2.6 * z + 0.35 * y + sin(0.8 * x))
    side = min(max((ax - 5.0) / 3.0, 0.0), 1.0)
    d += 0.07 * (u * (1 - side) + v * side)
    # what is cut free: the face, and the ears
    h = 0.7 - abs(d + front)
    d = max(d, -front) + (h * h / 2.8 if h > 0 else 0.0)
    ear = ellipsoid(ax - 8.6, y + 0.6, z + 3.3, 3.2, 3.9, 2.4)
    h = 0.5 - abs(d + ear)
    return max(d, -ear) + (h * h / 2.0 if h > 0 else 0.0)


@njit(fastmath=True, cache=True)
def head_parts(x, y, z, face, neck, slack):
    """Distances to skin, hair, eyeballs, teeth, tongue, and the lips alone, of a point of the head's frame.

    Nose, eyes, mouth and ears count as their bounding balls from ``slack`` centimetres around these.
    """
    ax, jaw = abs(x), face[JAW]
    d = ellipsoid(x, y - 4.2, z + 3.2, 7.35, 8.3, 8.9)  # skull
    d = smin(d, ellipsoid(x, y + 0.7, z + 1.2, 6.5, 8.2, 6.6), 1.6)
    d = smin(d, ellipsoid(x, y - 6.3, z - 0.9, 5.6, 4.3, 4.3), 1.6)  # forehead
    d = smin(d, ellipsoid(ax - 2.4, y + 4.5 + 0.6 * jaw, z + 0.2 + 0.2 * jaw, 2.6, 3.0, 3.6), 2.4)  # jaw
    d = smin(d, ellipsoid(x, y + 7.2 + jaw, z - 3.1 + 0.35 * jaw, 2.1, 1.8, 2.3), 2.0)  # chin
    d = smin(d, ellipsoid(ax - 4.2, y + 0.2, z - 1.4, 2.2, 2.1, 2.3), 1.8)  # cheekbones
    d = smin(d, ellipsoid(x, y + 3.9 + 0.3 * jaw, z - 1.6, 3.2, 2.9, 3.15), 1.5)  # muzzle
    d = smin(d, cone(x, y, z, neck, (0.0, -4.0, -3.9), (4.9, 4.3)), 1.6)
    skin, eye, teeth, tongue, lips = d, FAR, FAR, FAR, FAR
    if z > -1:
        skin = smin(skin, ellipsoid(ax - 2.5, y - 4.6, z - 3.7, 2.4, 0.8, 1.2), 1.4)  # brow
        ex, ey, ez = ax - EYE_X, y - EYE_Y, z - EYE_Z
        ball = sqrt(ex * ex + ey * ey + ez * ez)
        if ball < 4.4 + slack:
            socket = ellipsoid(ex, ey + 0.05, z - 5.25, 2.15, 1.4, 2.3)
            h = 1.0 - abs(skin + socket)
            skin = max(skin, -socket) + (h * h / 4.0 if h > 0 else 0.0)
        nx, ny, nz = x, y - 0.3, z - 5.8
        off = sqrt(nx * nx + ny * ny + nz * nz)
        if off < 4.4 + slack:
            nose = cone(x, y, z, (0.0, 3.4, 4.4), (0.0, -0.6, 6.7), (0.6, 0.82))
            nose = smin(nose, ellipsoid(x, y + 0.8, z - 6.65, 0.95, 0.8, 0.95), 0.4)  # tip
            nose = smin(nose, ellipsoid(ax - 1.2, y + 1.45, z - 5.35, 0.7, 0.75, 0.95), 0.6)  # wings
            nose = smin(nose, ellipsoid(x, y + 1.8, z - 5.6, 0.42, 0.5, 1.0), 0.6)  # between the nostrils
            skin = smin(skin, nose, 1.1)
            nostril = ellipsoid(ax - 0.66, y + 2.05, z - 5.9, 0.28, 0.36, 0.5)
            h = 0.25 - abs(skin + nostril)
            skin = max(skin, -nostril) + (h * h / 1.0 if h > 0 else 0.0)
        else:
            skin = min(skin, off - 4.0)
        if ball < 4.4 + slack:
            skin = smin(skin, ball - EYE_R - 0.13, 0.7)
            opening, above = eye_opening(ax, y, face[LEFT_EYE] if x > 0 else face[RIGHT_EYE])
            cut = max(opening, ball - EYE_R - 1.0)
            h = 0.1 - abs(skin + cut)
            skin = max(skin, -cut) + (h * h / 0.4 if h > 0 else 0.0)
            eye = ball - EYE_R
        else:
            skin = min(skin, ball - 4.0)
        my, mz = y - MOUTH_Y, z - 4.2
        off = sqrt(x * x + my * my + mz * mz)
        if off < 4.2 + slack:
            lips, gap, teeth, tongue = mouth_parts(x, y, z, face)
            skin = smin(skin, lips, 0.28)
            if face[GAP] > 0.01:
                h = 0.12 - abs(skin + gap)
                skin = max(skin, -gap) + (h * h / 0.48 if h > 0 else 0.0)
            else:
                teeth, tongue = FAR, FAR
        else:
            skin = min(skin, off - 3.8)
    # ears
    rx, ry, rz = ax - 7.35, y - 0.5, z + 3.5
    off = sqrt(rx * rx + ry * ry + rz * rz)
    if off < 4.0 + slack:
        u, w = 0.86 * rx + 0.5 * rz, -0.5 * rx + 0.86 * rz  # the back stands out
        v = ry - 0.15 * rz
        ear = ellipsoid(u, v, w, 0.62, 2.9 + 0.25 * w, 1.75)
        ear = max(ear, -ellipsoid(u - 0.6, v - 0.35, w - 0.05, 0.5, 1.9, 1.05))
        ear = smin(ear, ellipsoid(u - 0.15, v + 0.2, w - 1.1, 0.4, 0.7, 0.45), 0.3)
        skin = smin(skin, ear, 0.5)
    else:
        skin = min(skin, off - 3.6)
    return skin, hair_distance(x, y, z, ax, slack), eye, teeth, tongue, lips


@njit(fastmath=True, cache=True)
def head_distance(x, y, z, face, neck, slack):
    """Distance to whatever of the head is nearest; from afar, to a ball around it."""
    if y < -12 and slack < 1:  # below the chin and the hair there is the neck alone
        return min(cone(x, y, z, neck, (0.0, -4.0, -3.9), (4.9, 4.3)), -11.2 - y)
    bx, by, bz = x, y - 1.0, z + 3.0
    off = sqrt(bx * bx + by * by + bz * bz)
    if off > 17.0:
        return off - 16.0
    skin, hair, eye, teeth, tongue, _ = head_parts(x, y, z, face, neck, slack)
    return min(min(skin, hair), min(eye, min(teeth, tongue)))


@njit(fastmath=True, cache=True)
def torso_parts(x, y, z):
    """Distances to the shirt and its collar, of a point of the torso's frame."""
    ax = abs(x)
    d = ellipsoid(x, y + 33.0, z + 5.0, 17.5, 15.5, 10.0)
    d = smin(d, cone(ax, y, z, (3.5, -16.8, -6.2), (14.5, -22.0, -6.0), (3.2, 4.2)), 3.0)
    d = smin(d, cone(ax, y, z, (14.5, -22.5, -6.0), (20.0, -36.0, -5.0), (4.6, 5.0)), 2.0)
    d += 0.12 * sin(0.55 * x + 0.4 * y) * cos(0.3 * y - 0.5 * x)  # folds
    if y < -23 or ax > 11:
        return d, FAR
    r = sqrt(x * x + (z + 4.6) * (z + 4.6))
    collar = 0.8 * abs(r - 6.0 + 0.33 * (y + 14.6)) - 0.32
    rim = y + 14.0 - 0.12 * (z + 4.6) * -1.0
    collar = max(collar, 0.85 * max(rim, -19.4 - y))
    opening = 0.75 * (0.6 + 0.42 * (y + 18.6) - ax)  # the V in front
    if z > -4:
        collar = max(collar, opening)
    return d, collar


@njit(fastmath=True, cache=True)
def torso_distance(x, y, z):
    """Distance to shirt or collar."""
    shirt, collar = torso_parts(x, y, z)
    return min(shirt, collar)


@njit(fastmath=True, cache=True)
def front(x, y, face, neck):
    """Depth z at which a line from the front, along -z, meets skin or eyeball."""
    z = 14.0
    for _ in range(200):
        skin, _, eye, _, _, _ = head_parts(x, y, z, face, neck, 0.2)
        free = min(skin, eye)
        if free < 1e-3:
            break
        z -= 0.6 * free
    return z


@njit(fastmath=True, cache=True)
def find_landmarks(face, neck):
    """Points of :data:`.truth.LANDMARKS` in the head's frame, in that order."""
    up, low, _, _ = lip_curves(0.0, face)
    corner, _, _, _ = lip_curves(face[WIDTH], face)
    outer, inner = EYE_X + EYE_HALF, EYE_X - EYE_HALF
    sketch = (
        (0.0, -0.95),
        (0.0, -8.1 - face[JAW]),
        (outer, EYE_Y + 0.07),
        (inner, EYE_Y - 0.11),
        (-outer, EYE_Y + 0.07),
        (-inner, EYE_Y - 0.11),
        (face[WIDTH], corner),
        (-face[WIDTH], corner),
        (0.0, up + 0.02),
        (0.0, low - 0.02),
    )
    points = np.empty((len(sketch), 3))
    for k in range(len(sketch)):
        points[k, 0], points[k, 1] = sketch[k]
        points[k, 2] = front(sketch[k][0], sketch[k][1], face, neck)
    return points
