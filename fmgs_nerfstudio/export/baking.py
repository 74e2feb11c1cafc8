"""The appearance field (Eq. 7) as numbers on surfels, for programs that cannot run it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.fields.appearance import SH_DIM, spherical_harmonics
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.routes import OPEN

DIRECTIONS = 64
_FAR = 1e4  # metres; from there all surfels are seen in one direction
_BEHIND = 0.02  # weight of directions that look at a surfel's back
ODD_ORDERS = (-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1)
"""-1 at spherical harmonics of odd order, from degree 1 on. The 3DGS format's basis has these signs, ours has none
(the Condon-Shortley phase)."""
SH_C0 = 0.28209479177387814


class Seen(NamedTuple):
    """Colours of surfels from K directions around them."""

    directions: Float[Tensor, "K 3"]
    """From the camera, world."""
    rgb: Float[Tensor, "K N 3"]
    weights: Float[Tensor, "K N"]
    """How squarely each direction looks at a surfel's front."""


@torch.inference_mode()
def look_around(model: FMGSModel, avatar: Avatar) -> Seen:
    """Colours of the posed avatar's surfels from directions spread evenly over the sphere (Fibonacci's spiral)."""
    posed = avatar.posed.by(OPEN)
    normal = normalize(torch.linalg.cross(posed.tangents[..., 0], posed.tangents[..., 1]), dim=-1, eps=1e-18)
    i = torch.arange(DIRECTIONS, device=normal.device) + 0.5
    z, angle = 1 - 2 * i / DIRECTIONS, i * torch.pi * (3 - 5**0.5)
    directions = torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], dim=-1)
    rgb = torch.stack([model.shade(avatar, -_FAR * direction) for direction in directions])
    return Seen(directions, rgb, (-directions @ normal.T).clamp_min(0) + _BEHIND)


def mean_colours(seen: Seen) -> Float[Tensor, "N 3"]:
    """The colour from in front, whatever the view."""
    weights = seen.weights / seen.weights.sum(0)
    return (weights[..., None] * seen.rgb).sum(0)


def spherical_harmonics_of(seen: Seen, count: int = 1 + SH_DIM) -> Float[Tensor, "N K 3"]:
    """Weighted least squares by the first K spherical harmonics in the 3DGS format's basis, for colour - 0.5."""
    basis = format_basis(seen.directions)[:, :count]
    squares = (basis[:, :, None] * basis[:, None, :]).flatten(1)
    A = (seen.weights.T @ squares).view(-1, count, count)
    b = torch.einsum("kn,kb,knc->nbc", seen.weights, basis, seen.rgb - 0.5)
    return torch.linalg.solve(A, b)


def format_basis(directions: Float[Tensor, "K 3"]) -> Float[Tensor, "K 16"]:
    """The 3DGS format's spherical harmonics of degree 0 to 3, at unit vectors from the camera."""
    constant = directions.new_full((len(directions), 1), SH_C0)
    return torch.cat([constant, spherical_harmonics(directions) * directions.new_tensor(ODD_ORDERS)], dim=1)
