"""The view- and pose-conditioned appearance field (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.fields.mlp import ConditionedMLP
from fmgs_nerfstudio.kernels.compiled import takes
from fmgs_nerfstudio.kernels.constants import constant
from fmgs_nerfstudio.kernels.directions import harmonics_on_cpu, turned_back_on_cpu
from fmgs_nerfstudio.parameters import TrainedPart


@dataclass(frozen=True)
class AppearanceFieldConfig:
    """The appearance field."""

    hidden_dim: int = 64
    """Width of the hidden layer."""
    hidden_layers: int = 1
    """Hidden layers; the paper has one, against overfitting."""


class AppearanceField(TrainedPart):
    """F_theta_c: colour features, geometry code, pose latent and canonical view direction to RGB in 0..1."""

    part = optimizer = "appearance"

    def __init__(self, config: AppearanceFieldConfig, feature_dim: int, z_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.mlp = ConditionedMLP(feature_dim + z_dim + SH_DIM, latent_dim, config.hidden_dim, config.hidden_layers, 3)

    def forward(
        self,
        f_c: Float[Tensor, "N D"],
        z_g: Float[Tensor, "N Z"],
        Z_p: Float[Tensor, "L"],
        d_hat: Float[Tensor, "N 3"],
    ) -> Float[Tensor, "N 3"]:
        return self.mlp(torch.cat([f_c, z_g, spherical_harmonics(d_hat)], dim=-1), Z_p).sigmoid()


SH_DIM = 15


def spherical_harmonics(d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 15"]:
    """gamma(d) of Eq. 7: real, orthonormal spherical harmonics of degree 1 to 3 of unit vectors, as in [30].

    The values of nerfstudio's `components_from_spherical_harmonics`, which fills its result column by column: forward
    and backward of 13,776 directions took it 1.8 ms on one CPU core, the plain form here 1.0, the kernels 0.2.
    """
    if d.is_cuda:
        found = _cubics(d.double()) @ constant(_coefficients(), torch.float64, d.device).view(-1, SH_DIM)
        return found.to(d.dtype)  # float64: a product of float32 may be TF32
    return harmonics_on_cpu(d) if takes(d) else spherical_harmonics_reference(d)


def spherical_harmonics_reference(d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 15"]:
    """`spherical_harmonics` in plain torch, for any device and dtype."""
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            0.4886025119 * y, 0.4886025119 * z, 0.4886025119 * x,
            1.0925484306 * x * y, 1.0925484306 * y * z, 0.3153915653 * (3 * zz - 1),
            1.0925484306 * x * z, 0.5462742153 * (xx - yy),
            0.5900435899 * y * (3 * xx - yy), 2.8906114426 * x * y * z, 0.4570457995 * y * (5 * zz - 1),
            0.3731763326 * z * (5 * zz - 3), 0.4570457995 * x * (5 * zz - 1), 1.4453057213 * z * (xx - yy),
            0.5900435899 * x * (xx - 3 * yy),
        ],
        dim=-1,
    )  # fmt: skip


def _cubics(d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 64"]:
    """Products of three of (1, x, y, z), some of them repeatedly."""
    h = torch.cat([torch.ones_like(d[:, :1]), d], dim=1)
    return (h[:, :, None] * h[:, None]).flatten(1)[:, :, None].mul(h[:, None]).flatten(1)


@cache
def _coefficients() -> tuple[float, ...]:
    """[64 x 15]: the harmonics from `_cubics`. On a card one product in place of sixty launches, each dearer than its
    numbers."""
    d = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    return tuple(
        torch.linalg.lstsq(_cubics(d), spherical_harmonics_reference(d), driver="gelsd").solution.flatten().tolist()
    )


def canonical_direction(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """d^ = T^-1 d / |T^-1 d| (4.2.2), of the first three columns of T."""
    return turned_back_on_cpu(T, d) if takes(T, d) else canonical_direction_reference(T, d)


def canonical_direction_reference(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """`canonical_direction` in plain torch, by the adjugate: T's determinant only scales, and it is positive.

    The rows of the adjugate of [a b c] are b x c, c x a, a x b.
    """
    a, b, c = T[:, :, :3].unbind(-1)
    cross = torch.linalg.cross
    d_hat = torch.stack([(cross(b, c) * d).sum(-1), (cross(c, a) * d).sum(-1), (cross(a, b) * d).sum(-1)], dim=-1)
    return torch.nn.functional.normalize(d_hat, dim=-1)
