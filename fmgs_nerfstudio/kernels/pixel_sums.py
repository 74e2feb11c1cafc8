# pyright: standard
"""Sums over the valid pixels of an image, which losses divide by their number; fused for CPUs.

A fast form makes the sum and its slope in one pass over the pixels that count. Each has its plain torch form beside it,
for any device and dtype. Arrays of vectors are [H, W, 3] of any strides. Gradients reach the first argument only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.kernels.compiled import device_function
from fmgs_nerfstudio.kernels.normal_maps import on_cpu, planes

Map = Float[Tensor, "H W 3"]
Valid = Bool[Tensor, "H W"]


def with_slope(x: Tensor, value: float, slope: Tensor) -> Float[Tensor, ""]:
    """A number, differentiable to `x` by a slope that is at hand."""
    return _WithSlope.apply(x, value, slope)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return x.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _scaled(ctx, *grad_outputs), None, None


@once_differentiable
def _scaled(ctx: Any, grad_out: Float[Tensor, ""]) -> Tensor:
    (slope,) = ctx.saved_tensors
    return slope * grad_out


# --- |a - b| ----------------------------------------------------------------------------------------------------------


def absolute_difference(a: Map, b: Map, valid: Valid) -> Float[Tensor, ""]:
    """Sum of |a - b| over valid pixels and channels."""
    if not on_cpu(a, b) or b.requires_grad:
        return absolute_difference_reference(a, b, valid)
    slope = planes(*a.shape)
    total = _absolute_difference(a.detach().numpy(), b.numpy(), valid.numpy(), slope.numpy())
    return with_slope(a, total, slope)


def absolute_difference_reference(a: Map, b: Map, valid: Valid) -> Float[Tensor, ""]:
    """`absolute_difference` in plain torch."""
    return torch.where(valid[..., None], a - b, 0).norm(p=1)


@device_function
def _absolute_difference(a, b, valid, slope):
    total = 0.0
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if valid[i, j]:
                for c in range(3):
                    difference = a[i, j, c] - b[i, j, c]
                    total += abs(difference)
                    slope[i, j, c] = np.sign(difference)
    return total


# --- a . b ------------------------------------------------------------------------------------------------------------


def dot_product(a: Map, b: Map, valid: Valid) -> Float[Tensor, ""]:
    """Sum of a . b over valid pixels; elsewhere `b` may be NaN."""
    if not on_cpu(a, b) or b.requires_grad:
        return dot_product_reference(a, b, valid)
    slope = planes(*a.shape)
    total = _dot_product(a.detach().numpy(), b.numpy(), valid.numpy(), slope.numpy())
    return with_slope(a, total, slope)


def dot_product_reference(a: Map, b: Map, valid: Valid) -> Float[Tensor, ""]:
    """`dot_product` in plain torch."""
    return (a * torch.where(valid[..., None], b, 0)).sum()


@device_function
def _dot_product(a, b, valid, slope):
    total = 0.0
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if valid[i, j]:
                for c in range(3):
                    total += a[i, j, c] * b[i, j, c]
                    slope[i, j, c] = b[i, j, c]
    return total


# --- differences of neighbours ----------------------------------------------------------------------------------------


def variation(a: Map, valid: Valid) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Sum over neighbours to the right and below, both valid, of the absolute difference over channels; and their
    number."""
    if not on_cpu(a):
        return variation_reference(a, valid)
    slope = planes(*a.shape)
    total, count = _variation(a.detach().numpy(), valid.numpy(), slope.numpy())
    return with_slope(a, total, slope), torch.tensor(count)


def variation_reference(a: Map, valid: Valid) -> tuple[Float[Tensor, ""], Tensor]:
    """`variation` in plain torch."""
    along, down = valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
    total = torch.where(along[..., None], a.diff(dim=1), 0).norm(p=1)
    total = total + torch.where(down[..., None], a.diff(dim=0), 0).norm(p=1)
    return total, along.sum() + down.sum()


@device_function
def _variation(a, valid, slope):
    height, width = valid.shape
    total, count = 0.0, 0
    for i in range(height):
        for j in range(width):
            if not valid[i, j]:
                continue
            for k, m in ((i, j + 1), (i + 1, j)):
                if k < height and m < width and valid[k, m]:
                    count += 1
                    for c in range(3):
                        difference = a[k, m, c] - a[i, j, c]
                        sign = np.sign(difference)
                        total += abs(difference)
                        slope[k, m, c] += sign
                        slope[i, j, c] -= sign
    return total, count


# --- binary cross-entropy ---------------------------------------------------------------------------------------------


def binary_cross_entropy(p: Float[Tensor, "*pixels"], target: Float[Tensor, "*pixels"], margin: float) -> Tensor:
    """Sum of -t log q - (1 - t) log(1 - q) where q is p in [0, 1] drawn to 1/2 by the margin."""
    if not on_cpu(p, target) or target.requires_grad:
        return binary_cross_entropy_reference(p, target, margin)
    slope = torch.empty(p.shape)
    total = _binary_cross_entropy(
        p.detach().contiguous().view(-1).numpy(), target.contiguous().view(-1).numpy(), margin, slope.view(-1).numpy()
    )
    return with_slope(p, float(total), slope)


def binary_cross_entropy_reference(
    p: Float[Tensor, "*pixels"], target: Float[Tensor, "*pixels"], margin: float
) -> Float[Tensor, ""]:
    """`binary_cross_entropy` in plain torch."""
    return functional.binary_cross_entropy(margin + (1 - 2 * margin) * p, target, reduction="sum")


@device_function
def _binary_cross_entropy(p, target, margin, slope):
    total = 0.0
    empty, empty_slope = -math.log(1 - margin), (1 - 2 * margin) / (1 - margin)
    for i in range(p.size):
        if p[i] == 0 and target[i] == 0:  # most pixels, and logarithms are slow
            total += empty
            slope[i] = empty_slope
            continue
        q, t = margin + (1 - 2 * margin) * p[i], np.float64(target[i])
        total -= t * math.log(q) + (1 - t) * math.log(1 - q)
        slope[i] = (1 - 2 * margin) * (q - t) / (q * (1 - q))
    return total
