"""Light, beyond the paper: shading by the direction that a surfel faces in the world.

In a monocular capture the subject turns and the camera stays, so that a view- and pose-conditioned colour cannot tell
a lamp from a texture. One function of the world normal, shared by all surfels, can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.appearance import spherical_harmonics
from fmgs_nerfstudio.kernels.precision import full_precision

GAMMA = 2.2
"""Images are linear light to the power of 1 / GAMMA."""
_FLOOR = 0.05
"""Least irradiance, so that no surfel goes black for good."""
_NINE = torch.tensor(
    [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, -1, 1]],
    dtype=torch.float,
)


@dataclass(frozen=True)
class LightConfig:
    """World-space shading."""

    kind: Literal["none", "sh"] = "none"
    """none: no light, as in the paper. sh: one light for the capture, found before the first step, shades all."""
    moves_normals: bool = True
    """Let the colour's loss move normals through the light on them."""
    exposures: bool = True
    """Find with the light how exposure and white balance change from picture to picture, if they do."""


class Light(nn.Module):
    """A light far away: irradiance E(n) = sum_i c_i Y_i(n) of a surfel with the normal n, degrees 0 to 2, for R, G, B.

    Nine coefficients describe the irradiance of a convex body to 1 % (Ramamoorthi and Hanrahan 2001). They are no
    parameters: gradients find, between albedo and light, the light last (`fit_light`). Y_0 is 1 here, the others are
    `spherical_harmonics`; the scale of albedo times light is free, and 1 is the mean over all directions until the fit
    says otherwise.
    """

    irradiance: Tensor

    def __init__(self, irradiance: Float[Tensor, "9 3"] | None = None) -> None:
        super().__init__()
        even = torch.zeros(9, 3)
        even[0] = 1
        self.register_buffer("irradiance", even if irradiance is None else irradiance)

    def forward(self, normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Shade of surfels with these unit normals in the world: the irradiance as images have it."""
        mean, others = self.irradiance.split([1, 8])
        irradiance = torch.addmm(mean, spherical_harmonics(normal)[:, :8], others)
        return irradiance.clamp_min(_FLOOR) ** (1 / GAMMA)

    @full_precision()
    def turned(self, up: Float[Tensor, "3"], angle: float) -> Light:
        """This light carried about the unit axis `up` by `angle` radians."""
        # Harmonics of one degree turn into each other, so that nine directions tell all.
        some = torch.nn.functional.normalize(_NINE.to(up), dim=-1)
        before = irradiance_basis(rotate_about(some, up, -angle)) @ self.irradiance
        return Light(torch.linalg.solve(irradiance_basis(some), before))

    def coloured(self, factors: tuple[float, float, float]) -> Light:
        """This light with its red, green and blue multiplied."""
        return Light(self.irradiance * self.irradiance.new_tensor(factors))


def irradiance_basis(normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 9"]:
    """1, and spherical harmonics of degree 1 and 2 of unit vectors."""
    return torch.cat([torch.ones_like(normal[:, :1]), spherical_harmonics(normal)[:, :8]], dim=-1)


def irradiance_of(direction: Float[Tensor, "K 3"]) -> Float[Tensor, "9 K"]:
    """Coefficients of lamps in these directions: of 4 max(n . d, 0), whose mean over all n is 1.

    max(n . d, 0) is 1/4 + (2 pi / 3) sum_m Y_1m(n) Y_1m(d) + (pi / 4) sum_m Y_2m(n) Y_2m(d) and less than 1 % of its
    power.
    """
    degrees = direction.new_tensor([1.0, *[8 * math.pi / 3] * 3, *[math.pi] * 5])
    return degrees[:, None] * irradiance_basis(direction).T


def rotate_about(vector: Float[Tensor, "N 3"], axis: Float[Tensor, "3"], angle: float) -> Float[Tensor, "N 3"]:
    """`vector` turned about the unit `axis` by `angle` radians (Rodrigues)."""
    cos, sin = math.cos(angle), math.sin(angle)
    across = torch.linalg.cross(axis.expand_as(vector), vector)
    return cos * vector + sin * across + (1 - cos) * (vector @ axis)[:, None] * axis
