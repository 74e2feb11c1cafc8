"""The small perceptron that every field is made of."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.kernels.perceptron import Layer, perceptron


class ConditionedMLP(nn.Module):
    """ReLU layers on per-point features and, at the first layer, on a condition that all points share.

    The condition passes through a linear map of its own and is added: the same as repeating it for every point and
    concatenating, without the copies.
    """

    def __init__(self, in_dim: int, condition_dim: int, hidden_dim: int, hidden_layers: int, out_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_dim, hidden_dim)
        self.condition = nn.Linear(condition_dim, hidden_dim, bias=False) if condition_dim else None
        widths = [hidden_dim] * hidden_layers
        self.hidden = nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())))
        self.out = nn.Linear(hidden_dim, out_dim)

    def layers(self, condition: Float[Tensor, "C"] | None = None) -> list[Layer]:
        """All layers under this condition, as `perceptron` takes them."""
        bias = self.first.bias
        if self.condition is not None and condition is not None:
            bias = torch.addmv(bias, self.condition.weight, condition)
        hidden = [(layer.weight, layer.bias) for layer in self.hidden if isinstance(layer, nn.Linear)]
        return [(self.first.weight, bias), *hidden, (self.out.weight, self.out.bias)]

    def forward(self, x: Float[Tensor, "N I"], condition: Float[Tensor, "C"] | None = None) -> Float[Tensor, "N O"]:
        return perceptron(x, self.layers(condition))
