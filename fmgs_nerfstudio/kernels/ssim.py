# pyright: standard
"""Structural similarity as 3DGS computes it: 11x11 gaussian window of sigma 1.5, zero padding, data range 1.

`ssim_reference` is the plain torch form; on CPUs a fused numba kernel with a hand-written backward computes the same
in a small part of the time. The window is separable and symmetric, so the transpose of its filter is the filter itself.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.kernels.constants import constant

_SIZE, _SIGMA = 11, 1.5
_RADIUS = _SIZE // 2
_C1, _C2 = 0.01**2, 0.03**2


def _window() -> Float[Tensor, "11"]:
    offset = torch.arange(_SIZE, dtype=torch.float64) - _RADIUS
    weights = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    return weights / weights.sum()


_FROM_MIDDLE: list[float] = _window()[_RADIUS:].tolist()
"""The window's weights from its middle outwards."""


def ssim(image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]) -> Float[Tensor, ""]:
    """Mean SSIM over all pixels and channels; values in [0, 1]. No gradient reaches `target`."""
    if image.dtype == target.dtype == torch.float32 and image.device.type == "cpu":
        return _SsimOnCpu.apply(image, target.detach())
    return ssim_reference(image, target.detach())


def ssim_reference(image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]) -> Float[Tensor, ""]:
    """`ssim` in plain torch, for any device and dtype. Without convolution: cuDNN's would be TF32 by default."""
    x, y = image, target
    mean_x, mean_y, squares, product = _Blur.apply(torch.stack([x, y, x * x + y * y, x * y])).unbind()
    means, means_squared = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means + _C1) / (means_squared + _C1)
    structure = (2 * (product - means) + _C2) / (squares - means_squared + _C2)
    return (luminance * structure).mean()


class _Blur(torch.autograd.Function):
    """The window over maps [M, H, W, C], by sums over views: no product, whose float32 could be TF32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        window = constant(tuple(_FROM_MIDDLE[:0:-1] + _FROM_MIDDLE), maps.dtype, maps.device)
        for dim in (1, 2):
            margins = [0, 0] * (3 - dim) + [_RADIUS, _RADIUS]
            maps = (functional.pad(maps, margins).unfold(dim, _SIZE, 1) * window).sum(-1)
        return maps

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _Blur.apply(*grad_outputs)


class _SsimOnCpu(torch.autograd.Function):
    """`ssim_reference` fused, with a gradient to the image only."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor) -> Tensor:
        image, target = image.detach().contiguous(), target.contiguous()
        height, _, channels = image.shape
        slopes, row_sums = torch.empty(3, height, image[0].numel()), np.empty(height)
        _forward(_rows(image), _rows(target), channels, _window().float().numpy(), slopes.numpy(), row_sums)
        ctx.save_for_backward(image, target, slopes)
        return image.new_tensor(row_sums.sum() / image.numel())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, *grad_outputs), None


@once_differentiable
def _gradient(ctx: Any, grad_out: Float[Tensor, ""]) -> Float[Tensor, "H W C"]:
    image, target, slopes = ctx.saved_tensors
    gradient = torch.empty_like(image)
    scale = np.float32(grad_out.item() / image.numel())
    window = _window().float().numpy()
    _backward(_rows(image), _rows(target), image.shape[-1], window, slopes.numpy(), scale, _rows(gradient))
    return gradient


def _rows(image: Float[Tensor, "H W C"]) -> Array:
    """An image as an array [H, W * C]: the neighbour of a value in its row is C further."""
    return image.view(len(image), -1).numpy()


# The helpers below run along one contiguous row each, which LLVM turns into vector instructions.


@device_function
def _add(out, weight, row):
    """out += weight * row"""
    for i in range(out.shape[0]):
        out[i] += weight * row[i]


@device_function
def _add_moments(columns, margin, weight, x, y):
    """Add the weighted moments x, y, xx, yy, xy of two rows [W * C] to `columns [5, W * C + margins]`."""
    middle = slice(margin, margin + x.shape[0])
    mean_x, mean_y = columns[0, middle], columns[1, middle]
    square_x, square_y, product = columns[2, middle], columns[3, middle], columns[4, middle]
    for i in range(x.shape[0]):
        wx, wy = weight * x[i], weight * y[i]
        mean_x[i] += wx
        mean_y[i] += wy
        square_x[i] += wx * x[i]
        square_y[i] += wy * y[i]
        product[i] += wx * y[i]


@device_function
def _add_along(out, window, padded, channels):
    """Filter rows [K, W * C + margins] along their width into `out` [K, W * C]."""
    for k in range(out.shape[0]):
        for tap in range(_SIZE):
            _add(out[k], window[tap], padded[k, tap * channels : tap * channels + out.shape[1]])


@device_function
def _similarity(moments, by_mean, by_square, by_product):
    """Sum of SSIM over a row of filtered moments; fills its slopes by the filtered x, xx and xy."""
    mean_x, mean_y, square_x, square_y, product = moments
    total = np.float32(0)
    for i in range(mean_x.shape[0]):
        squares = mean_x[i] * mean_x[i] + mean_y[i] * mean_y[i]
        means = mean_x[i] * mean_y[i]
        luminance = 2 * means + np.float32(_C1)
        structure = 2 * (product[i] - means) + np.float32(_C2)
        over_squares = 1 / (squares + np.float32(_C1))
        over_variances = 1 / (square_x[i] + square_y[i] - squares + np.float32(_C2))
        both = over_squares * over_variances
        value = luminance * structure * both
        by_mean[i] = 2 * (
            mean_y[i] * (structure - luminance) * both + mean_x[i] * value * (over_variances - over_squares)
        )
        by_square[i] = -value * over_variances
        by_product[i] = 2 * luminance * both
        total += value
    return total


@kernel
def _forward(image, target, channels, window, slopes, row_sums):
    """Sums of SSIM per row, and its slopes [3, H, W * C] by the filtered image, its square and its product."""
    height, n = image.shape
    margin = _RADIUS * channels
    for y in numba.prange(height):
        columns = np.zeros((5, n + 2 * margin), np.float32)  # filtered down the columns; zeros left and right
        for tap in range(max(0, _RADIUS - y), min(_SIZE, height + _RADIUS - y)):
            _add_moments(columns, margin, window[tap], image[y + tap - _RADIUS], target[y + tap - _RADIUS])
        moments = np.zeros((5, n), np.float32)
        _add_along(moments, window, columns, channels)
        row_sums[y] = _similarity(moments, slopes[0, y], slopes[1, y], slopes[2, y])


@kernel
def _backward(image, target, channels, window, slopes, scale, gradient):
    """Gradient [H, W * C] of `scale` times the sum of SSIM by the image."""
    height, n = image.shape
    margin = _RADIUS * channels
    for y in numba.prange(height):
        columns = np.zeros((3, n + 2 * margin), np.float32)
        for tap in range(max(0, _RADIUS - y), min(_SIZE, height + _RADIUS - y)):
            for k in range(3):
                _add(columns[k, margin : margin + n], window[tap], slopes[k, y + tap - _RADIUS])
        sums = np.zeros((3, n), np.float32)
        _add_along(sums, window, columns, channels)
        for i in range(n):
            gradient[y, i] = scale * (sums[0, i] + 2 * image[y, i] * sums[1, i] + target[y, i] * sums[2, i])
