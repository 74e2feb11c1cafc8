"""The view- and pose-conditioned appearance field (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize, pad

from fmgs_nerfstudio.fields.mlp import ConditionedMLP
from fmgs_nerfstudio.kernels.closed_forms import adjugate_times, unit
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
        return harmonics_in_few(d)
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


def harmonics_in_few(d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 15"]:
    """`spherical_harmonics` as one product in place of sixty launches, each dearer than its numbers."""
    return _HarmonicsInFew.apply(d)


class _HarmonicsInFew(torch.autograd.Function):
    """In float64: a product of float32 may be TF32."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        squares, cubes = _monomials(d.double())
        ctx.coefficients = constant(_coefficients(), torch.float64, d.device).view(-1, SH_DIM)
        ctx.save_for_backward(squares)
        return (cubes @ ctx.coefficients).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _harmonics_gradient(ctx, *grad_outputs)


@once_differentiable
def _harmonics_gradient(ctx: Any, grad_out: Float[Tensor, "N 15"]) -> Float[Tensor, "N 3"]:
    """Each of a product's three factors is as good as the others."""
    (squares,) = ctx.saved_tensors
    of_cubes = (grad_out.double() @ ctx.coefficients.T).view(-1, 4, 16)
    three = torch.baddbmm(of_cubes[..., :1], of_cubes, squares[..., None], beta=0, alpha=3)
    return three[:, 1:, 0].to(grad_out.dtype)


def _monomials(d: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 16"], Float[Tensor, "N 64"]]:
    """Products of two and of three of (1, x, y, z), some of them repeatedly."""
    h = pad(d, (1, 0), value=1.0)
    squares = (h[:, :, None] * h[:, None]).flatten(1)
    return squares, (squares[:, :, None] * h[:, None]).flatten(1)


@cache
def _coefficients() -> tuple[float, ...]:
    """[64 x 15]: the harmonics from products of three. Least squares give products of the same factors the same."""
    d = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    cubes, wanted = _monomials(d)[1], spherical_harmonics_reference(d)
    return tuple(torch.linalg.lstsq(cubes, wanted, driver="gelsd").solution.flatten().tolist())


def canonical_direction(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """d^ = T^-1 d / |T^-1 d| (4.2.2), of the first three columns of T."""
    return turned_back_on_cpu(T, d) if takes(T, d) else unit(adjugate_times(T, d))


def canonical_direction_reference(T: Float[Tensor, "N 3 C"], d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """`canonical_direction` in plain torch, by the adjugate: T's determinant only scales, and it is positive.

    The rows of the adjugate of [a b c] are b x c, c x a, a x b.
    """
    a, b, c = T[:, :, :3].unbind(-1)
    cross = torch.linalg.cross
    d_hat = torch.stack([(cross(b, c) * d).sum(-1), (cross(c, a) * d).sum(-1), (cross(a, b) * d).sum(-1)], dim=-1)
    return normalize(d_hat, dim=-1)
