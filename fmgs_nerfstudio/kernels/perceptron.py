"""ReLU perceptrons on the CPU: blocks of rows that stay in the cache from the first layer to the last, dealt to the
cores; bias and ReLU inside the product; and no work on rows that have no gradient.

`perceptron_reference` is the plain torch form, for any device. The products are oneDNN's, which torch has and uses for
float32 nowhere else: the library that it takes there knows AVX-512 on Intel's processors alone, and is half as fast on
AMD's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmgs_nerfstudio.kernels.threads import in_threads

Layer: TypeAlias = tuple[Float[Tensor, "O I"], Float[Tensor, "O"]]
"""Weight and bias."""
BLOCK = 2048
"""Rows of a block, at most. Sums run over blocks in their order: any number of threads gives the same bits."""
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def perceptron(x: Float[Tensor, "N I"], layers: Sequence[Layer]) -> Float[Tensor, "N O"]:
    """Linear layers with ReLU between them."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        return _PerceptronOnCpu.apply(x, *(tensor for layer in layers for tensor in layer))
    return perceptron_reference(x, layers)


def perceptron_reference(x: Float[Tensor, "N I"], layers: Sequence[Layer]) -> Float[Tensor, "N O"]:
    """`perceptron` in plain torch, for any device and dtype."""
    for weight, bias in layers[:-1]:
        x = functional.linear(x, weight, bias).relu()
    return functional.linear(x, *layers[-1])


class _PerceptronOnCpu(torch.autograd.Function):
    """`perceptron_reference` block by block; of each layer its input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))

        def run(block: Tensor) -> list[Tensor]:
            values = [block]
            for weight, bias in layers:
                values.append(_linear(values[-1], weight, bias, relu=len(values) < len(layers)))
            return values

        # Two blocks at least as soon as two cores have something of them.
        count = len(x)
        blocks = in_threads(run, x.split(min(BLOCK, max(count // 2, BLOCK // 2))))
        ctx.inputs = [values[:-1] for values in blocks]
        ctx.save_for_backward(*parameters[::2])
        return torch.cat([values[-1] for values in blocks])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad_outputs[0])


@once_differentiable
def _gradients(ctx: Any, grad: Float[Tensor, "N O"]) -> tuple[Tensor | None, ...]:
    weights, needs_x = ctx.saved_tensors, ctx.needs_input_grad[0]
    sizes = [len(inputs[0]) for inputs in ctx.inputs]
    blocks = list(zip(grad.split(sizes), ctx.inputs, strict=True))
    pulled = in_threads(lambda block: _pull_back(block[0], block[1], weights, needs_x), blocks)
    of_x = torch.cat([of_x for of_x, _ in pulled]) if needs_x else None
    of_parameters = [torch.stack(parts).sum(0) for parts in zip(*(parts for _, parts in pulled), strict=True)]
    return of_x, *of_parameters


def _pull_back(
    grad: Float[Tensor, "N O"], inputs: Sequence[Tensor], weights: Sequence[Tensor], needs_x: bool
) -> tuple[Float[Tensor, "N I"], list[Tensor]]:
    """Gradients of one block: its input's, if it is needed, and those of weights and biases in turn."""
    count, rows = len(grad), grad.any(dim=1).nonzero()[:, 0]
    if some := len(rows) < 0.8 * count:  # else picking them costs more than it saves
        grad, inputs = grad[rows], [x[rows] for x in inputs]
    of_parameters: list[Tensor] = []
    for i in reversed(range(len(weights))):
        of_parameters += [grad.sum(0), _product(grad.t(), inputs[i])]
        if i > 0:
            grad = torch.ops.aten.threshold_backward(_product(grad, weights[i]), inputs[i], 0)
        elif needs_x:
            grad = _product(grad, weights[0])
    if some and needs_x:
        grad = grad.new_zeros(count, grad.shape[1]).index_copy_(0, rows, grad)
    return grad, of_parameters[::-1]


def _linear(x: Float[Tensor, "N I"], weight: Tensor, bias: Tensor, relu: bool) -> Float[Tensor, "N O"]:
    if _HAS_ONEDNN and len(x) > 0:  # it knows no product of nothing
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    y = functional.linear(x, weight, bias)
    return y.relu_() if relu else y


def _product(a: Float[Tensor, "N K"], b: Float[Tensor, "K M"]) -> Float[Tensor, "N M"]:
    if _HAS_ONEDNN and len(b) > 0 and len(a) > 0:
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return a @ b
