"""The semantics field (Eq. 8)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.mlp import ConditionedMLP


class SemanticsField(nn.Module):
    """F_theta_s: semantic features to logits of C classes, by one hidden layer of 64."""

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.mlp = ConditionedMLP(feature_dim, 0, 64, 1, num_classes)

    def forward(self, f_s: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        return self.mlp(f_s)
