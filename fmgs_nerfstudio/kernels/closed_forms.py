# pyright: standard
"""What is done per surfel on a card: gradients in closed form, where autograd would chain dozens of launches, each
dearer than its numbers.

Plain torch, for any device and dtype. The definitions stay where they are used: `rotation_exp` in `surfels`,
`canonical_direction_reference` in `fields/appearance`, torch's `normalize`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import cross
from torch.nn import functional

_LEAST_ANGLE = 1e-15  # its square is a float32, and its sine is itself


def turned(frames: Float[Tensor, "N 3 3"], r: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    """F exp([r]_x)."""
    return _Turned.apply(frames, r)


def rodrigues(r: Float[Tensor, "*N 3"]) -> tuple[Float[Tensor, "*N 1"], ...]:
    """a, b, c of exp([r]_x) = I + a [r]_x + b [r]_x^2 and of its right Jacobian I - b [r]_x + c [r]_x^2."""
    angle = torch.linalg.vector_norm(r, dim=-1, keepdim=True).clamp_min(_LEAST_ANGLE)
    a = angle.sin() / angle
    b = 2 * ((angle / 2).sin() / angle).square()  # (1 - cos) / angle^2, which would cancel
    return a, b, (1 - a) / angle.square()


def twisted(x: Tensor, r: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """x (I + first [r]_x + second [r]_x^2) of rows x; x [r]_x is x cross r."""
    once = cross(x, r)
    return torch.addcmul(torch.addcmul(x, first, once), second, cross(once, r))


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, r: Tensor) -> Tensor:
        r = r[:, None]
        a, b, c = rodrigues(r)
        made = twisted(frames, r, a, b)
        ctx.save_for_backward(made, r, a, b, c)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor]:
        return _turned_gradients(ctx, *grad_outputs)


@once_differentiable
def _turned_gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor]:
    """By the right Jacobian J: a change of r by d turns what was made by J d, and g . (f x w) = w . (g x f)."""
    made, r, a, b, c = ctx.saved_tensors
    back = -r
    of_frames = twisted(grad_out, back, a, b) if ctx.needs_input_grad[0] else None
    return of_frames, twisted(cross(grad_out, made).sum(1, keepdim=True), back, b, c)[:, 0]


def unit(v: Float[Tensor, "*N 3"], least: float = 1e-12) -> Float[Tensor, "*N 3"]:
    """v / max(|v|, least)."""
    return _Unit.apply(v, least)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, least: float) -> Tensor:
        length = torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(least)
        made = v / length
        ctx.least = least
        ctx.save_for_backward(made, length)
        return made

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _unit_gradient(ctx, *grad_outputs), None


@once_differentiable
def _unit_gradient(ctx: Any, grad_out: Tensor) -> Tensor:
    """What is along v changes nothing, unless v is so short that it was only scaled."""
    made, length = ctx.saved_tensors
    along = (grad_out * made).sum(-1, keepdim=True) * (length > ctx.least)
    return torch.addcmul(grad_out, along, made, value=-1) / length


def adjugate_times(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """adj(A) d of A = [a b c], the first three columns of T: the products of d with b x c, c x a and a x b."""
    return _AdjugateTimes.apply(T, d)


class _AdjugateTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, T: Tensor, d: Tensor) -> Tensor:
        A = T[:, :, :3]
        cofactors = cross(A.roll(-1, dims=2), A.roll(1, dims=2), dim=1)
        ctx.save_for_backward(T, d, cofactors)
        return (d[:, :, None] * cofactors).sum(1)  # no product, whose float32 could be TF32

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        return _adjugate_gradients(ctx, *grad_outputs)


@once_differentiable
def _adjugate_gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    """A triple product is that of any cyclic order: (c x a) . d = (d x c) . a, so that a column's gradient is a cross
    product of what is at the two others."""
    T, d, cofactors = ctx.saved_tensors
    of_A = cross(cross(T[:, :, :3], d[:, :, None], dim=1), grad_out[:, None], dim=2)
    return functional.pad(of_A, (0, T.shape[2] - 3)), (cofactors * grad_out[:, None]).sum(2)
