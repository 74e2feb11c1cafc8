# pyright: standard
"""Frames F turned by exp([r]_x) of a rotation vector, and what moves r."""

from __future__ import annotations

import math

import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function

SERIES_END = 0.25
"""Squared angle below which the series are exact in float32."""


@device_function
def sine_and_cosine(q):
    """sin x / x and (1 - cos x) / x^2 of q = x^2, and their derivatives by q."""
    if q < SERIES_END:
        return (
            1 - q * (1 / 6 - q * (1 / 120 - q * (1 / 5040 - q / 362880))),
            1 / 2 - q * (1 / 24 - q * (1 / 720 - q * (1 / 40320 - q / 3628800))),
            q * (1 / 60 - q * (1 / 1680 - q / 90720)) - 1 / 6,
            q * (1 / 360 - q * (1 / 13440 - q / 907200)) - 1 / 24,
        )
    x = math.sqrt(q)
    cosine, a = math.cos(x), math.sin(x) / x
    b = (1 - cosine) / q
    return a, b, (cosine - a) / (2 * q), (a / 2 - b) / q


@device_function
def turned(frame, r, to_frame):
    """Write F exp([r]_x)."""
    x, y, z = np.float64(r[0]), np.float64(r[1]), np.float64(r[2])
    q = x * x + y * y + z * z
    a, b, _, _ = sine_and_cosine(q)
    cosine = 1 - b * q
    for i in range(3):
        u, v, w = frame[i, 0], frame[i, 1], frame[i, 2]
        along = b * (u * x + v * y + w * z)
        # A row f of F times exp([r]_x) = cos f + a f x r + b (f . r) r
        to_frame[i, 0] = cosine * u + a * (v * z - w * y) + along * x
        to_frame[i, 1] = cosine * v + a * (w * x - u * z) + along * y
        to_frame[i, 2] = cosine * w + a * (u * y - v * x) + along * z


@device_function
def rotation_gradient(frame, v_frame, r):
    """The gradient of r from that of F exp([r]_x)."""
    x, y, z = np.float64(r[0]), np.float64(r[1]), np.float64(r[2])
    q = x * x + y * y + z * z
    a, b, a_slope, b_slope = sine_and_cosine(q)
    of_a = of_b = dot = of_x = of_y = of_z = 0.0
    for i in range(3):
        u, v, w = frame[i, 0], frame[i, 1], frame[i, 2]
        g, h, k = v_frame[i, 0], v_frame[i, 1], v_frame[i, 2]
        f_r, g_r, f_g = u * x + v * y + w * z, g * x + h * y + k * z, u * g + v * h + w * k
        # g . (f x r) = r . (g x f)
        c_x, c_y, c_z = h * w - k * v, k * u - g * w, g * v - h * u
        of_a += c_x * x + c_y * y + c_z * z
        of_b += f_r * g_r - q * f_g
        dot += f_g
        of_x += a * c_x + b * (f_r * g + g_r * u)
        of_y += a * c_y + b * (f_r * h + g_r * v)
        of_z += a * c_z + b * (f_r * k + g_r * w)
    along = 2 * (of_a * a_slope + of_b * b_slope - b * dot)
    return of_x + along * x, of_y + along * y, of_z + along * z
