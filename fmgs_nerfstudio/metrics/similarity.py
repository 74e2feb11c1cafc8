"""SSIM as other programs compute it: they differ in window, data range, variance and border, and so in the number."""

from __future__ import annotations

from statistics import fmean
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Window = Literal["uniform7", "gauss11"]


def ssim_inside(
    image: Float[Tensor, "H W C"], truth: Float[Tensor, "H W C"], window: Window, data_range: float
) -> float:
    """Mean SSIM over channels and over the pixels whose whole window lies inside the image.

    uniform7: skimage's default, 7x7, with the unbiased variance; gauss11: torchmetrics' default, sigma 1.5, 11x11, as
    in its versions of the papers' time (0.9 and 1.0; 1.9 counts a reflected border, too).
    `data_range`: skimage up to 0.19 took 2 for float images that it was told nothing about, whatever their values;
    the larger range gives the larger SSIM.
    """
    channels = zip(image.unbind(-1), truth.unbind(-1), strict=True)
    return fmean(_of_channel(x.contiguous(), y.contiguous(), window, data_range) for x, y in channels)


def _of_channel(x: Float[Tensor, "H W"], y: Float[Tensor, "H W"], window: Window, data_range: float) -> float:
    weights = _WINDOWS[window].tolist()
    mean_x, mean_y, xx, yy, xy = (_filter(map, weights) for map in (x, y, x * x, y * y, x * y))
    unbiased = 49 / 48 if window == "uniform7" else 1.0
    variances = unbiased * (xx - mean_x**2 + yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return float((luminance * structure).double().mean())


def _filter(map: Float[Tensor, "H W"], weights: list[float]) -> Float[Tensor, "h w"]:
    """Separable, inside the map alone; sums of shifted maps, since convolving one channel is slow on CPUs."""
    for axis in (0, 1):
        length = map.shape[axis] - len(weights) + 1
        out = map.narrow(axis, 0, length) * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            out.add_(map.narrow(axis, i, length), alpha=weight)
        map = out
    return map


def _gauss(size: int, sigma: float) -> Float[Tensor, "size"]:
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-0.5 * (offset / sigma) ** 2)
    return weights / weights.sum()


_WINDOWS: dict[Window, Tensor] = {"uniform7": torch.full((7,), 1 / 7, dtype=torch.float64), "gauss11": _gauss(11, 1.5)}
