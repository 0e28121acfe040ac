"""Pictures of the head: rays walk to the surfaces of :mod:`.head`, and are lit. Compiled by numba."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from talk3d.data.synthetic.head import head_distance, head_parts, torso_distance, torso_parts
from talk3d.data.synthetic.paint import (
    EYE,
    HAIR,
    LIPS,
    MOUTH,
    NOTHING,
    TORSO,
    paint_eye,
    paint_hair,
    paint_shirt,
    paint_skin,
)

_NEAR, _FAR, _HIT = 60.0, 132.0, 0.008
_BLOCK = 4  # pixels along a side of those that start together


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
    t, before, step = start, 0.0, 0.0
    for _ in range(120):
        free = distance(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], scene, 0.2) - cone * t
        if free < _HIT:
            # a secant that went too far is taken back along itself
            return t + step * free / (before - free) if free < -_HIT and before > _HIT else t
        fall = before - free
        # near a surface the ray runs straight at it: where the last step's distances say that it will be
        secant = 0.95 * free * step / fall if free < 0.6 and fall > 0.3 * step else 0.0
        step = max(0.85 * free, min(secant, 2.5 * free))
        before = free
        t += step
        if t > _FAR:
            return -1.0
    return t if cone > 0 or free < 0.05 else -1.0


@njit(fastmath=True, cache=True)
def normal(x, y, z, here, scene, h):
    """Unit normal in the world, from the distance here and h further along each axis."""
    nx = distance(x + h, y, z, scene, 0.2) - here
    ny = distance(x, y + h, z, scene, 0.2) - here
    nz = distance(x, y, z + h, scene, 0.2) - here
    s = 1 / max(sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return nx * s, ny * s, nz * s


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
        color, label = (0.60, 0.56, 0.48), MOUTH
        gloss, power = 0.25, 60.0
    elif least == tongue:
        color, label = (0.42, 0.12, 0.11), MOUTH
    elif least in (shirt, collar):
        color, label = paint_shirt(tx, ty, tz, least == collar), TORSO
        gloss, wrap = 0.02, 0.1
    else:
        color, label = paint_skin(hx, hy, hz, face, lips)
        if label == LIPS:
            gloss, power = 0.22, 40.0
    nx, ny, nz = normal(x, y, z, least, scene, fine)
    # ambient occlusion: how much freer the surface could be
    open_sky = 1.0
    for reach, depth in ((0.5, 0.30), (2.4, 0.42)):
        free = distance(x + reach * nx, y + reach * ny, z + reach * nz, scene, reach + 1.3)
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
    """How far all rays of each block of pixels are free, or -1 where they never hit."""
    blocks = -(-size // _BLOCK)
    start = np.empty((blocks, blocks))
    cone = 0.51 * _BLOCK * sqrt(2.0) / (size * focal)
    for i in range(blocks):
        for j in range(blocks):
            o, d, _ = ray((j + 0.5) * _BLOCK / size, (i + 0.5) * _BLOCK / size, cam2world, focal)
            start[i, j] = walk(o, d, _NEAR, cone, scene)
    return start


# draw and refine are two functions because a compiler that meets look twice in one does not inline it, which takes
# three times as long


@njit(fastmath=True, cache=True, nogil=True)
def draw(start, cam2world, focal, scene, plate):
    """One ray through the centre of each pixel: sRGB, label and depth ``[size, size]``."""
    size = plate.shape[0]
    color = plate.copy()
    label = np.zeros((size, size), np.uint8)
    depth = np.zeros((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            if start[i // _BLOCK, j // _BLOCK] < 0:
                continue
            at = start[i // _BLOCK, j // _BLOCK]
            r, g, b, what, far = look((j + 0.5) / size, (i + 0.5) / size, at, cam2world, focal, scene)
            if what != NOTHING:
                color[i, j, 0], color[i, j, 1], color[i, j, 2] = r, g, b
                label[i, j], depth[i, j] = what, far
    return color, label, depth


@njit(fastmath=True, cache=True, nogil=True)
def find_edges(color, label, depth):
    """Where neighbours differ, so that one ray is not enough: the nearest depth there, else 0 ``[size, size]``."""
    size = len(label)
    edges = np.zeros((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            nearest, differ = np.float32(_FAR), False
            for a in range(max(i - 1, 0), min(i + 2, size)):
                for b in range(max(j - 1, 0), min(j + 2, size)):
                    off = abs(color[a, b, 0] - color[i, j, 0]) + abs(color[a, b, 1] - color[i, j, 1])
                    someone = label[a, b] != NOTHING or label[i, j] != NOTHING
                    differ |= abs(depth[a, b] - depth[i, j]) > 1.2 or (someone and off > 0.3)
                    if label[a, b] != NOTHING:
                        nearest = min(nearest, depth[a, b])
            if differ:
                edges[i, j] = nearest
    return edges


@njit(fastmath=True, cache=True, nogil=True)
def refine(edges, start, cam2world, focal, scene, plate, color, label):
    """Send three more rays through the pixels of edges, and return the share that hits ``[size, size]``, or -1."""
    size = len(edges)
    share = np.full((size, size), np.float32(-1))
    for i in range(size):
        for j in range(size):
            if edges[i, j] == 0 or start[i // _BLOCK, j // _BLOCK] < 0:
                continue
            at, hits = start[i // _BLOCK, j // _BLOCK], 1.0 * (label[i, j] != NOTHING)
            at = max(at, edges[i, j] - 1.0)  # nothing between pixels stands out farther than that
            color[i, j] *= 0.25
            for k in range(3):  # with the centre, about a turned grid
                du, dv = ((0.15, 0.38), (0.63, 0.14), (0.72, 0.90))[k]
                r, g, b, what, _ = look((j + du) / size, (i + dv) / size, at, cam2world, focal, scene)
                if what == NOTHING:
                    r, g, b = plate[i, j, 0], plate[i, j, 1], plate[i, j, 2]
                else:
                    hits += 1
                color[i, j, 0] += 0.25 * r
                color[i, j, 1] += 0.25 * g
                color[i, j, 2] += 0.25 * b
            share[i, j] = hits / 4
    return share


def render(
    cam2world: tuple[float, ...], focal: float, scene: tuple[tuple[float, ...], ...], plate: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw a square picture over a plate. Other threads of Python run meanwhile.

    Args:
        cam2world: Pose of an OpenCV camera, centimetres: a 3x4 matrix by rows.
        focal: Focal length in picture widths.
        scene: Face, neck, world to head and world to torso: :meth:`.motion.Performance.scene`. They are tuples, as
            numba would count references to arrays at each call.
        plate: Background ``[size, size, 3]``, 0 to 1.

    Returns:
        Colour ``[size, size, 3]`` and share of the person ``[size, size]``, 0 to 255; and of each pixel's centre the
        label, and the depth along the optical axis in hundredths of a centimetre, 0 where there is none.
    """
    start = approach(len(plate), cam2world, focal, scene)
    color, label, depth = draw(start, cam2world, focal, scene, plate)
    share = refine(find_edges(color, label, depth), start, cam2world, focal, scene, plate, color, label)
    share = np.where(share < 0, label != NOTHING, share)
    as_bytes = [(values * 255 + 0.5).astype(np.uint8) for values in (color, share)]
    return as_bytes[0], as_bytes[1], label, (depth * 100 + 0.5).astype(np.uint16)
