"""The semantics field (Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.mlp import ConditionedMLP


@dataclass(frozen=True)
class SemanticsFieldConfig:
    """The semantics field."""

    hidden_dim: int = 64
    """Width of the decoder."""
    hidden_layers: int = 1
    """Hidden layers of the decoder."""


class SemanticsField(nn.Module):
    """F_theta_s: semantic features to logits of C classes."""

    def __init__(self, config: SemanticsFieldConfig, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.mlp = ConditionedMLP(feature_dim, 0, config.hidden_dim, config.hidden_layers, num_classes)

    def forward(self, f_s: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        return self.mlp(f_s)
