"""Light, beyond the paper: shading by the direction that a surfel faces in the world.

In a monocular capture the subject turns and the camera stays, so that a view- and pose-conditioned colour cannot tell
a lamp from a texture. One function of the world normal, shared by all surfels, can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.fields.appearance import spherical_harmonics
from fmgs_nerfstudio.parameters import TrainedPart

Irradiance = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N 1"]]
"""What a surfel with this unit normal (world) receives, relative to its albedo."""


@dataclass(frozen=True)
class LightConfig:
    """World-space shading."""

    kind: Literal["none", "sh"] = "none"
    """none: no light, as in the paper. sh: colours are shaded by spherical harmonics of the posed normal."""


class Light(TrainedPart):
    """Irradiance of a surfel from its normal n: 1 + sum_i c_i Y_i(n), degrees 1 and 2; degree 0 is 1.

    The scale of albedo times light is free, and so degree 0 is fixed; with the eight others that makes the nine
    coefficients that describe the irradiance of a convex body (Ramamoorthi and Hanrahan 2001). One light for R, G, B.
    """

    part = optimizer = "light"

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(8))

    def forward(self, normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """`normal`: unit vectors in the world. Never below 0.05, so that no surfel goes black for good."""
        return (1 + spherical_harmonics(normal)[:, :8] @ self.coefficients)[:, None].clamp_min(0.05)

    def turned(self, up: Float[Tensor, "3"], angle: float) -> Irradiance:
        """This light carried about the unit axis `up` by `angle` radians."""
        return lambda normal: self(rotate_about(normal, up, -angle))


def rotate_about(vector: Float[Tensor, "N 3"], axis: Float[Tensor, "3"], angle: float) -> Float[Tensor, "N 3"]:
    """`vector` turned about the unit `axis` by `angle` radians (Rodrigues)."""
    cos, sin = math.cos(angle), math.sin(angle)
    across = torch.linalg.cross(axis.expand_as(vector), vector)
    return cos * vector + sin * across + (1 - cos) * (vector @ axis)[:, None] * axis
