# pyright: standard
"""Structural similarity as 3DGS computes it: 11x11 gaussian window of sigma 1.5, zero padding, data range 1.

`ssim_reference` is the plain torch form; on CPUs a fused numba kernel with a hand-written backward computes the same
in a small part of the time, elsewhere few launches do. The window is separable and symmetric, so the transpose of its
filter is the filter itself.
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

from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.kernels.constants import constant
from fmgs_nerfstudio.kernels.simd import LANES, load, splat, store, where

_SIZE, _SIGMA = 11, 1.5
_RADIUS = _SIZE // 2
_C1, _C2 = 0.01**2, 0.03**2
ZERO, ONE, TWO, C1, C2 = (np.float32(x) for x in (0, 1, 2, _C1, _C2))


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
    return functional.l1_loss(image, target), ssim_in_few(image, target)


def ssim_in_few(image: Float[Tensor, "H W C"], target: Float[Tensor, "H W C"]) -> Float[Tensor, ""]:
    """`ssim_reference` in few launches of torch, for any device and dtype, with a gradient to the image only."""
    return _InFew.apply(image, target)


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


class _InFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor) -> Tensor:
        x, y = image, target
        mean_x, mean_y, squares, product = _Blur.apply(torch.stack([x, y, torch.addcmul(y * y, x, x), x * y])).unbind()
        means, means_squared = mean_x * mean_y, torch.addcmul(mean_y * mean_y, mean_x, mean_x)
        luminance, structure = 2 * means + _C1, 2 * (product - means) + _C2
        over_squares, over_variances = 1 / (means_squared + _C1), 1 / (squares - means_squared + _C2)
        both = over_squares * over_variances
        values = luminance * structure * both
        ctx.save_for_backward(x, y, mean_x, mean_y, luminance, structure, over_squares, over_variances, both, values)
        return values.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradient_in_few(ctx, *grad_outputs), None


@once_differentiable
def _gradient_in_few(ctx: Any, grad_out: Float[Tensor, ""]) -> Float[Tensor, "H W C"]:
    """Half of the slopes by the blurred x, x^2 (but for its sign) and x y, blurred in turn."""
    x, y, mean_x, mean_y, luminance, structure, over_squares, over_variances, both, values = ctx.saved_tensors
    by_mean = torch.addcmul(mean_y * (structure - luminance) * both, mean_x * values, over_variances - over_squares)
    blurred = _Blur.apply(torch.stack([by_mean, values * over_variances, luminance * both]))
    of_mean, of_square, of_product = blurred.unbind()
    of_ssim = torch.addcmul(torch.addcmul(of_mean, x, of_square, value=-1), y, of_product)
    return of_ssim * (grad_out * (2 / x.numel()))


class _OnCpu(torch.autograd.Function):
    """L1 and `ssim_reference` fused, with a gradient to the image only.

    Where image and target are alike all over a window, as on the background, SSIM is 1, its most, and so its gradient
    is 0: all is done in the box of the pixels that differ, grown by a window.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        height, width, channels = image.shape
        total, top, bottom, left, right = _difference(image.detach().numpy(), target.numpy())
        y0, y1 = max(top - 2 * _RADIUS, 0), min(bottom + 2 * _RADIUS, height)
        x0, x1 = max(left - 2 * _RADIUS, 0), min(right + 2 * _RADIUS, width)
        shape = y1 - y0, (x1 - x0) * channels, channels
        x, y = (_flat(values.detach()[y0:y1, x0:x1]) for values in (image, target))
        # Windows that see a difference, within the box.
        rows = max(top - _RADIUS, 0) - y0, min(bottom + _RADIUS, height) - y0
        columns = max(left - _RADIUS, 0) - x0, min(right + _RADIUS, width) - x0
        slopes, row_sums = np.zeros(3 * shape[0] * shape[1] + LANES, np.float32), np.zeros(shape[0])
        of_rows, window = slopes[:-LANES].reshape(3, *shape[:2]), _window().float().numpy()
        _forward(x.numpy(), y.numpy(), shape, window, (*rows, *columns), of_rows, row_sums)
        ctx.save_for_backward(x, y, torch.from_numpy(slopes))
        ctx.whole, ctx.shape, ctx.place = image.shape, shape, (slice(y0, y1), slice(x0, x1))
        count = (rows[1] - rows[0]) * (columns[1] - columns[0]) * channels
        ssim = 1 - (count - row_sums.sum()) / image.numel()
        return image.new_tensor(total / image.numel()), image.new_tensor(ssim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx, *grad_outputs), None


@once_differentiable
def _gradient(ctx: Any, grad_l1: Float[Tensor, ""], grad_ssim: Float[Tensor, ""]) -> Float[Tensor, "H W C"]:
    image, target, slopes = ctx.saved_tensors
    height, width, channels = ctx.whole
    gradient = torch.zeros(channels, height, width).movedim(0, -1)  # plane by plane, as composited images lie
    scale_l1, scale_ssim = (np.float32(x.item() / gradient.numel()) for x in (grad_l1, grad_ssim))
    window, part = _window().float().numpy(), gradient[ctx.place].numpy()
    _backward(image.numpy(), target.numpy(), ctx.shape, window, slopes.numpy(), scale_l1, scale_ssim, part)
    return gradient


def _flat(image: Float[Tensor, "H W C"]) -> Float[Tensor, "n"]:
    """All values in a row, and LANES zeros."""
    return functional.pad(image.reshape(-1), (0, LANES))


# The kernels go along rows of W * C values, eight at a time; buffers are longer by LANES, for the last eight to end in.


@device_function
def _filtered(row, at, window, channels):
    """Eight values of a row, filtered along its width; the window is as long on both sides of `at`."""
    total = load(row, at) * window[_RADIUS]
    for tap in range(1, _RADIUS + 1):
        pair = load(row, at - tap * channels) + load(row, at + tap * channels)
        total += pair * window[_RADIUS + tap]
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


@device_function
def _taps(y, height):
    """Where the window of row `y` begins and ends within the image."""
    return max(0, _RADIUS - y), min(_SIZE, height + _RADIUS - y)


@kernel
def _forward(image, target, shape, window, inner, slopes, row_sums):
    """Sums of SSIM per row, and its slopes [3, H, W * C] by the filtered image, its square and its product; of the
    windows `inner`: rows, then columns, first and end. Images are flat, LANES longer than `shape`."""
    height, n, channels = shape
    margin, first, end = _RADIUS * channels, inner[2] * channels, inner[3] * channels
    stride = n + 2 * margin + LANES
    for y in numba.prange(inner[0], inner[1]):
        columns = np.zeros(5 * stride, np.float32)  # filtered down the columns; zeros left and right
        found = np.empty(4 * (n + LANES), np.float32)  # SSIM and its slopes
        begin, stop = _taps(y, height)
        for i in range(0, n, LANES):
            mean_x = mean_y = square_x = square_y = product = splat(ZERO)
            for tap in range(begin, stop):
                at = (y + tap - _RADIUS) * n + i
                a, b, weight = load(image, at), load(target, at), window[tap]
                wa, wb = a * weight, b * weight
                mean_x, mean_y = mean_x + wa, mean_y + wb
                square_x, square_y, product = square_x + wa * a, square_y + wb * b, product + wa * b
            at = margin + i
            store(columns, at, mean_x)
            store(columns, at + stride, mean_y)
            store(columns, at + 2 * stride, square_x)
            store(columns, at + 3 * stride, square_y)
            store(columns, at + 4 * stride, product)
        for k in range(5):
            columns[k * stride + margin + n : (k + 1) * stride] = ZERO
        for i in range(first, end, LANES):
            at = margin + i
            mean_x, mean_y = _filtered(columns, at, window, channels), _filtered(columns, at + stride, window, channels)
            squares, means = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
            variances = _filtered(columns, at + 2 * stride, window, channels)
            variances = variances + _filtered(columns, at + 3 * stride, window, channels) - squares + C2
            product = _filtered(columns, at + 4 * stride, window, channels)
            luminance, structure = means * TWO + C1, (product - means) * TWO + C2
            over_squares, over_variances = ONE / (squares + C1), ONE / variances
            both = over_squares * over_variances
            value = luminance * structure * both
            by_mean = mean_y * (structure - luminance) * both + mean_x * value * (over_variances - over_squares)
            store(found, i, value)
            store(found, i + n + LANES, by_mean * TWO)
            store(found, i + 2 * (n + LANES), ZERO - value * over_variances)
            store(found, i + 3 * (n + LANES), luminance * both * TWO)
        total = np.float32(0)
        for i in range(first, end):
            total += found[i]
            for k in range(3):
                slopes[k, y, i] = found[i + (k + 1) * (n + LANES)]
        row_sums[y] = total


@kernel
def _backward(image, target, shape, window, slopes, scale_l1, scale_ssim, gradient):
    """Gradient [H, W, C] by the image of the sums of |image - target| and of SSIM, times their scales. Slopes are flat
    and LANES longer, too."""
    height, n, channels = shape
    margin = _RADIUS * channels
    stride = n + 2 * margin + LANES
    for y in numba.prange(height):
        columns, row = np.zeros(3 * stride, np.float32), np.empty(n + LANES, np.float32)
        begin, stop = _taps(y, height)
        for i in range(0, n, LANES):
            for k in range(3):
                total = splat(ZERO)
                for tap in range(begin, stop):
                    total += load(slopes, (k * height + y + tap - _RADIUS) * n + i) * window[tap]
                store(columns, k * stride + margin + i, total)
        for k in range(3):
            columns[k * stride + margin + n : (k + 1) * stride] = ZERO
        for i in range(0, n, LANES):
            at, x, y_ = margin + i, load(image, y * n + i), load(target, y * n + i)
            of_ssim = _filtered(columns, at, window, channels)
            of_ssim += x * TWO * _filtered(columns, at + stride, window, channels)
            of_ssim += y_ * _filtered(columns, at + 2 * stride, window, channels)
            sign = where(x > y_, ONE, where(x < y_, ZERO - ONE, ZERO))
            store(row, i, of_ssim * scale_ssim + sign * scale_l1)
        for j in range(n // channels):
            for c in range(channels):
                gradient[y, j, c] = row[j * channels + c]
