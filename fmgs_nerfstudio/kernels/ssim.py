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
    return l1_and_ssim(image, target)[1]


def l1_and_ssim(
    image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean absolute difference and mean SSIM, as `ssim`."""
    target = target.detach()
    if image.dtype == target.dtype == torch.float32 and image.device.type == "cpu":
        return _OnCpu.apply(image, target)
    return functional.l1_loss(image, target), ssim_reference(image, target)


def ssim_reference(image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]) -> Float[Tensor, ""]:
    """`ssim` in plain torch, for any device and dtype. Without convolution: cuDNN's would be TF32 by default."""
    x, y = image, target
    mean_x, mean_y, squares, product = _Blur.apply(torch.stack([x, y, x * x + y * y, x * y])).unbind()
    means, means_squared = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means + _C1) / (means_squared + _C1)
    structure = (2 * (product - means) + _C2) / (squares - means_squared + _C2)
    return (luminance * structure).mean()


class _Blur(torch.autograd.Function):
    """The window over maps [M, H, W, C], by sums of shifted maps; autograd would copy each shift."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        for dim in (1, 2):
            source, maps = maps, maps * _FROM_MIDDLE[0]
            for shift in range(1, min(_RADIUS + 1, source.shape[dim])):
                length = source.shape[dim] - shift
                maps.narrow(dim, shift, length).add_(source.narrow(dim, 0, length), alpha=_FROM_MIDDLE[shift])
                maps.narrow(dim, 0, length).add_(source.narrow(dim, shift, length), alpha=_FROM_MIDDLE[shift])
        return maps

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _Blur.apply(*grad_outputs)


class _OnCpu(torch.autograd.Function):
    """L1 and `ssim_reference` fused, with a gradient to the image only.

    Where image and target are alike all over a window, as on the background, SSIM is 1, its most, and so its gradient
    is 0: all is done in the box of the pixels that differ, grown by a window.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        height, width, channels = image.shape
        total, top, bottom, left, right = _difference(image.detach().numpy(), target.numpy())
        around = [max(x, 0) for x in (top - 2 * _RADIUS, bottom + 2 * _RADIUS, left - 2 * _RADIUS, right + 2 * _RADIUS)]
        y0, y1, x0, x1 = around
        x, y = (values.detach()[y0:y1, x0:x1].contiguous() for values in (image, target))
        # Windows that see a difference, within the box.
        rows = max(top - _RADIUS, 0) - y0, min(bottom + _RADIUS, height) - y0
        columns = max(left - _RADIUS, 0) - x0, min(right + _RADIUS, width) - x0
        slopes, row_sums = torch.zeros(3, len(x), x[0].numel() if len(x) else 0), np.zeros(len(x))
        _forward(_rows(x), _rows(y), channels, _window().float().numpy(), (*rows, *columns), slopes.numpy(), row_sums)
        ctx.save_for_backward(x, y, slopes)
        ctx.shape, ctx.around = image.shape, around
        count = (rows[1] - rows[0]) * (columns[1] - columns[0]) * channels
        ssim = 1 - (count - row_sums.sum()) / image.numel()
        return image.new_tensor(total / image.numel()), image.new_tensor(ssim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, *grad_outputs), None


@once_differentiable
def _gradient(ctx: Any, grad_l1: Float[Tensor, ""], grad_ssim: Float[Tensor, ""]) -> Float[Tensor, "H W C"]:
    image, target, slopes = ctx.saved_tensors
    (height, width, channels), (y0, y1, x0, x1) = ctx.shape, ctx.around
    gradient = torch.zeros(channels, height, width).movedim(0, -1)  # plane by plane, as composited images lie
    scale_l1, scale_ssim = (np.float32(x.item() / gradient.numel()) for x in (grad_l1, grad_ssim))
    window, part = _window().float().numpy(), gradient[y0:y1, x0:x1].numpy()
    _backward(_rows(image), _rows(target), channels, window, slopes.numpy(), scale_l1, scale_ssim, part)
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
def _add_along(out, window, padded, channels, first):
    """Filter rows [K, W * C + margins] along their width into `out`, from the column `first` on."""
    for k in range(out.shape[0]):
        for tap in range(_SIZE):
            start = (first + tap) * channels
            _add(out[k], window[tap], padded[k, start : start + out.shape[1]])


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


@device_function
def _difference(image, target):
    """Sum of |image - target|, and the box of the pixels that differ: top, bottom, left, right, end exclusive."""
    height, width, channels = image.shape
    total, top, bottom, left, right = 0.0, height, 0, width, 0
    for i in range(height):
        for j in range(width):
            differs = False
            for c in range(channels):
                if image[i, j, c] != target[i, j, c]:  # so does NaN
                    total += abs(image[i, j, c] - target[i, j, c])
                    differs = True
            if differs:
                top, bottom, left, right = min(top, i), i + 1, min(left, j), max(right, j + 1)
    return total, min(top, bottom), bottom, min(left, right), right


@kernel
def _forward(image, target, channels, window, inner, slopes, row_sums):
    """Sums of SSIM per row, and its slopes [3, H, W * C] by the filtered image, its square and its product; of the
    windows `inner`: rows, then columns, first and end."""
    height, n = image.shape
    margin = _RADIUS * channels
    first, end = inner[2] * channels, inner[3] * channels
    for y in numba.prange(inner[0], inner[1]):
        columns = np.zeros((5, n + 2 * margin), np.float32)  # filtered down the columns; zeros left and right
        for tap in range(max(0, _RADIUS - y), min(_SIZE, height + _RADIUS - y)):
            _add_moments(columns, margin, window[tap], image[y + tap - _RADIUS], target[y + tap - _RADIUS])
        moments = np.zeros((5, end - first), np.float32)
        _add_along(moments, window, columns, channels, inner[2])
        row_sums[y] = _similarity(moments, slopes[0, y, first:end], slopes[1, y, first:end], slopes[2, y, first:end])


@kernel
def _backward(image, target, channels, window, slopes, scale_l1, scale_ssim, gradient):
    """Gradient [H, W, C] by the image of the sums of |image - target| and of SSIM, times their scales."""
    height, n = image.shape
    margin = _RADIUS * channels
    for y in numba.prange(height):
        columns = np.zeros((3, n + 2 * margin), np.float32)
        for tap in range(max(0, _RADIUS - y), min(_SIZE, height + _RADIUS - y)):
            for k in range(3):
                _add(columns[k, margin : margin + n], window[tap], slopes[k, y + tap - _RADIUS])
        sums = np.zeros((3, n), np.float32)
        _add_along(sums, window, columns, channels, 0)
        for j in range(n // channels):
            for c in range(channels):
                i = j * channels + c
                of_ssim = sums[0, i] + 2 * image[y, i] * sums[1, i] + target[y, i] * sums[2, i]
                gradient[y, j, c] = scale_ssim * of_ssim + scale_l1 * np.sign(image[y, i] - target[y, i])
