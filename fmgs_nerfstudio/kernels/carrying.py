# pyright: standard
"""Surfels carried by linear maps (Eq. 11, 12), and their gradients kept apart by what they may move.

`carry_reference` is the plain torch form. On CPUs a kernel makes all of it in one pass over the surfels, and another
sums the gradients of all that was made of it; elsewhere few launches do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.kernels.compiled import device_function, gradient, kernel, takes
from fmgs_nerfstudio.kernels.precision import full_precision

ZERO = np.float32(0)


class Carried(NamedTuple):
    """Means and tangents in the world, metres. The three tangents are the same numbers, columns s_u t_u, s_v t_v (and
    s_w t_w, of three scales); their gradients reach less and less.
    """

    means: Float[Tensor, "N 3"]
    tangents: Float[Tensor, "N 3 S"]
    """By maps, frames and scales."""
    tangents_of_frames: Float[Tensor, "N 3 S"]
    """By frames and scales."""
    tangents_of_scales: Float[Tensor, "N 3 S"]
    """By scales alone."""


def carry(
    means: Float[Tensor, "N 3"], frames: Float[Tensor, "N 3 3"], scales: Float[Tensor, "N S"], T: Float[Tensor, "N 3 4"]
) -> Carried:
    """T mu and T R s; `frames` holds the axes as columns, and the first S of them have a scale."""
    if takes(means, frames, scales, T):
        return Carried(*_Carry.apply(means, frames, scales, T))
    return carry_in_few(means, frames, scales, T)


@full_precision()
def carry_in_few(
    means: Float[Tensor, "N 3"], frames: Float[Tensor, "N 3 3"], scales: Float[Tensor, "N S"], T: Float[Tensor, "N 3 4"]
) -> Carried:
    """`carry` in few launches of torch, for any device and dtype."""
    return Carried(*_CarryInFew.apply(means, frames, scales, T))


def carry_reference(
    means: Float[Tensor, "N 3"], frames: Float[Tensor, "N 3 3"], scales: Float[Tensor, "N S"], T: Float[Tensor, "N 3 4"]
) -> Carried:
    """`carry` in plain torch, for any device and dtype."""
    linear, axes = T[:, :, :3], frames[:, :, : scales.shape[1]]
    carried = torch.bmm(linear, axes)
    return Carried(
        torch.bmm(linear, means[..., None])[..., 0] + T[:, :, 3],
        carried * scales[:, None],
        # T is detached before its product with R, so that R still moves where T may not.
        torch.bmm(linear.detach(), axes) * scales[:, None],
        carried.detach() * scales[:, None],
    )


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = tuple(x.detach().contiguous() for x in inputs)
        means, _, scales, _ = inputs
        carried, tangents = torch.empty_like(means), means.new_empty(len(means), 3, scales.shape[1])
        _forward(*(x.numpy() for x in (*inputs, carried, tangents)))
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return carried, tangents, tangents.detach(), tangents.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    gradients = tuple(map(torch.empty_like, inputs))
    _backward(*(x.numpy() for x in inputs), *map(gradient, cotangents, (2, 3, 3, 3)), *(x.numpy() for x in gradients))
    return _where_reached(gradients, cotangents)


class _CarryInFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, frames: Tensor, scales: Tensor, T: Tensor) -> tuple[Tensor, ...]:
        linear, shifts = T.split([3, 1], dim=2)
        axes = torch.bmm(linear, frames[:, :, : scales.shape[1]])
        carried, tangents = torch.baddbmm(shifts, linear, means[..., None])[..., 0], axes * scales[:, None]
        ctx.save_for_backward(means, frames, scales, T, axes)
        ctx.set_materialize_grads(False)
        return carried, tangents, tangents.detach(), tangents.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients_in_few(ctx, *grad_outputs)


@once_differentiable
def _gradients_in_few(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    means, frames, scales, T, axes = ctx.saved_tensors
    none = means, axes, axes, axes
    of_carried, by_all, by_frames, by_scales = (
        torch.zeros_like(x) if v is None else v for v, x in zip(cotangents, none, strict=True)
    )
    by_frames = by_all + by_frames
    count, linear, s = scales.shape[1], T[:, :, :3], scales[:, None]
    of_scales = ((by_frames + by_scales) * axes).sum(1)
    of_frames = functional.pad(torch.bmm(linear.mT, by_frames * s), (0, 3 - count))
    of_means = torch.bmm(linear.mT, of_carried[..., None])
    of_axes = torch.bmm(by_all * s, frames[:, :, :count].mT)
    of_linear = torch.baddbmm(of_axes, of_carried[..., None], means[:, None])
    of_T = torch.cat([of_linear, of_carried[..., None]], dim=2)
    return _where_reached((of_means[..., 0], of_frames, of_scales, of_T), cotangents)


def _where_reached(gradients: tuple[Tensor, ...], cotangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """None for those of means, frames, scales and T that nothing with a gradient was made of."""
    means, tangents, of_frames, of_scales = (v is not None for v in cotangents)
    reached = means, tangents or of_frames, tangents or of_frames or of_scales, means or tangents
    return tuple(x if is_reached else None for x, is_reached in zip(gradients, reached, strict=True))


@kernel
def _forward(means, frames, scales, T, carried, tangents):
    for n in numba.prange(len(means)):
        for i in range(3):
            a, b, c = T[n, i, 0], T[n, i, 1], T[n, i, 2]
            carried[n, i] = a * means[n, 0] + b * means[n, 1] + c * means[n, 2] + T[n, i, 3]
            for k in range(scales.shape[1]):
                axis = a * frames[n, 0, k] + b * frames[n, 1, k] + c * frames[n, 2, k]
                tangents[n, i, k] = axis * scales[n, k]


@kernel
def _backward(means, frames, scales, T, v_means, v_all, v_frames, v_scales, of_means, of_frames, of_scales, of_T):
    """Gradients `of_*` of the four inputs from those of what was made of them, `v_*`, empty where there is none."""
    for n in numba.prange(len(means)):
        for i in range(3):
            v = _at(v_means, n, i)
            x, y, z = v * means[n, 0], v * means[n, 1], v * means[n, 2]
            for k in range(scales.shape[1]):
                along = _at(v_all, n, i, k) * scales[n, k]
                x += along * frames[n, 0, k]
                y += along * frames[n, 1, k]
                z += along * frames[n, 2, k]
            of_T[n, i, 0], of_T[n, i, 1], of_T[n, i, 2], of_T[n, i, 3] = x, y, z, v
            of_frames[n, i, 2] = ZERO
        x = y = z = ZERO
        for i in range(3):
            v = _at(v_means, n, i)
            x, y, z = x + v * T[n, i, 0], y + v * T[n, i, 1], z + v * T[n, i, 2]
        of_means[n, 0], of_means[n, 1], of_means[n, 2] = x, y, z
        for k in range(scales.shape[1]):
            u, v, w = frames[n, 0, k], frames[n, 1, k], frames[n, 2, k]
            x = y = z = scale = ZERO
            for i in range(3):
                a, b, c = T[n, i, 0], T[n, i, 1], T[n, i, 2]
                along = _at(v_all, n, i, k) + _at(v_frames, n, i, k)
                scale += (along + _at(v_scales, n, i, k)) * (a * u + b * v + c * w)
                x, y, z = x + along * a, y + along * b, z + along * c
            s = scales[n, k]
            of_frames[n, 0, k], of_frames[n, 1, k], of_frames[n, 2, k] = s * x, s * y, s * z
            of_scales[n, k] = scale


@device_function
def _at(array, *place):
    return array[place] if len(array) > 0 else ZERO
