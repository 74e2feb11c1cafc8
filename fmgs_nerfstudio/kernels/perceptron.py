# pyright: standard
"""ReLU perceptrons on the CPU: blocks of rows that stay in the cache from the first layer to the last, dealt to the
cores; bias and ReLU beside the product; and no work on rows that have no gradient.

`perceptron_reference` is the plain torch form, for any device. torch's own products run at half the speed on AMD's
processors, meet all threads after each layer, and ask for new memory at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.kernels.perceptron_kernels import BLOCK, backward, forward
from fmgs_nerfstudio.kernels.tiles import ROWS, WIDTH

Layer: TypeAlias = tuple[Float[Tensor, "O I"], Float[Tensor, "O"]]
"""Weight and bias."""
_SHARES = 16
"""Parts of the rows that are dealt to the cores, at most. Each sums its gradients in the order of its rows, and the
parts are summed in theirs: any number of threads gives the same bits."""
_LEAST_SHARE = 512
"""Rows that are worth a share: it has sums of its own."""


def perceptron(x: Float[Tensor, "N I"], layers: Sequence[Layer]) -> Float[Tensor, "N O"]:
    """Linear layers with ReLU between them."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        tensors = [x, *(tensor for layer in layers for tensor in layer)]
        if not torch.is_grad_enabled():  # else the function takes it that inputs are to be kept for parameters
            tensors = [tensor.detach() for tensor in tensors]
        return _PerceptronOnCpu.apply(*tensors)
    return perceptron_reference(x, layers)


def perceptron_reference(x: Float[Tensor, "N I"], layers: Sequence[Layer]) -> Float[Tensor, "N O"]:
    """`perceptron` in plain torch, for any device and dtype."""
    for weight, bias in layers[:-1]:
        x = functional.linear(x, weight, bias).relu()
    return functional.linear(x, *layers[-1])


class _PerceptronOnCpu(torch.autograd.Function):
    """`perceptron_reference` as two kernels; of each layer its input is kept where there will be a backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        widths = np.array([x.shape[1], *(weight.shape[0] for weight in parameters[::2])])
        keep, shares = any(ctx.needs_input_grad), _shares(len(x))
        rows = -(-len(x) // ROWS) * ROWS if keep else shares * BLOCK
        inputs = np.empty((rows, _padded(widths[:-1]).sum()), np.float32)
        starts = _starts(widths[:-1] * _padded(widths[1:]))
        flat = torch.cat([tensor.detach().flatten() for tensor in parameters])
        y = x.new_empty(len(x), widths[-1])
        forward(x.detach().contiguous().numpy(), widths, flat.numpy(), starts, inputs, keep, y.numpy(), shares)
        ctx.widths, ctx.inputs, ctx.flat, ctx.shapes = widths, inputs, flat, [tensor.shape for tensor in parameters]
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad_outputs[0])


@once_differentiable
def _gradients(ctx: Any, grad: Float[Tensor, "N O"]) -> tuple[Tensor | None, ...]:
    needs_x, *needs = ctx.needs_input_grad
    grad, shares = grad.contiguous(), _shares(len(grad))
    of_x = grad.new_empty(len(grad) if needs_x else 0, ctx.widths[0])
    of_parameters = torch.zeros_like(ctx.flat)
    i, o = ctx.widths[:-1], ctx.widths[1:]
    starts = _starts(o * _padded(i))
    sums_at = _starts((_padded(o, ROWS) * _padded(i) + _padded(o)) * any(needs))
    backward(
        *(grad.numpy(), ctx.widths, ctx.flat.numpy(), starts, sums_at, ctx.inputs, needs_x, any(needs)),
        *(of_x.numpy(), of_parameters.numpy(), shares),
    )
    parts = of_parameters.split([shape.numel() for shape in ctx.shapes])
    return of_x if needs_x else None, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


def _shares(count: int) -> int:
    return max(1, min(_SHARES, count // _LEAST_SHARE))


def _padded(widths: Int[Array, "L"], to: int = WIDTH) -> Int[Array, "L"]:
    return -(-widths // to) * to


def _starts(sizes: Int[Array, "L"]) -> Int[Array, "L+1"]:
    return np.concatenate([[0], sizes.cumsum()])
