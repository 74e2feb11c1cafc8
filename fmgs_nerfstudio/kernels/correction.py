# pyright: standard
"""Eq. 4-6 on the CPU: `correct_reference` in `surfels`, forward and backward in one pass over the surfels each."""

from __future__ import annotations

import math
from typing import Any

import numba
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.kernels.compiled import gradient, kernel
from fmgs_nerfstudio.kernels.rotations import rotation_gradient, turned


def correct_on_cpu(
    means: Float[Tensor, "N 3"],
    frames: Float[Tensor, "N 3 3"],
    scales: Float[Tensor, "N S"],
    delta_d: Float[Tensor, "N 1"],
    delta_s: Float[Tensor, "N S"],
    delta_r: Float[Tensor, "N 3"],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3 3"], Float[Tensor, "N S"]]:
    """mu', R', s' in float32; means and frames get no gradient."""
    return _Correct.apply(means, frames, scales, delta_d, delta_s, delta_r)


class _Correct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = tuple(x.detach().contiguous() for x in inputs)
        made = tuple(map(torch.empty_like, inputs[:3]))
        _forward(*(x.numpy() for x in (*inputs, *made)))
        _, frames, scales, delta_d, _, delta_r = inputs
        ctx.save_for_backward(frames, scales, delta_d, made[2], delta_r)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    gradients = [torch.empty_like(x) for x in inputs[1:]]
    _backward(*(x.numpy() for x in inputs), *map(gradient, cotangents, (2, 3, 2)), *(x.numpy() for x in gradients))
    means, frames, scales = (v is not None for v in cotangents)
    reached = False, False, scales, means, scales, frames
    return tuple(x if is_reached else None for x, is_reached in zip((None, None, *gradients), reached, strict=True))


@kernel
def _forward(means, frames, scales, delta_d, delta_s, delta_r, to_means, to_frames, to_scales):
    for n in numba.prange(len(means)):
        turned(frames[n], delta_r[n], to_frames[n])
        for i in range(3):
            to_means[n, i] = means[n, i] + frames[n, i, 2] * delta_d[n, 0]
        for k in range(scales.shape[1]):
            to_scales[n, k] = scales[n, k] * math.exp(delta_s[n, k])


@kernel
def _backward(frames, scales, delta_d, scaled, delta_r, v_means, v_frames, v_scales, of_scales, of_d, of_s, of_r):
    """Gradients `of_*` of the inputs from those of what was made, `v_*`, empty where there is none."""
    by_means, by_frames, by_scales = len(v_means) > 0, len(v_frames) > 0, len(v_scales) > 0
    for n in numba.prange(len(frames)):
        if by_means:
            of_d[n, 0] = 0
            for i in range(3):
                of_d[n, 0] += frames[n, i, 2] * v_means[n, i]
        if by_frames:
            of_r[n, 0], of_r[n, 1], of_r[n, 2] = rotation_gradient(frames[n], v_frames[n], delta_r[n])
        if by_scales:
            for k in range(scales.shape[1]):
                of_s[n, k] = v_scales[n, k] * scaled[n, k]
                of_scales[n, k] = of_s[n, k] / scales[n, k]
