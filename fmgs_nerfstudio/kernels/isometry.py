# pyright: standard
"""What L_iso is made of: the change of the distances between neighbours when points move, and covariances.

In plain torch these are dozens of small operations; on CPUs numba kernels do the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import device_function, kernel

Pair = Float[Tensor, "2 N D"] | tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]


def distance_change(points: Pair, neighbours: Int[Tensor, "N K"], columns: Sequence[int] = ()) -> Float[Tensor, ""]:
    """Sum over neighbours (i, j) of the change of |x_i - x_j| from `points[0]` to `points[1]`, in absolute value.

    The gradient of a distance is zero where two points coincide. `columns` are those that are
    coordinates; none named: all.
    """
    before, after = points
    if before.dtype == after.dtype == torch.float32 and before.device.type == "cpu":
        return _DistanceChangeOnCpu.apply(before, after, neighbours, columns or range(before.shape[1]))
    return distance_change_reference(points, neighbours, columns)


def distance_change_reference(
    points: Pair, neighbours: Int[Tensor, "N K"], columns: Sequence[int] = ()
) -> Float[Tensor, ""]:
    """`distance_change` in plain torch, for any device and dtype."""
    stacked = torch.stack([*points])
    if columns:
        stacked = torch.stack([stacked[..., column] for column in columns], dim=-1)
    there = stacked.index_select(1, neighbours.flatten()).unflatten(1, neighbours.shape)
    before, after = torch.linalg.vector_norm(there - stacked[:, :, None], dim=-1)
    return (before - after).abs().sum()


class _DistanceChangeOnCpu(torch.autograd.Function):
    """`distance_change_reference` as numba kernels."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, neighbours: Tensor, columns: Sequence[int]) -> Tensor:
        before, after, neighbours = (x.detach().contiguous() for x in (before, after, neighbours))
        ctx.columns = np.array(columns, dtype=np.int64)
        slopes, sums = torch.empty(2, *neighbours.shape), np.empty(len(neighbours))
        _forward(before.numpy(), after.numpy(), neighbours.numpy(), ctx.columns, slopes.numpy(), sums)
        ctx.save_for_backward(before, after, neighbours, slopes)
        return before.new_tensor(sums.sum())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        return _gradient(ctx, 0, *grad_outputs), _gradient(ctx, 1, *grad_outputs), None, None


@once_differentiable
def _gradient(ctx: Any, side: int, grad_out: Float[Tensor, ""]) -> Float[Tensor, "N D"] | None:
    if not ctx.needs_input_grad[side]:
        return None
    points, neighbours, slopes = ctx.saved_tensors[side], *ctx.saved_tensors[2:]
    gradient, scale = torch.zeros_like(points), np.float32(grad_out.item())
    _backward(points.numpy(), neighbours.numpy(), slopes[side].numpy(), ctx.columns, scale, gradient.numpy())
    return gradient


@kernel
def _forward(points, moved, neighbours, columns, slopes, sums):
    """Sums per point, and per pair the slope of its term by each distance, over the distance."""
    for i in numba.prange(points.shape[0]):
        total = np.float32(0)
        for k in range(neighbours.shape[1]):
            j = neighbours[i, k]
            before = after = np.float32(0)
            for d in columns:
                before += (points[j, d] - points[i, d]) ** 2
                after += (moved[j, d] - moved[i, d]) ** 2
            before, after = math.sqrt(before), math.sqrt(after)
            total += abs(before - after)
            sign = np.float32(np.sign(before - after))
            slopes[0, i, k] = sign / before if before > 0 else 0
            slopes[1, i, k] = -sign / after if after > 0 else 0
        sums[i] = total


@device_function
def _backward(points, neighbours, slopes, columns, scale, gradient):
    """Adds the gradient [N, D] of `scale` times the sum by one side, in a fixed order."""
    for i in range(points.shape[0]):
        for k in range(neighbours.shape[1]):
            j, slope = neighbours[i, k], scale * slopes[i, k]
            for d in columns:
                pull = slope * (points[j, d] - points[i, d])
                gradient[j, d] += pull
                gradient[i, d] -= pull


def covariances(tangents: Float[Tensor, "N 3 S"]) -> Float[Tensor, "N 3 3"]:
    """M M^T of the matrix M of each surfel's scaled tangents."""
    if tangents.dtype == torch.float32 and tangents.device.type == "cpu":
        return _CovariancesOnCpu.apply(tangents)
    return covariances_reference(tangents)


def covariances_reference(tangents: Float[Tensor, "N 3 S"]) -> Float[Tensor, "N 3 3"]:
    """`covariances` in plain torch, for any device and dtype."""
    return torch.bmm(tangents, tangents.transpose(1, 2))


class _CovariancesOnCpu(torch.autograd.Function):
    """`covariances_reference` as kernels: MKL takes three times as long for products this small."""

    @staticmethod
    def forward(ctx: Any, tangents: Tensor) -> Tensor:
        tangents = tangents.detach().contiguous()
        ctx.save_for_backward(tangents)
        made = torch.empty(len(tangents), 3, 3)
        _covariances(tangents.numpy(), made.numpy())
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _tangents_gradient(ctx, *grad_outputs)


@once_differentiable
def _tangents_gradient(ctx: Any, grad_out: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N 3 S"]:
    (tangents,) = ctx.saved_tensors
    gradient = torch.empty_like(tangents)
    _covariances_backward(tangents.numpy(), grad_out.contiguous().numpy(), gradient.numpy())
    return gradient


@device_function
def _covariances(tangents, made):
    for n in range(tangents.shape[0]):
        for a in range(3):
            for b in range(a + 1):
                total = np.float32(0)
                for s in range(tangents.shape[2]):
                    total += tangents[n, a, s] * tangents[n, b, s]
                made[n, a, b] = made[n, b, a] = total


@device_function
def _covariances_backward(tangents, grad_out, gradient):
    """(G + G^T) M"""
    for n in range(tangents.shape[0]):
        for a in range(3):
            for s in range(tangents.shape[2]):
                total = np.float32(0)
                for b in range(3):
                    total += (grad_out[n, a, b] + grad_out[n, b, a]) * tangents[n, b, s]
                gradient[n, a, s] = total
