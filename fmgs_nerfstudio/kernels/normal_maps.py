# pyright: standard
"""Maps of normals, fused for CPUs: most pixels are background, and there is nothing to do there.

Each function has its plain torch form beside it, for any device and dtype. Arrays of vectors are [H, W, 3] of any
strides; what is made here lies in memory plane by plane, as composited images do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.kernels.closed_forms import unit
from fmgs_nerfstudio.kernels.compiled import device_function

_EPSILON = np.float32(1e-12)  # of `normalize`


def on_cpu(*tensors: Tensor) -> bool:
    """Whether the fast forms take these: float32 on a CPU."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)


def planes(height: int, width: int, channels: int = 3) -> Float[Tensor, "H W C"]:
    """Zeros that lie plane by plane."""
    return torch.zeros(channels, height, width).movedim(0, -1)


def unit_where(valid: Bool[Tensor, "H W"], vectors: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """Vectors made of unit length where valid, else 0."""
    if on_cpu(vectors):
        return _UnitOnCpu.apply(valid, vectors)
    return torch.where(valid[..., None], unit(vectors), 0)


def unit_where_reference(valid: Bool[Tensor, "H W"], vectors: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """`unit_where` in plain torch."""
    return torch.where(valid[..., None], functional.normalize(vectors, dim=-1), 0)


class _UnitOnCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, valid: Tensor, vectors: Tensor) -> Tensor:
        vectors, unit = vectors.detach(), planes(*valid.shape)
        _unit(valid.numpy(), vectors.numpy(), unit.numpy())
        ctx.save_for_backward(valid, vectors)
        return unit

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        return None, _unit_gradient(ctx, *grad_outputs)


@once_differentiable
def _unit_gradient(ctx: Any, grad_out: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    valid, vectors = ctx.saved_tensors
    gradient = planes(*valid.shape)
    _unit_backward(valid.numpy(), vectors.numpy(), grad_out.numpy(), gradient.numpy())
    return gradient


def long_where(valid: Bool[Tensor, "H W"], vectors: Float[Tensor, "H W 3"]) -> Bool[Tensor, "H W"]:
    """Where it is valid, and the vector longer than 1/2 (not where it is NaN)."""
    if not on_cpu(vectors):
        return valid & (vectors.norm(dim=-1) > 0.5)
    out = torch.zeros(valid.shape, dtype=torch.bool)
    _long(valid.numpy(), vectors.detach().numpy(), out.numpy())
    return out


def normals_of_depth(
    depth: Float[Tensor, "H W"], focal: tuple[float, float], centre: tuple[float, float]
) -> Float[Tensor, "H W 3"]:
    """`rendering.depth_to_normal` fused, without a gradient; float32 on a CPU; intrinsics in pixels."""
    out = planes(*depth.shape)
    fx, fy, cx, cy = (np.float32(x) for x in (*focal, *centre))
    _normals_of_depth(depth.detach().contiguous().numpy(), fx, fy, cx, cy, out.numpy())
    return out


@device_function
def _unit(valid, vectors, unit):
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if valid[i, j]:
                x, y, z = vectors[i, j, 0], vectors[i, j, 1], vectors[i, j, 2]
                length = max(math.sqrt(x * x + y * y + z * z), _EPSILON)
                unit[i, j, 0], unit[i, j, 1], unit[i, j, 2] = x / length, y / length, z / length


@device_function
def _unit_backward(valid, vectors, grad_out, gradient):
    """(g - n (n . g)) / |v|; a vector below the epsilon was only scaled."""
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if valid[i, j]:
                x, y, z = vectors[i, j, 0], vectors[i, j, 1], vectors[i, j, 2]
                gx, gy, gz = grad_out[i, j, 0], grad_out[i, j, 1], grad_out[i, j, 2]
                length = math.sqrt(x * x + y * y + z * z)
                along = np.float32(0)
                if length >= _EPSILON:
                    along = (x * gx + y * gy + z * gz) / (length * length)
                else:
                    length = _EPSILON
                gradient[i, j, 0] = (gx - x * along) / length
                gradient[i, j, 1] = (gy - y * along) / length
                gradient[i, j, 2] = (gz - z * along) / length


@device_function
def _long(valid, vectors, out):
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if valid[i, j]:
                x, y, z = vectors[i, j, 0], vectors[i, j, 1], vectors[i, j, 2]
                out[i, j] = x * x + y * y + z * z > np.float32(0.25)


@device_function
def _normals_of_depth(depth, fx, fy, cx, cy, out):
    """The cross product of central differences of the points (x, -y, -1) depth."""
    half = np.float32(0.5)
    for i in range(1, depth.shape[0] - 1):
        above, below = (cy - half - (i - 1)) / fy, (cy - half - (i + 1)) / fy
        here = (cy - half - i) / fy
        for j in range(1, depth.shape[1] - 1):
            left, right, up, down = depth[i, j - 1], depth[i, j + 1], depth[i - 1, j], depth[i + 1, j]
            if not (depth[i, j] > 0 and left > 0 and right > 0 and up > 0 and down > 0):
                continue
            column = (np.float32(j) + half - cx) / fx
            before, after = (np.float32(j - 1) + half - cx) / fx, (np.float32(j + 1) + half - cx) / fx
            ax, ay, az = after * right - before * left, here * right - here * left, left - right
            bx, by, bz = column * up - column * down, above * up - below * down, down - up
            x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            length = max(math.sqrt(x * x + y * y + z * z), _EPSILON)
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = x / length, y / length, z / length
