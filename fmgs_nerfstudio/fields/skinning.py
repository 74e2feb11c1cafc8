"""The skinning field (Eq. 9) and forward linear blend skinning (Eq. 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.fields.hash_grid import HashEncoding, HashGridConfig
from fmgs_nerfstudio.fields.mlp import ConditionedMLP
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.kernels.threads import one_thread
from fmgs_nerfstudio.parameters import TrainedPart

_TINY = 1e-30
"""Least weight whose logarithm is taken."""


@dataclass(frozen=True)
class SkinningFieldConfig:
    """The skinning field."""

    hidden_dim: int = 64
    """Width of the hidden layers (the paper: 128)."""
    hidden_layers: int = 3
    """Hidden layers (the paper: 4)."""
    point_input: bool = True
    """Give the MLP the point itself beside its hash encoding H(mu'). The paper gives it H(mu') alone (Eq. 9)."""
    encoding: HashGridConfig = field(
        default_factory=lambda: HashGridConfig(levels=8, log2_hashmap_size=15, base_resolution=8, max_resolution=128)
    )
    """Hash encoding H of the moving points; coarse, because skinning weights vary slowly."""


class SkinningField(TrainedPart):
    """W = softmax(F_theta_w(H(mu'))): weights of the 24 joints for any point of canonical space, metres."""

    part = optimizer = "skinning"
    low: Tensor
    extent: Tensor

    def __init__(self, config: SkinningFieldConfig, aabb: Float[Tensor, "2 3"], n_joints: int) -> None:
        super().__init__()
        self.encoding = HashEncoding(config.encoding)
        self.point_input = config.point_input  # the point itself carries what is smooth
        channels = config.encoding.channels + 3 * config.point_input
        self.mlp = ConditionedMLP(channels, 0, config.hidden_dim, config.hidden_layers, n_joints)
        self.register_buffer("low", aabb[0].clone())
        self.register_buffer("extent", aabb[1] - aabb[0])

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 24"]:
        x = ((points - self.low) / self.extent).clamp(0, 1)
        encoded = self.encoding(x)
        features = torch.cat([encoded, 2 * x - 1], dim=-1) if self.point_input else encoded
        return self.mlp(features).softmax(dim=-1)


def blend(weights: Float[Tensor, "N 24"], bones: Float[Tensor, "24 4 4"]) -> Float[Tensor, "N 3 4"]:
    """T = sum_b w_b B_b (Eq. 10), its last row left out."""
    return (weights @ bones[:, :3].flatten(1)).view(-1, 3, 4)


class SurfaceWeights:
    """SMPL's weights on the template's surface: where the skinning field starts and what L_skin of [30] holds it to."""

    def __init__(
        self, vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], weights: Float[Tensor, "V 24"]
    ) -> None:
        self.corners, self.weights = vertices[faces], weights[faces]
        edges = self.corners[:, 1:] - self.corners[:, :1]
        area = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=-1)
        self.cumulative = (area / area.sum()).cumsum(0)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 24"]]:
        """Points spread evenly over the surface, with weights interpolated in their faces."""
        u = torch.rand(count, 3, generator=generator)
        face = torch.searchsorted(self.cumulative, u[:, 0].contiguous()).clamp_max(len(self.corners) - 1)
        root = u[:, 1:2].sqrt()
        barycentric = torch.cat([1 - root, root * (1 - u[:, 2:]), root * u[:, 2:]], dim=1)[..., None]
        return (self.corners[face] * barycentric).sum(1), (self.weights[face] * barycentric).sum(1)


@full_precision()
@one_thread()
def fit_to_surface(skinning: SkinningField, surface: SurfaceWeights, steps: int, generator: torch.Generator) -> float:
    """Initialise the field to SMPL's weights, so that training starts from a body that moves as SMPL does.

    By cross entropy: squares (L_skin) hardly move a joint that the field takes for 0 where it has half of the weight,
    and some collar bone stayed so in two fits of three. Rates rise over the first third and fall to zero.

    Returns:
        The root mean squared error of a weight over the last batch.
    """
    optimizer = torch.optim.Adam(
        [
            {"params": skinning.encoding.parameters(), "lr": 2e-2},
            {"params": skinning.mlp.parameters(), "lr": 8e-3},
        ],
        betas=(0.9, 0.99),
        eps=1e-15,
        fused=True,
    )

    def rate(step: int) -> float:
        rising, falling = (step + 1) / (0.3 * steps), (step / steps - 0.3) / 0.7
        return min(rising, 1) * (1 + math.cos(math.pi * max(falling, 0))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    device = skinning.low.device
    weights = target = torch.zeros(1)
    for _ in range(steps):
        points, target = (value.to(device) for value in surface.sample(1024, generator))
        weights = skinning(points)
        loss = -(target * weights.clamp_min(_TINY).log()).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return (weights - target).square().mean().sqrt().item()
