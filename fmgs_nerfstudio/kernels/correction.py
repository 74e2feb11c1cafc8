# pyright: standard
"""Eq. 4-6 on the CPU: `correct_reference` in `surfels`, forward and backward in one pass over the surfels each."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import device_function, gradient, kernel

SERIES_END = 0.25
"""Squared angle below which the series are exact in float32."""


def correct_on_cpu(
    means: Float[Tensor, "N 3"],
    frames: Float[Tensor, "N 3 3"],
    scales: Float[Tensor, "N S"],
    delta_d: Float[Tensor, "N 1"],
    delta_s: Float[Tensor, "N S"],
    delta_r: Float[Tensor, "N 3"],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3 3"], Float[Tensor, "N S"]]:
    """mu', R', s' in float32; means and frames get no gradient."""
    return _Correct.apply(means, frames, scales, delta_d, delta_s, delta_r)


class _Correct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = tuple(x.detach().contiguous() for x in inputs)
        made = tuple(map(torch.empty_like, inputs[:3]))
        _forward(*(x.numpy() for x in (*inputs, *made)))
        _, frames, scales, delta_d, _, delta_r = inputs
        ctx.save_for_backward(frames, scales, delta_d, made[2], delta_r)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    gradients = [torch.empty_like(x) for x in inputs[1:]]
    _backward(*(x.numpy() for x in inputs), *map(gradient, cotangents, (2, 3, 2)), *(x.numpy() for x in gradients))
    means, frames, scales = (v is not None for v in cotangents)
    reached = False, False, scales, means, scales, frames
    return tuple(x if is_reached else None for x, is_reached in zip((None, None, *gradients), reached, strict=True))


@device_function
def _sine_and_cosine(q):
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


@kernel
def _forward(means, frames, scales, delta_d, delta_s, delta_r, to_means, to_frames, to_scales):
    for n in numba.prange(len(means)):
        x, y, z = np.float64(delta_r[n, 0]), np.float64(delta_r[n, 1]), np.float64(delta_r[n, 2])
        q = x * x + y * y + z * z
        a, b, _, _ = _sine_and_cosine(q)
        cosine = 1 - b * q
        for i in range(3):
            u, v, w = frames[n, i, 0], frames[n, i, 1], frames[n, i, 2]
            along = b * (u * x + v * y + w * z)
            # A row f of R times exp([r]_x) = cos f + a f x r + b (f . r) r
            to_frames[n, i, 0] = cosine * u + a * (v * z - w * y) + along * x
            to_frames[n, i, 1] = cosine * v + a * (w * x - u * z) + along * y
            to_frames[n, i, 2] = cosine * w + a * (u * y - v * x) + along * z
            to_means[n, i] = means[n, i] + w * delta_d[n, 0]
        for k in range(scales.shape[1]):
            to_scales[n, k] = scales[n, k] * math.exp(delta_s[n, k])


@kernel
def _backward(frames, scales, delta_d, scaled, delta_r, v_means, v_frames, v_scales, of_scales, of_d, of_s, of_r):
    """Gradients `of_*` of the inputs from those of what was made, `v_*`, empty where there is none."""
    by_means, by_frames, by_scales = len(v_means) > 0, len(v_frames) > 0, len(v_scales) > 0
    for n in numba.prange(len(frames)):
        if by_means:
            of_d[n, 0] = 0
            for i in range(3):
                of_d[n, 0] += frames[n, i, 2] * v_means[n, i]
        if by_frames:
            of_r[n, 0], of_r[n, 1], of_r[n, 2] = _rotation_gradient(frames[n], v_frames[n], delta_r[n])
        if by_scales:
            for k in range(scales.shape[1]):
                of_s[n, k] = v_scales[n, k] * scaled[n, k]
                of_scales[n, k] = of_s[n, k] / scales[n, k]


@device_function
def _rotation_gradient(frame, v_frame, r):
    x, y, z = np.float64(r[0]), np.float64(r[1]), np.float64(r[2])
    q = x * x + y * y + z * z
    a, b, a_slope, b_slope = _sine_and_cosine(q)
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
