"""Products of many small matrices: torch would call a GEMM for each, or broadcast over an inner length of three."""

from __future__ import annotations

from typing import Any

import numba
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fmgs_nerfstudio.compiled import kernel


def matmul(a: Float[Tensor, "N i j"], b: Float[Tensor, "N j k"]) -> Float[Tensor, "N i k"]:
    """N products of small matrices, as `torch.matmul`; on a CPU in one kernel."""
    if a.device.type == "cpu" and a.dtype == torch.float32:
        return _MatmulOnCpu.apply(a, b)
    return torch.matmul(a, b)


def matvec(a: Float[Tensor, "N i j"], x: Float[Tensor, "N j"]) -> Float[Tensor, "N i"]:
    """N products of a small matrix and a vector."""
    return matmul(a, x[..., None])[..., 0]


class _MatmulOnCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _product(a.detach(), b.detach())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    grad_a = _product(grad, b.transpose(1, 2)) if ctx.needs_input_grad[0] else None
    grad_b = _product(a.transpose(1, 2), grad) if ctx.needs_input_grad[1] else None
    return grad_a, grad_b


def _product(a: Float[Tensor, "N i j"], b: Float[Tensor, "N j k"]) -> Float[Tensor, "N i k"]:
    out = torch.empty(len(a), a.shape[1], b.shape[2])
    _products(a.contiguous().numpy(), b.contiguous().numpy(), out.numpy())
    return out


@kernel
def _products(a, b, out):
    for n in numba.prange(len(a)):
        for i in range(a.shape[1]):
            for k in range(b.shape[2]):
                total = a[n, i, 0] * b[n, 0, k]
                for j in range(1, a.shape[2]):
                    total += a[n, i, j] * b[n, j, k]
                out[n, i, k] = total
