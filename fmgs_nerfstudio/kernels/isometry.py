# pyright: standard
"""Change of the distances between neighbours when points move: the sum that L_iso averages, of centres or covariances.

The plain torch forms are dozens of small operations; on CPUs numba kernels do the same.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import kernel, takes

ENTRIES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Rows and columns of what a symmetric matrix has."""


def distance_change(
    before: Float[Tensor, "N D"], after: Float[Tensor, "N D"], neighbours: Int[Tensor, "C K"]
) -> Float[Tensor, ""]:
    """Sum over neighbours (i, j) of the first C points of the change of |x_i - x_j| from `before` to `after`, in
    absolute value.

    The gradient of a distance is zero where two points coincide.
    """
    if takes(before, after):
        return _DistanceChangeOnCpu.apply(before, after, neighbours)
    return distance_change_reference(before, after, neighbours)


def distance_change_reference(
    before: Float[Tensor, "N D"], after: Float[Tensor, "N D"], neighbours: Int[Tensor, "C K"]
) -> Float[Tensor, ""]:
    """`distance_change` in plain torch, for any device and dtype."""

    points = torch.stack([before, after])
    there = points.index_select(1, neighbours.flatten()).unflatten(1, neighbours.shape)
    was, now = torch.linalg.vector_norm(there - points[:, : len(neighbours), None], dim=-1)
    return (was - now).norm(p=1)


def covariances(axes: Float[Tensor, "N 3 A"], scales: Float[Tensor, "N S"] | None = None) -> Float[Tensor, "N 6"]:
    """The distinct `ENTRIES` of sum_k s_k^2 a_k a_k^T, a_k the first S columns of `axes`; without scales of all."""
    if not takes(axes) or (scales is not None and not takes(scales)):
        return covariances_reference(axes, scales)
    return _CovariancesOnCpu.apply(axes, axes.new_ones(len(axes), axes.shape[2]) if scales is None else scales)


def covariances_reference(
    axes: Float[Tensor, "N 3 A"], scales: Float[Tensor, "N S"] | None = None
) -> Float[Tensor, "N 6"]:
    """`covariances` in plain torch, for any device and dtype."""
    tangents = axes if scales is None else axes[:, :, : scales.shape[1]] * scales[:, None]
    return torch.bmm(tangents, tangents.transpose(1, 2)).flatten(1).index_select(1, _places(axes.device))


@cache
def _places(device: torch.device) -> Int[Tensor, "6"]:
    """Of the `ENTRIES` among nine."""
    return torch.tensor([3 * i + j for i, j in ENTRIES], device=device)


class _DistanceChangeOnCpu(torch.autograd.Function):
    """`distance_change_reference` as numba kernels."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, neighbours: Tensor) -> Tensor:
        before, after, neighbours = (x.detach().contiguous() for x in (before, after, neighbours))
        slopes, sums = torch.empty(2, *neighbours.shape), np.empty(len(neighbours))
        _forward(before.numpy(), after.numpy(), neighbours.numpy(), (0,) * before.shape[1], slopes.numpy(), sums)
        ctx.save_for_backward(before, after, neighbours, slopes)
        return before.new_tensor(sums.sum())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, *grad_outputs), None


@once_differentiable
def _gradients(ctx: Any, grad_out: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
    before, after, neighbours, slopes = ctx.saved_tensors
    sides = zip((before, after), ctx.needs_input_grad, strict=False)
    gradients = [points.new_zeros(len(points) if is_needed else 0, points.shape[1]) for points, is_needed in sides]
    dimensions, scale = (0,) * before.shape[1], np.float32(grad_out.item())
    _backward(scale, dimensions, *(x.numpy() for x in (before, after, neighbours, slopes, *gradients)))
    return tuple(x if is_needed else None for x, is_needed in zip(gradients, ctx.needs_input_grad, strict=False))


class _CovariancesOnCpu(torch.autograd.Function):
    """`covariances_reference` as numba kernels."""

    @staticmethod
    def forward(ctx: Any, axes: Tensor, scales: Tensor) -> Tensor:
        axes, scales = axes.detach().contiguous(), scales.detach().contiguous()
        made = axes.new_empty(len(axes), 6)
        _multiply(axes.numpy(), scales.numpy(), made.numpy())
        ctx.save_for_backward(axes, scales)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        return _covariances_gradients(ctx, *grad_outputs)


@once_differentiable
def _covariances_gradients(ctx: Any, grad_out: Float[Tensor, "N 6"]) -> tuple[Tensor, Tensor]:
    axes, scales = ctx.saved_tensors
    of_axes, of_scales = torch.zeros_like(axes), torch.empty_like(scales)
    _multiply_backward(*(x.numpy() for x in (axes, scales, grad_out.contiguous(), of_axes, of_scales)))
    return of_axes, of_scales


# `dimensions` is a tuple as long as points have coordinates, so that compiled loops over them are of a known length.


@kernel
def _forward(before, after, neighbours, dimensions, slopes, sums):
    """Sums per point, and per pair the slope of its term by each distance, over the distance."""
    for i in numba.prange(len(neighbours)):
        total = np.float32(0)
        for k in range(neighbours.shape[1]):
            j = np.uint64(neighbours[i, k])
            was = now = np.float32(0)
            for d in range(len(dimensions)):
                was += (before[j, d] - before[i, d]) ** 2
                now += (after[j, d] - after[i, d]) ** 2
            was, now = math.sqrt(was), math.sqrt(now)
            total += abs(was - now)
            sign = np.float32(np.sign(was - now))
            slopes[0, i, k] = sign / was if was > 0 else 0
            slopes[1, i, k] = -sign / now if now > 0 else 0
        sums[i] = total


@kernel
def _backward(scale, dimensions, before, after, neighbours, slopes, of_before, of_after):
    """Adds the gradients [N, D] of `scale` times the sum where there is room; one thread for each, in its order."""
    for side in numba.prange(2):
        points, gradient = (after, of_after) if side else (before, of_before)
        for i in range(len(neighbours) if len(gradient) > 0 else 0):
            for d in range(len(dimensions)):
                own = np.float32(0)
                for k in range(neighbours.shape[1]):
                    j = np.uint64(neighbours[i, k])
                    pull = scale * slopes[side, i, k] * (points[j, d] - points[i, d])
                    gradient[j, d] += pull
                    own += pull
                gradient[i, d] -= own


@kernel
def _multiply(axes, scales, covariances):
    for n in numba.prange(len(axes)):
        for entry, (i, j) in enumerate(ENTRIES):
            total = np.float32(0)
            for k in range(scales.shape[1]):
                total += scales[n, k] * scales[n, k] * axes[n, i, k] * axes[n, j, k]
            covariances[n, entry] = total


@kernel
def _multiply_backward(axes, scales, v_covariances, of_axes, of_scales):
    for n in numba.prange(len(axes)):
        xx, xy, xz = v_covariances[n, 0], v_covariances[n, 1], v_covariances[n, 2]
        yy, yz, zz = v_covariances[n, 3], v_covariances[n, 4], v_covariances[n, 5]
        for k in range(scales.shape[1]):
            s, x, y, z = scales[n, k], axes[n, 0, k], axes[n, 1, k], axes[n, 2, k]
            u, v, w = 2 * xx * x + xy * y + xz * z, xy * x + 2 * yy * y + yz * z, xz * x + yz * y + 2 * zz * z
            of_axes[n, 0, k], of_axes[n, 1, k], of_axes[n, 2, k] = s * s * u, s * s * v, s * s * w
            of_scales[n, k] = s * (x * u + y * v + z * w)
