# pyright: standard
"""Unit vectors of surfels on the CPU, forward and backward in one pass over the surfels each.

The definitions are `surfel_normals` in `rendering`, `canonical_direction` and `spherical_harmonics` in
`fields/appearance`, which take any device and dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import device_function, kernel

LEAST = 1e-18
"""Length below which a product of tangents has no direction, square metres: those of millimetres are far above it."""
LEAST_SIGHT = 1e-12
"""The same of a line of sight, metres: what `normalize` of torch has."""


def normals_on_cpu(tangents: Float[Tensor, "N 3 S"], axes: Float[Tensor, "3 3"]) -> Float[Tensor, "N 3"]:
    """t_u x t_v, made unit vectors, along the rows of `axes`, which get no gradient."""
    return _Normals.apply(tangents, axes)


def turned_back_on_cpu(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """T^-1 d, made unit vectors, of the first three columns of T."""
    return _TurnedBack.apply(T, d)


def harmonics_on_cpu(d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 15"]:
    """Spherical harmonics of degree 1 to 3."""
    return _Harmonics.apply(d)


def facing_away_on_cpu(
    means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 S"], centre: Float[Tensor, "3"]
) -> Float[Tensor, "N"]:
    """Cosine between t_u x t_v and the line from `centre` to the mean, without a gradient."""
    means, tangents, centre = (x.detach().contiguous() for x in (means, tangents, centre))
    cosines = means.new_empty(len(means))
    _facing_away(means.numpy(), tangents.numpy(), centre.numpy(), cosines.numpy())
    return cosines


class _Normals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tangents: Tensor, axes: Tensor) -> Tensor:
        tangents, axes = tangents.detach().contiguous(), axes.detach().contiguous()
        normals = tangents.new_empty(len(tangents), 3)
        _normals(tangents.numpy(), axes.numpy(), normals.numpy())
        ctx.save_for_backward(tangents, axes)
        return normals

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradients(ctx, _normals_backward, *grad_outputs)[0], None


class _TurnedBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, T: Tensor, d: Tensor) -> Tensor:
        T, d = T.detach().contiguous(), d.detach().contiguous()
        d_hat = torch.empty_like(d)
        _turn_back(T.numpy(), d.numpy(), d_hat.numpy())
        ctx.save_for_backward(T, d)
        return d_hat

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        return _gradients(ctx, _turn_back_backward, *grad_outputs)


class _Harmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        d = d.detach().contiguous()
        values = d.new_empty(len(d), 15)
        _harmonics(d.numpy(), values.numpy())
        ctx.save_for_backward(d)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _gradients(ctx, _harmonics_backward, *grad_outputs)[0]


@once_differentiable
def _gradients(ctx: Any, backward: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
    """Of the inputs that were saved, by a kernel of (inputs, cotangent, gradients)."""
    inputs = ctx.saved_tensors
    gradients = tuple(map(torch.empty_like, inputs))
    backward(*(x.numpy() for x in (*inputs, cotangent.contiguous(), *gradients)))
    return gradients


@device_function
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@device_function
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@device_function
def _plus(a, s, b):
    """a + s b"""
    return a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]


@device_function
def _row(x, n):
    return np.float64(x[n, 0]), np.float64(x[n, 1]), np.float64(x[n, 2])


@device_function
def _column(x, n, k):
    return np.float64(x[n, 0, k]), np.float64(x[n, 1, k]), np.float64(x[n, 2, k])


@device_function
def _unit(a, least):
    length = max(math.sqrt(_dot(a, a)), least)
    return (a[0] / length, a[1] / length, a[2] / length), length


@device_function
def _unit_gradient(unit, length, v, least):
    """The gradient of `_unit` from that of the unit vector; a vector of no direction is divided by a constant."""
    along = _dot(unit, v) if length > least else 0.0
    v = _plus(v, -along, unit)
    return v[0] / length, v[1] / length, v[2] / length


@kernel
def _normals(tangents, axes, normals):
    for n in numba.prange(len(tangents)):
        unit, _ = _unit(_cross(_column(tangents, n, 0), _column(tangents, n, 1)), LEAST)
        for i in range(3):
            normals[n, i] = _dot(_row(axes, i), unit)


@kernel
def _normals_backward(tangents, axes, v_normals, of_tangents, of_axes):
    of_axes[:] = 0
    for n in numba.prange(len(tangents)):
        u, v = _column(tangents, n, 0), _column(tangents, n, 1)
        unit, length = _unit(_cross(u, v), LEAST)
        turned = _plus(_plus((0.0, 0.0, 0.0), v_normals[n, 0], _row(axes, 0)), v_normals[n, 1], _row(axes, 1))
        of_cross = _unit_gradient(unit, length, _plus(turned, v_normals[n, 2], _row(axes, 2)), LEAST)
        of_u, of_v = _cross(v, of_cross), _cross(of_cross, u)
        of_tangents[n] = 0
        for i in range(3):
            of_tangents[n, i, 0], of_tangents[n, i, 1] = of_u[i], of_v[i]


@kernel
def _facing_away(means, tangents, centre, cosines):
    for n in numba.prange(len(means)):
        sight = _plus(_row(means, n), -1, centre)
        outward = _cross(_column(tangents, n, 0), _column(tangents, n, 1))
        cosines[n] = min(max(_dot(_unit(outward, LEAST)[0], _unit(sight, LEAST_SIGHT)[0]), -1.0), 1.0)


@kernel
def _turn_back(T, d, d_hat):
    for n in numba.prange(len(d)):
        a, b, c, sight = _column(T, n, 0), _column(T, n, 1), _column(T, n, 2), _row(d, n)
        turned = _dot(_cross(b, c), sight), _dot(_cross(c, a), sight), _dot(_cross(a, b), sight)
        d_hat[n, 0], d_hat[n, 1], d_hat[n, 2] = _unit(turned, LEAST_SIGHT)[0]


@kernel
def _turn_back_backward(T, d, v_d_hat, of_T, of_d):
    for n in numba.prange(len(d)):
        a, b, c, sight = _column(T, n, 0), _column(T, n, 1), _column(T, n, 2), _row(d, n)
        b_c, c_a, a_b = _cross(b, c), _cross(c, a), _cross(a, b)
        unit, length = _unit((_dot(b_c, sight), _dot(c_a, sight), _dot(a_b, sight)), LEAST_SIGHT)
        p, q, r = _unit_gradient(unit, length, _row(v_d_hat, n), LEAST_SIGHT)
        for i in range(3):
            of_d[n, i] = p * b_c[i] + q * c_a[i] + r * a_b[i]
        # Each triple product is that of any cyclic order: (c x a) . d = (d x c) . a
        a_d, b_d, c_d = _cross(a, sight), _cross(b, sight), _cross(c, sight)
        of_T[n] = 0
        for i in range(3):
            of_T[n, i, 0] = r * b_d[i] - q * c_d[i]
            of_T[n, i, 1] = p * c_d[i] - r * a_d[i]
            of_T[n, i, 2] = q * a_d[i] - p * b_d[i]


# Factors of the harmonics, by degree and order
Y_1, Y_2, Y_20, Y_22 = 0.4886025119, 1.0925484306, 0.3153915653, 0.5462742153
Y_30, Y_31, Y_32, Y_322, Y_33 = 0.3731763326, 0.4570457995, 2.8906114426, 1.4453057213, 0.5900435899


@kernel
def _harmonics(d, values):
    for n in numba.prange(len(d)):
        x, y, z = _row(d, n)
        xx, yy, zz = x * x, y * y, z * z
        values[n, 0], values[n, 1], values[n, 2] = Y_1 * y, Y_1 * z, Y_1 * x
        values[n, 3], values[n, 4], values[n, 5] = Y_2 * x * y, Y_2 * y * z, Y_20 * (3 * zz - 1)
        values[n, 6], values[n, 7] = Y_2 * x * z, Y_22 * (xx - yy)
        values[n, 8], values[n, 9] = Y_33 * y * (3 * xx - yy), Y_32 * x * y * z
        values[n, 10], values[n, 11] = Y_31 * y * (5 * zz - 1), Y_30 * z * (5 * zz - 3)
        values[n, 12], values[n, 13] = Y_31 * x * (5 * zz - 1), Y_322 * z * (xx - yy)
        values[n, 14] = Y_33 * x * (xx - 3 * yy)


@kernel
def _harmonics_backward(d, v_values, of_d):
    for n in numba.prange(len(d)):
        x, y, z = _row(d, n)
        xx, yy, zz = x * x, y * y, z * z
        xy, yz, xz = x * y, y * z, x * z
        v = v_values[n]
        of_d[n, 0] = (
            Y_1 * v[2] + Y_2 * (y * v[3] + z * v[6]) + 2 * x * (Y_22 * v[7] + Y_322 * z * v[13])
            + Y_33 * (6 * xy * v[8] + 3 * (xx - yy) * v[14]) + Y_32 * yz * v[9] + Y_31 * (5 * zz - 1) * v[12]
        )  # fmt: skip
        of_d[n, 1] = (
            Y_1 * v[0] + Y_2 * (x * v[3] + z * v[4]) - 2 * y * (Y_22 * v[7] + Y_322 * z * v[13])
            + Y_33 * (3 * (xx - yy) * v[8] - 6 * xy * v[14]) + Y_32 * xz * v[9] + Y_31 * (5 * zz - 1) * v[10]
        )  # fmt: skip
        of_d[n, 2] = (
            Y_1 * v[1] + Y_2 * (y * v[4] + x * v[6]) + 6 * Y_20 * z * v[5] + Y_32 * xy * v[9]
            + 10 * Y_31 * (yz * v[10] + xz * v[12]) + 3 * Y_30 * (5 * zz - 1) * v[11] + Y_322 * (xx - yy) * v[13]
        )  # fmt: skip
