"""The coordinated training strategy (4.5) as a table: which parameters a rendered modality may move, and the one
place that applies it, where surfels cross the renderer's border.

Each row, for the losses on that modality:
  position     mu_o through delta_d, the skinning weights and the pose
  orientation  R_o through delta_r; through T (skinning weights, pose) only where position is open too, because T
               carries both
  shape        scales
  opacity      opacities; the paper's words block neither, `Strategy` can close this one to the priors
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.kernels.carrying import Carried, carry
from fmgs_nerfstudio.surfels import Surfels


@dataclass(frozen=True)
class Route:
    """What the gradient of one modality may reach."""

    position: bool
    orientation: bool
    shape: bool
    opacity: bool


ROUTES = {
    "colour": Route(position=True, orientation=True, shape=True, opacity=True),
    "depth": Route(position=True, orientation=False, shape=True, opacity=True),
    "normal": Route(position=False, orientation=True, shape=True, opacity=True),
    "semantics": Route(position=False, orientation=False, shape=False, opacity=False),
}


OPEN = Route(position=True, orientation=True, shape=True, opacity=True)
"""A loss that moves everything; for all of them in training without coordination."""


@dataclass(frozen=True)
class Strategy:
    """How a run applies the table."""

    coordinated: bool = True
    priors_move_opacity: bool = True

    def admits(self, route: Route) -> Route:
        """What the gradient of a modality with this route may reach."""
        if not self.coordinated:
            return OPEN
        closed = route != OPEN and not self.priors_move_opacity
        return replace(route, opacity=False) if closed else route


class PosedSurfels(NamedTuple):
    """Surfels in the observed world, metres: `tangents` has the columns s_u t_u, s_v t_v, of 3D Gaussians s_w t_w."""

    means: Float[Tensor, "N 3"]
    tangents: Float[Tensor, "N 3 S"]
    opacities: Float[Tensor, "N"]


class Posing:
    """Surfels posed once for all that look at them: `pose_surfels` by any route, without computing a product twice."""

    def __init__(
        self,
        surfels: Surfels,
        opacities: Float[Tensor, "N"],
        T: Float[Tensor, "N 3 4"],
        carried: Carried | None = None,
    ) -> None:
        """`carried`: what the surfels and T give, where it is known."""
        self.surfels, self.opacities, self.T = surfels, opacities, T
        self._made: dict[Route, PosedSurfels] = {}
        if carried is not None:
            self.carried = carried

    def by(self, route: Route) -> PosedSurfels:
        """The posed surfels with the gradient that `route` admits."""
        if route not in self._made:
            self._made[route] = self._pose(route)
        return self._made[route]

    def _pose(self, route: Route) -> PosedSurfels:
        means, tangents, tangents_of_frames, tangents_of_scales = self.carried
        if not route.position:
            means, tangents = means.detach(), tangents_of_frames
        if not route.orientation:
            tangents = tangents_of_scales
        if not route.shape:
            tangents = self._of_still_scales(route) if route.orientation else tangents.detach()
        return PosedSurfels(means, tangents, self.opacities if route.opacity else self.opacities.detach())

    @cached_property
    def carried(self) -> Carried:
        return carry(*self.surfels, self.T)

    def _of_still_scales(self, route: Route) -> Float[Tensor, "N 3 S"]:
        carried = carry(self.surfels.means, self.surfels.frames, self.surfels.scales.detach(), self.T)
        return carried.tangents if route.position else carried.tangents_of_frames


def pose_surfels(
    surfels: Surfels, opacities: Float[Tensor, "N"], T: Float[Tensor, "N 3 4"], route: Route
) -> PosedSurfels:
    """mu_o = T mu' (Eq. 11) and the scaled tangents of R_o = T R' (Eq. 12), with the gradient that `route` admits.

    A blend of rotations is no rotation; the ray transform takes any two tangents, so they are not made orthogonal.
    The plain form of `Posing`.
    """
    linear = T[:, :, :3]
    means = torch.bmm(linear, surfels.means[..., None])[..., 0] + T[:, :, 3]
    if not route.position:
        means, linear = means.detach(), linear.detach()
    tangents = torch.bmm(linear, surfels.axes)
    if not route.orientation:
        tangents = tangents.detach()
    scales = surfels.scales if route.shape else surfels.scales.detach()
    return PosedSurfels(means, tangents * scales[:, None], opacities if route.opacity else opacities.detach())
