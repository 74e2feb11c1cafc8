# pyright: standard
"""What is done per surfel on a card: gradients in closed form, where autograd would chain dozens of launches, each
dearer than its numbers.

Plain torch, for any device and dtype. The definitions stay where they are used: `rotation_exp` in `surfels`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import cross

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
