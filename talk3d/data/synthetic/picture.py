"""Pictures of the head: rays walk to the surfaces of :mod:`.head`, and are lit. Compiled by numba."""

from __future__ import annotations

from math import exp, floor, sin, sqrt

import numpy as np
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
    head_distance,
    head_parts,
    torso_distance,
    torso_parts,
)

# what a pixel shows: the label map of the truth
NOTHING, TORSO, NECK, FACE, HAIR, EAR, LIPS, MOUTH, LID, EYE, BROWS = range(11)

_NEAR, _FAR, _HIT = 60.0, 150.0, 0.004


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
def turn(m, x, y, z, w):
    """Apply a 3x4 matrix, given by rows, to a point (w = 1) or a direction (w = 0)."""
    return (
        m[0] * x + m[1] * y + m[2] * z + m[3] * w,
        m[4] * x + m[5] * y + m[6] * z + m[7] * w,
        m[8] * x + m[9] * y + m[10] * z + m[11] * w,
    )


@njit(fastmath=True, cache=True)
def distance(x, y, z, scene, slack):
    """Distance to the person, of a point of the world; ``slack`` as in :func:`head_parts`."""
    face, neck, to_head, to_torso = scene
    tx, ty, tz = turn(to_torso, x, y, z, 1.0)
    torso = torso_distance(tx, ty, tz) if ty < -9 else ty + 12
    hx, hy, hz = turn(to_head, x, y, z, 1.0)
    return min(torso, head_distance(hx, hy, hz, face, neck, slack))


@njit(fastmath=True, cache=True)
def walk(o, d, start, cone, scene):
    """Distance along a ray, from ``start``, to where the person is nearer than ``cone`` times that; -1 if nowhere."""
    t = start
    for _ in range(120):
        free = distance(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], scene, 0.2) - cone * t
        if free < _HIT:
            return t
        t += 0.85 * free
        if t > _FAR:
            return -1.0
    return t if free < 0.05 else -1.0


@njit(fastmath=True, cache=True)
def normal(x, y, z, scene, h):
    """Unit normal in the world, by differences over a tetrahedron."""
    a = distance(x + h, y - h, z - h, scene, 0.2)
    b = distance(x - h, y - h, z + h, scene, 0.2)
    c = distance(x - h, y + h, z - h, scene, 0.2)
    d = distance(x + h, y + h, z + h, scene, 0.2)
    nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
    s = 1 / max(sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return nx * s, ny * s, nz * s


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
    if y < -9.6 or z < -1.5 and y < -5.5:
        label = NECK
    if ax > 6.6 and -4.6 < z < -0.9 and abs(y - 0.5) < 3.4:
        label = EAR
        color = mix(color, (0.62, 0.25, 0.19), 0.5)
    if z < 0:
        return color, label
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
    # lips
    rim = step(0.16, 0.05, lips) * (z > 2.4)
    if rim > 0:
        creases = 0.9 + 0.2 * noise(5 * x, 1.5 * y, 0.0)
        color = mix(color, (0.50 * creases, 0.125 * creases, 0.125 * creases), 0.85 * rim)
        if rim > 0.5:
            label = LIPS
    # inside of the mouth
    my = y - MOUTH_Y
    if face[GAP] > 0.02 and lips > 0.06 and z < 4.9 and ax < face[WIDTH] and -2.3 < my < 0.9:
        deep = step(4.75, 4.2, z + 0.12 * x * x) * step(0.06, 0.2, lips)
        inner = z < 4.6 - 0.16 * x * x - 0.1 * abs(my)
        if inner:
            color = mix(color, (0.13, 0.022, 0.022), deep)
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


@njit(fastmath=True, cache=True)
def shade(o, d, t, scene):
    """Linear colour and label of the person, t along a ray. The lamps are fixed in the world."""
    face, neck, to_head, to_torso = scene
    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
    hx, hy, hz = turn(to_head, x, y, z, 1.0)
    tx, ty, tz = turn(to_torso, x, y, z, 1.0)
    skin, hair, eye, teeth, tongue, lips = head_parts(hx, hy, hz, face, neck, 0.2)
    shirt, collar = torso_parts(tx, ty, tz)
    least = min(min(min(skin, hair), min(eye, min(teeth, tongue))), min(shirt, collar))
    gloss, power, wrap, fine = 0.10, 18.0, 0.25, 0.03
    if least == hair:
        color, label = paint_hair(hx, hy, hz), HAIR
        gloss, power, wrap, fine = 0.10, 12.0, 0.1, 0.05
    elif least == eye:
        color, label = paint_eye(hx, hy, hz, face), EYE
        gloss, power, wrap = 0.9, 220.0, 0.3
    elif least == teeth:
        color, label = (0.72, 0.67, 0.57), MOUTH
        gloss, power = 0.25, 60.0
    elif least == tongue:
        color, label = (0.42, 0.12, 0.11), MOUTH
    elif least == shirt or least == collar:
        color, label = paint_shirt(tx, ty, tz, least == collar), TORSO
        gloss, wrap = 0.02, 0.1
    else:
        color, label = paint_skin(hx, hy, hz, face, lips)
        if label == LIPS:
            gloss, power = 0.22, 40.0
    nx, ny, nz = normal(x, y, z, scene, fine)
    # ambient occlusion: how much freer the surface could be
    open_sky = 1.0
    for reach, depth in ((0.35, 0.20), (1.2, 0.28), (3.2, 0.30)):
        free = distance(x + reach * nx, y + reach * ny, z + reach * nz, scene, 4.0)
        open_sky *= 1 - depth * min(max(1 - free / reach, 0.0), 1.0)
    r, g, b = 0.0, 0.0, 0.0
    glint = 0.0
    for k in range(3):
        if k == 0:  # key lamp, warm
            lx, ly, lz, kr, kg, kb = -0.47, 0.52, 0.713, 0.92, 0.86, 0.77
        elif k == 1:  # fill, cool
            lx, ly, lz, kr, kg, kb = 0.76, 0.15, 0.632, 0.20, 0.24, 0.29
        else:  # from behind
            lx, ly, lz, kr, kg, kb = 0.62, 0.45, -0.643, 0.35, 0.36, 0.38
        lit = nx * lx + ny * ly + nz * lz
        soft = max((lit + wrap) / (1 + wrap), 0.0)
        red = max((lit + wrap + 0.15) / (1.15 + wrap), 0.0) if wrap == 0.25 else soft
        r, g, b = r + kr * red, g + kg * soft, b + kb * soft
        mx, my, mz = lx - d[0], ly - d[1], lz - d[2]
        half = max((nx * mx + ny * my + nz * mz) / sqrt(mx * mx + my * my + mz * mz), 0.0)
        glint += gloss * kg * half**power * (lit > 0)
    sky = 0.22 + 0.10 * ny
    r, g, b = (r + sky) * open_sky, (g + sky * 1.02) * open_sky, (b + sky * 1.08) * open_sky
    glint *= open_sky
    return (color[0] * r + glint, color[1] * g + glint, color[2] * b + glint), label


@njit(fastmath=True, cache=True)
def encode(c):
    """SRGB of linear light, 0 to 1."""
    c = min(max(c, 0.0), 1.0)
    return 12.92 * c if c < 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055


@njit(fastmath=True, cache=True)
def ray(u, v, cam2world, focal):
    """Origin, unit direction, and the direction's share along the optical axis, at (u, v) of the picture, 0 to 1."""
    cx, cy = (u - 0.5) / focal, (v - 0.5) / focal
    s = 1 / sqrt(cx * cx + cy * cy + 1)
    return (cam2world[3], cam2world[7], cam2world[11]), turn(cam2world, cx * s, cy * s, s, 0.0), s


@njit(fastmath=True, cache=True)
def look(u, v, start, cam2world, focal, scene):
    """What is seen at (u, v) of the picture: sRGB, label and depth along the optical axis."""
    o, d, s = ray(u, v, cam2world, focal)
    t = walk(o, d, start, 0.0, scene)
    if t < 0:
        return 0.0, 0.0, 0.0, NOTHING, 0.0
    color, label = shade(o, d, t, scene)
    return encode(color[0]), encode(color[1]), encode(color[2]), label, t * s


@njit(fastmath=True, cache=True, nogil=True)
def approach(size, cam2world, focal, scene):
    """How far all rays of each block of 8x8 pixels are free, or -1 where they never hit."""
    blocks = (size + 7) // 8
    start = np.empty((blocks, blocks))
    cone = 4.1 * sqrt(2.0) / (size * focal)
    for i in range(blocks):
        for j in range(blocks):
            o, d, _ = ray((8 * j + 4) / size, (8 * i + 4) / size, cam2world, focal)
            start[i, j] = walk(o, d, _NEAR, cone, scene)
    return start


@njit(fastmath=True, cache=True, nogil=True)
def render(cam2world, focal, scene, plate):
    """Draw a square picture over a plate.

    Args:
        cam2world: Pose of an OpenCV camera, centimetres: a 3x4 matrix by rows, as a tuple.
        focal: Focal length in picture widths.
        scene: Face, neck, world to head and world to torso, as tuples. Arrays would be counted at each call.
        plate: Background ``[size, size, 3]``, 0 to 1.

    Returns:
        Colour ``[size, size, 3]`` (uint8), share of the person ``[size, size]`` (uint8), and of each pixel's centre the
        label (uint8) and the depth along the optical axis in hundredths of a centimetre, 0 where there is none (uint16).
    """
    size = plate.shape[0]
    start = approach(size, cam2world, focal, scene)
    color = np.empty((size, size, 3), np.float32)
    share = np.empty((size, size), np.float32)
    label = np.empty((size, size), np.uint8)
    depth = np.empty((size, size), np.uint16)
    for i in range(size):
        for j in range(size):
            free = start[i // 8, j // 8]
            r, g, b, what, far = 0.0, 0.0, 0.0, NOTHING, 0.0
            if free > 0:
                r, g, b, what, far = look((j + 0.5) / size, (i + 0.5) / size, free, cam2world, focal, scene)
            seen = what != NOTHING
            color[i, j, 0] = r if seen else plate[i, j, 0]
            color[i, j, 1] = g if seen else plate[i, j, 1]
            color[i, j, 2] = b if seen else plate[i, j, 2]
            share[i, j], label[i, j], depth[i, j] = seen, what, np.uint16(far * 100 + 0.5)
    smooth = color.copy()
    for i in range(size):
        for j in range(size):
            # where neighbours differ, four rays instead of one
            edge = False
            for a in range(max(i - 1, 0), min(i + 2, size)):
                for b in range(max(j - 1, 0), min(j + 2, size)):
                    gap = abs(int(depth[a, b]) - int(depth[i, j])) > 120
                    off = abs(color[a, b, 0] - color[i, j, 0]) + abs(color[a, b, 1] - color[i, j, 1])
                    edge = edge or gap or ((label[a, b] > 0 or label[i, j] > 0) and off > 0.32)
            if not edge:
                continue
            total = 0.0
            for c in range(3):
                smooth[i, j, c] = 0.0
            for k in range(4):
                du, dv = ((0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625))[k]
                r, g, b, what = 0.0, 0.0, 0.0, NOTHING
                if start[i // 8, j // 8] > 0:
                    at = start[i // 8, j // 8]
                    r, g, b, what, _ = look((j + du) / size, (i + dv) / size, at, cam2world, focal, scene)
                seen = what != NOTHING
                total += seen
                smooth[i, j, 0] += 0.25 * (r if seen else plate[i, j, 0])
                smooth[i, j, 1] += 0.25 * (g if seen else plate[i, j, 1])
                smooth[i, j, 2] += 0.25 * (b if seen else plate[i, j, 2])
            share[i, j] = total / 4
    return (smooth * 255 + 0.5).astype(np.uint8), (share * 255 + 0.5).astype(np.uint8), label, depth
