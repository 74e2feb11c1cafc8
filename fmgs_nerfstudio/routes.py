"""The coordinated training strategy (4.5) as a table: which parameters a rendered modality may move, and the one
function that applies it, where surfels cross the renderer's border.

Each row, for the losses on that modality:
  position     mu_o through delta_d, the skinning weights and the pose
  orientation  R_o through delta_r; through T (skinning weights, pose) only where position is open too, because T
               carries both
  shape        scales and opacities
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.surfels import Surfels


@dataclass(frozen=True)
class Route:
    """What the gradient of one modality may reach."""

    position: bool
    orientation: bool
    shape: bool


ROUTES = {
    "colour": Route(position=True, orientation=True, shape=True),
    "depth": Route(position=True, orientation=False, shape=True),
    "normal": Route(position=False, orientation=True, shape=True),
    "semantics": Route(position=False, orientation=False, shape=False),
}


OPEN = Route(position=True, orientation=True, shape=True)
"""A loss that moves everything; for all of them in training without coordination."""


class PosedSurfels(NamedTuple):
    """Surfels in the observed world, metres: `tangents` has the columns s_u t_u, s_v t_v, of 3D Gaussians s_w t_w."""

    means: Float[Tensor, "N 3"]
    tangents: Float[Tensor, "N 3 S"]
    opacities: Float[Tensor, "N"]


def pose_surfels(
    surfels: Surfels, opacities: Float[Tensor, "N"], T: Float[Tensor, "N 3 4"], route: Route
) -> PosedSurfels:
    """mu_o = T mu' (Eq. 11) and the scaled tangents of R_o = T R' (Eq. 12), with the gradient that `route` admits.

    A blend of rotations is no rotation; the ray transform takes any two tangents, so they are not made orthogonal.
    """
    linear = T[:, :, :3]
    means = torch.bmm(linear, surfels.means[..., None])[..., 0] + T[:, :, 3]
    if not route.position:
        means, linear = means.detach(), linear.detach()
    tangents = torch.bmm(linear, surfels.axes)
    if not route.orientation:
        tangents = tangents.detach()
    scales = surfels.scales if route.shape else surfels.scales.detach()
    return PosedSurfels(means, tangents * scales[:, None], opacities if route.shape else opacities.detach())
