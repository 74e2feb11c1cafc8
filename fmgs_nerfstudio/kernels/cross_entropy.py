# pyright: standard
"""Cross-entropy of the classes of pixels, fused for CPUs: eight pixels at a time, and runs of equal pixels, such as the
background's, only once."""

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
from fmgs_nerfstudio.kernels.normal_maps import on_cpu
from fmgs_nerfstudio.kernels.simd import LANES, exp_negative, load, splat, store, where

_IGNORED = -100
_LEAST = np.float32(-87)  # e to the power of less is 0
ZERO = np.float32(0)


def cross_entropy(
    logits: Float[Tensor, "H W C"], labels: Int[Tensor, "H W"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """Sum over valid pixels of log sum_c e^l_c - l_label.

    Raises:
        IndexError: the label of a valid pixel is none of 0 .. C-1.
    """
    if on_cpu(logits):
        return _CrossEntropyOnCpu.apply(logits, labels, valid)
    return cross_entropy_reference(logits, labels, valid)


def cross_entropy_reference(
    logits: Float[Tensor, "H W C"], labels: Int[Tensor, "H W"], valid: Bool[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """`cross_entropy` in plain torch, for any device and dtype."""
    targets = labels.long().masked_fill(~valid, _IGNORED).flatten()
    return functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=_IGNORED, reduction="sum")


class _CrossEntropyOnCpu(torch.autograd.Function):
    """`cross_entropy_reference` fused."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        planes = logits.detach().movedim(-1, 0).contiguous()
        labels = torch.where(valid, labels.long(), _IGNORED)
        log_sums, starts = torch.empty(labels.shape), torch.empty(labels.shape, dtype=torch.bool)
        total, wrong = _forward(planes.numpy(), labels.numpy(), log_sums.numpy(), starts.numpy())
        if wrong != _IGNORED:
            raise IndexError(f"label {wrong} of a pixel is out of bounds: there are {len(planes)} classes")
        ctx.save_for_backward(planes, labels, log_sums, starts)
        return logits.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _gradient(ctx, *grad_outputs), None, None


@once_differentiable
def _gradient(ctx: Any, grad_out: Float[Tensor, ""]) -> Float[Tensor, "H W C"]:
    planes, labels, log_sums, starts = ctx.saved_tensors
    gradient, scale = torch.empty_like(planes), np.float32(grad_out.item())
    _backward(planes.numpy(), labels.numpy(), log_sums.numpy(), starts.numpy(), scale, gradient.numpy())
    return gradient.movedim(0, -1)


@device_function
def _gather(planes, starts, i, columns, buffer, stride):
    """The pixels of row i that begin a run, class by class; returns how many."""
    n = 0
    for j in range(planes.shape[2]):
        if starts[i, j]:
            columns[n] = j
            n += 1
    columns[n] = planes.shape[2]
    for c in range(planes.shape[0]):
        for k in range(n):
            buffer[c * stride + k] = planes[c, i, columns[k]]
    return n


@device_function
def _forward(planes, labels, log_sums, starts):
    """The sum, and a label that is no class, if there is one; leaves log sum_c e^l_c of every pixel, and which pixels
    differ from the one to their left."""
    classes, height, width = planes.shape
    stride = width + LANES
    columns = np.empty(width + 1, np.int64)
    buffer = np.zeros(classes * stride, np.float32)
    tops, sums = np.zeros(stride, np.float32), np.zeros(stride, np.float32)
    total, wrong = 0.0, _IGNORED
    for i in range(height):
        starts[i] = False
        starts[i, 0] = True
        for c in range(classes):
            here, left, differs = planes[c, i, 1:], planes[c, i, : width - 1], starts[i, 1:]
            for j in range(width - 1):
                differs[j] |= here[j] != left[j]
        n = _gather(planes, starts, i, columns, buffer, stride)
        for k in range(0, n, LANES):
            top = load(buffer, k)
            for c in range(1, classes):
                x = load(buffer, c * stride + k)
                top = where(x > top, x, top)
            total_of_lanes = splat(ZERO)
            for c in range(classes):
                x = load(buffer, c * stride + k) - top
                power = exp_negative(where(x >= _LEAST, x, _LEAST))
                total_of_lanes += where(x >= _LEAST, power, where(x < _LEAST, ZERO, x))  # x is NaN
            store(tops, k, top)
            store(sums, k, total_of_lanes)
        for k in range(n):
            log_sum = tops[k] + math.log(sums[k])
            for j in range(columns[k], columns[k + 1]):
                log_sums[i, j] = log_sum
                label = labels[i, j]
                if 0 <= label < classes:
                    total += log_sum - planes[label, i, j]
                elif label != _IGNORED:
                    wrong = label
    return total, wrong


@device_function
def _backward(planes, labels, log_sums, starts, scale, gradient):
    """`scale` times the gradient: e^(l_c - log sum), less 1 for the label."""
    classes, height, width = planes.shape
    stride = width + LANES
    columns, runs = np.empty(width + 1, np.int64), np.empty(width, np.int64)
    buffer, sums = np.zeros(classes * stride, np.float32), np.zeros(stride, np.float32)
    for i in range(height):
        n, n_runs = _gather(planes, starts, i, columns, buffer, stride), 0
        for k in range(n):
            sums[k] = log_sums[i, columns[k]]
            if columns[k + 1] - columns[k] > 1:
                runs[n_runs] = k
                n_runs += 1
        for c in range(classes):
            for k in range(0, n, LANES):
                x = load(buffer, c * stride + k) - load(sums, k)
                power = exp_negative(where(x >= _LEAST, x, _LEAST))
                store(buffer, c * stride + k, where(x >= _LEAST, power * scale, where(x < _LEAST, ZERO, x)))
            row, value = gradient[c, i], buffer[c * stride : c * stride + n]
            for k in range(n):
                row[columns[k]] = value[k]
            for r in range(n_runs):
                k = runs[r]
                for j in range(columns[k], columns[k + 1]):
                    row[j] = value[k]
        for j in range(width):
            label = labels[i, j]
            if label == _IGNORED:
                gradient[:, i, j] = ZERO
            else:
                gradient[label, i, j] -= scale
