# pyright: standard
"""Deviation of features from the mean of their class: the sum in closed form that L_reg averages."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fmgs_nerfstudio.kernels.compiled import device_function
from fmgs_nerfstudio.kernels.normal_maps import on_cpu
from fmgs_nerfstudio.kernels.pixel_sums import with_slope


def deviation_from_mean(features: Float[Tensor, "N D"], labels: Int[Tensor, "N"], classes: int) -> Float[Tensor, ""]:
    """Mean of |f_i - mean of i's class|^2 over each class, then over the classes present; 0 where there are none.

    Raises:
        IndexError: a label is none of 0 .. classes - 1.
    """
    if not on_cpu(features):
        return deviation_from_mean_reference(features, labels, classes)
    slope = torch.empty(features.shape)
    total = _deviation(features.detach().contiguous().numpy(), labels.long().numpy(), classes, slope.numpy())
    if total < 0:
        raise IndexError(f"a label of {labels.min()} .. {labels.max()} is out of bounds: there are {classes} classes")
    return with_slope(features, total, slope)


def deviation_from_mean_reference(
    features: Float[Tensor, "N D"], labels: Int[Tensor, "N"], classes: int
) -> Float[Tensor, ""]:
    """`deviation_from_mean` in plain torch, for any device and dtype."""
    labels = labels.long()
    members = functional.one_hot(labels, classes).to(features)
    sizes = members.sum(dim=0)
    # The sum is least at the mean: no gradient passes through it.
    means = (members.T @ features.detach()) / sizes.clamp(min=1)[:, None]
    deviation = (features - means[labels]).square().sum(dim=-1)
    present = (sizes > 0).sum().clamp(min=1)
    return (deviation / sizes[labels]).sum() / present


@device_function
def _deviation(features, labels, classes, slope):
    """The mean, and its slope [N, D]; -1 where a label is no class."""
    count, dimensions = features.shape
    sizes, means = np.zeros(classes, np.int64), np.zeros((classes, dimensions))
    for i in range(count):
        label = labels[i]
        if not 0 <= label < classes:
            return -1.0
        sizes[label] += 1
        for d in range(dimensions):
            means[label, d] += features[i, d]
    present = 0
    for label in range(classes):
        present += sizes[label] > 0
        for d in range(dimensions):
            means[label, d] /= max(sizes[label], 1)
    total = 0.0
    for i in range(count):
        share = 1 / (sizes[labels[i]] * present)
        for d in range(dimensions):
            deviation = features[i, d] - means[labels[i], d]
            total += share * deviation * deviation
            slope[i, d] = 2 * share * deviation
    return total
