"""The pose-dependent geometry residual field (Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.mlp import ConditionedMLP
from fmgs_nerfstudio.kernels.perceptron import perceptron
from fmgs_nerfstudio.parameters import Parameters, TrainedPart


@dataclass(frozen=True)
class GeometryFieldConfig:
    """The geometry residual field."""

    hidden_dim: int = 64
    """Width of the trunk."""
    hidden_layers: int = 2
    """Hidden layers of the trunk."""
    z_dim: int = 16
    """Size of the geometry code z_g that the appearance field reads."""
    displacement_unit: float = 0.01
    """Displacement in metres for one unit of the network's output: the larger, the sooner outlines fit."""


class GeometryResidual(NamedTuple):
    """Left side of Eq. 3."""

    delta_d: Float[Tensor, "N D"]
    """Displacement in metres: along the normal (D = 1); of surfels without a mesh, along the canonical axes (D = 3)."""
    delta_s: Float[Tensor, "N S"]
    """Added to the logarithm of the scales."""
    delta_r: Float[Tensor, "N 3"]
    """Rotation vector, radians."""
    z_g: Float[Tensor, "N Z"]


class GeometryField(TrainedPart):
    """F_theta_g: one trunk, one head per quantity. The first three heads start at zero: the template itself.

    Surfels that no mesh guides (`guided` off) may move anywhere, as those of 3DGS-Avatar's non-rigid part [30].
    """

    def __init__(
        self, config: GeometryFieldConfig, feature_dim: int, latent_dim: int, guided: bool = True, scales: int = 2
    ) -> None:
        """`scales`: of a surfel."""
        super().__init__()
        self.displacement_unit = config.displacement_unit
        self.trunk = ConditionedMLP(feature_dim, latent_dim, config.hidden_dim, config.hidden_layers, config.hidden_dim)
        self.displacement = nn.Linear(config.hidden_dim, 1 if guided else 3)
        self.scale = nn.Linear(config.hidden_dim, scales)
        self.rotation = nn.Linear(config.hidden_dim, 3)
        self.z = nn.Linear(config.hidden_dim, config.z_dim)
        for head in (self.displacement, self.scale, self.rotation):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def trained(self) -> list[Parameters]:
        heads = {"displacement": self.displacement, "rotation": self.rotation, "scale head": self.scale, "z_g": self.z}
        parts = {"trunk": self.trunk, **heads}
        return [Parameters.of(part, "geometry", module) for part, module in parts.items()]

    def forward(self, f_g: Float[Tensor, "N D"], Z_p: Float[Tensor, "L"]) -> GeometryResidual:
        heads = (self.displacement, self.scale, self.rotation, self.z)
        last = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        outputs = perceptron(f_g, [*self.trunk.layers(Z_p), last])
        d, s, r, z_g = outputs.split([head.out_features for head in heads], dim=1)
        return GeometryResidual(d * self.displacement_unit, s, r, z_g)
