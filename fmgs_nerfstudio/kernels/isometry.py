# pyright: standard
"""Change of the distances between neighbours when points move: the sum that L_iso averages.

The plain torch form is a dozen small operations over [N, K, D]; on CPUs two numba kernels do the same.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import kernel


def distance_change(points: Float[Tensor, "2 N D"], neighbours: Int[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Sum over neighbours (i, j) of the change of |x_i - x_j| from `points[0]` to `points[1]`, in absolute value.

    The gradient of a distance is zero where two points coincide.
    """
    if points.dtype == torch.float32 and points.device.type == "cpu":
        return _DistanceChangeOnCpu.apply(points, neighbours)
    return distance_change_reference(points, neighbours)


def distance_change_reference(points: Float[Tensor, "2 N D"], neighbours: Int[Tensor, "N K"]) -> Float[Tensor, ""]:
    """`distance_change` in plain torch, for any device and dtype."""
    there = points.index_select(1, neighbours.flatten()).unflatten(1, neighbours.shape)
    before, after = torch.linalg.vector_norm(there - points[:, :, None], dim=-1)
    return (before - after).abs().sum()


class _DistanceChangeOnCpu(torch.autograd.Function):
    """`distance_change_reference` as numba kernels."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, neighbours: Tensor) -> Tensor:
        points, neighbours = points.detach().contiguous(), neighbours.contiguous()
        slopes, sums = torch.empty(2, *neighbours.shape), np.empty(len(neighbours))
        _forward(points.numpy(), neighbours.numpy(), slopes.numpy(), sums)
        ctx.save_for_backward(points, neighbours, slopes)
        return points.new_tensor(sums.sum())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, *grad_outputs), None


@once_differentiable
def _gradient(ctx: Any, grad_out: Float[Tensor, ""]) -> Float[Tensor, "2 N D"]:
    points, neighbours, slopes = ctx.saved_tensors
    gradient = torch.zeros_like(points)
    _backward(points.numpy(), neighbours.numpy(), slopes.numpy(), np.float32(grad_out.item()), gradient.numpy())
    return gradient


@kernel
def _forward(points, neighbours, slopes, sums):
    """Sums per point, and per pair the slope of its term by each distance, over the distance."""
    dimensions = points.shape[2]
    for i in numba.prange(points.shape[1]):
        total = np.float32(0)
        for k in range(neighbours.shape[1]):
            j = neighbours[i, k]
            before = after = np.float32(0)
            for d in range(dimensions):
                before += (points[0, j, d] - points[0, i, d]) ** 2
                after += (points[1, j, d] - points[1, i, d]) ** 2
            before, after = math.sqrt(before), math.sqrt(after)
            total += abs(before - after)
            sign = np.float32(np.sign(before - after))
            slopes[0, i, k] = sign / before if before > 0 else 0
            slopes[1, i, k] = -sign / after if after > 0 else 0
        sums[i] = total


@kernel
def _backward(points, neighbours, slopes, scale, gradient):
    """Adds the gradient [2, N, D] of `scale` times the sum; one thread for each of the two, in a fixed order."""
    for side in numba.prange(2):
        for i in range(points.shape[1]):
            for k in range(neighbours.shape[1]):
                j = neighbours[i, k]
                for d in range(points.shape[2]):
                    pull = scale * slopes[side, i, k] * (points[side, j, d] - points[side, i, d])
                    gradient[side, j, d] += pull
                    gradient[side, i, d] -= pull
