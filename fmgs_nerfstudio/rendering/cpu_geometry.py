# pyright: standard
"""What the CPU executor does per surfel, as numba kernels: projection, and the gradients' way back through it.

Around its centre a surfel's point under a pixel is (u, v) = (c_x, c_y) / c_z with c = A (dx, dy, 1): A is the adjugate
of the ray transform M, whose rows x, y, w are taken with the centre as origin. All this is in float64: what pixels need
of it are small differences of large numbers.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.rendering import projection as definition

RECORD = 16
"""Floats of a surfel for the pixels: A (9), centre (2), opacity, box of pixels x0, y0, x1, y1 (end exclusive)."""
MOMENTS = 12
"""Sums over a surfel's pixels for one geometry: 9 of A, 2 of the centre, 1 of the opacity."""

ALPHA_MIN, NEAR, ELLIPSE, ROUNDING = definition.ALPHA_MIN, definition.NEAR, definition.ELLIPSE, definition.ROUNDING


@device_function
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@device_function
def _plus(a, s, b):
    """a + s b"""
    return a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]


@device_function
def _signed(a):
    return a[0], a[1], -a[2]


@device_function
def _signed_dot(a, b, radius2):
    return radius2 * (a[0] * b[0] + a[1] * b[1]) - a[2] * b[2]


@device_function
def _rows(n, means, tangents, to_pixels):
    """The rows of M = K [s_u t_u, s_v t_v, p], as `projection.ray_transforms`."""
    x, y, z = means[n, 0], means[n, 1], means[n, 2]
    ux, uy, uz = tangents[n, 0, 0], tangents[n, 1, 0], tangents[n, 2, 0]
    vx, vy, vz = tangents[n, 0, 1], tangents[n, 1, 1], tangents[n, 2, 1]
    P = to_pixels
    return (
        (
            P[0, 0] * ux + P[0, 1] * uy + P[0, 2] * uz,
            P[0, 0] * vx + P[0, 1] * vy + P[0, 2] * vz,
            P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3],
        ),
        (
            P[1, 0] * ux + P[1, 1] * uy + P[1, 2] * uz,
            P[1, 0] * vx + P[1, 1] * vy + P[1, 2] * vz,
            P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3],
        ),
        (
            P[2, 0] * ux + P[2, 1] * uy + P[2, 2] * uz,
            P[2, 0] * vx + P[2, 1] * vy + P[2, 2] * vz,
            P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3],
        ),
    )


@device_function
def _centre(x, y, w):
    """<x, w> / <w, w> and <y, w> / <w, w> with the signs (1, 1, -1), as the pixels know it."""
    norm = _signed_dot(w, w, 1)
    return np.float64(np.float32(_signed_dot(x, w, 1) / norm)), np.float64(np.float32(_signed_dot(y, w, 1) / norm))


@kernel
def project(means, tangents, opacities, to_pixels, width, height, records, depths):
    """Write records (zeros come in; they stay, and with them an empty box, where a surfel shows nowhere) and depths.

    The maths is `projection`'s; to_pixels is K [R | t] in float64.
    """
    for n in numba.prange(len(means)):
        x, y, w = _rows(n, means, tangents, to_pixels)
        depths[n] = w[2]
        reach = w[0] * w[0] + w[1] * w[1]
        opacity = opacities[n]
        if not (w[2] > NEAR and reach < ELLIPSE * w[2] * w[2] and opacity > ALPHA_MIN):
            continue
        centre = _centre(x, y, w)
        x, y = _plus(x, -centre[0], w), _plus(y, -centre[1], w)
        A_x, A_y, A_z = _cross(y, w), _cross(w, x), _cross(x, y)
        for k in range(3):
            records[n, 3 * k], records[n, 3 * k + 1], records[n, 3 * k + 2] = A_x[k], A_y[k], A_z[k]
        records[n, 9], records[n, 10], records[n, 11] = centre[0], centre[1], opacity

        radius2 = 2 * math.log(opacity / ALPHA_MIN)
        disc = math.sqrt(radius2 / 2)
        is_ellipse = radius2 * reach < ELLIPSE * w[2] * w[2]
        scale = 1 / (radius2 * reach - w[2] * w[2])
        for axis in range(2):
            row, size = (y, height) if axis else (x, width)
            lower, upper = 0.0, float(size)
            if is_ellipse:
                offset = _signed_dot(row, w, radius2) * scale
                half = math.sqrt(max(offset * offset - _signed_dot(row, row, radius2) * scale, 0.0))
                lower = min(max(centre[axis] + min(offset - half, -disc) - ROUNDING, lower), upper)
                upper = max(min(centre[axis] + max(offset + half, disc) + ROUNDING, upper), 0.0)
            records[n, 12 + axis] = np.ceil(lower - 0.5)
            records[n, 14 + axis] = np.floor(upper - 0.5) + 1


@kernel
def reduce_slots(
    first_slot, slots, touched, means, tangents, opacities, to_pixels, v_means, v_tangents, v_opacities, v_values
):
    """Write each surfel's gradients from its slots into arrays of zeros: of every geometry's means [G, N, 3], tangents
    [G, N, 3, 2] and opacities [G, N], and of the values [N, C]. Spoils the slots.
    """
    n_groups, count = v_opacities.shape
    for n in numba.prange(count):
        first = -1
        for slot in range(first_slot[n], first_slot[n + 1]):
            if touched[slot] and first < 0:
                first = slot
            elif touched[slot]:
                for i in range(slots.shape[1]):
                    slots[first, i] += slots[slot, i]
        if first < 0:
            continue
        for channel in range(v_values.shape[1]):
            v_values[n, channel] = slots[first, n_groups * MOMENTS + channel]
        rows = _rows(n, means, tangents, to_pixels)
        for g in range(n_groups):
            v_opacities[g, n] = slots[first, g * MOMENTS + 11] / opacities[n]
            v_x, v_y, v_w = _ray_transform_gradient(slots, first, g * MOMENTS, rows)
            for i in range(3):
                a, b, c = to_pixels[0, i], to_pixels[1, i], to_pixels[2, i]
                v_tangents[g, n, i, 0] = a * v_x[0] + b * v_y[0] + c * v_w[0]
                v_tangents[g, n, i, 1] = a * v_x[1] + b * v_y[1] + c * v_w[1]
                v_means[g, n, i] = a * v_x[2] + b * v_y[2] + c * v_w[2]


@device_function
def _ray_transform_gradient(slots, slot, at, rows):
    """Gradients of the rows of M from a slot's moments: through c = A (dx, dy, 1) and through the centre."""
    x, y, w = rows
    centre = _centre(x, y, w)
    x, y = _plus(x, -centre[0], w), _plus(y, -centre[1], w)
    # The columns of A are y x w, w x x, x x y. Sigma's gradient is (u, v, -(u^2 + v^2)) / c_z; alpha falls with sigma.
    a = -slots[slot, at], -slots[slot, at + 3], slots[slot, at + 6]
    b = -slots[slot, at + 1], -slots[slot, at + 4], slots[slot, at + 7]
    c = -slots[slot, at + 2], -slots[slot, at + 5], slots[slot, at + 8]
    v_x = _plus(_cross(b, w), 1, _cross(y, c))
    v_y = _plus(_cross(w, a), 1, _cross(c, x))
    v_w = _plus(_cross(a, y), 1, _cross(x, b))
    v_w = _plus(_plus(v_w, -centre[0], v_x), -centre[1], v_y)
    inverse = 1 / _signed_dot(w, w, 1)
    v_c, v_d = slots[slot, at + 9] * inverse, slots[slot, at + 10] * inverse
    x, y, w = _signed(x), _signed(y), _signed(w)
    v_w = _plus(_plus(v_w, v_c, x), v_d, y)
    v_w = _plus(v_w, -v_c * centre[0] - v_d * centre[1], w)
    return _plus(v_x, v_c, w), _plus(v_y, v_d, w), v_w
