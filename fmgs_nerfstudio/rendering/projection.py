"""From surfels in the world to ray transforms and bounds in the image.

The definition, and the start of `reference`; `cpu_geometry` does the same in kernels, `cuda_geometry` in few
operations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fmgs_nerfstudio.rendering.layers import Camera

ALPHA_MIN = 1 / 255
"""Less than this at a pixel is not composited."""
ALPHA_MAX = 0.999
T_MIN = 1e-4
"""A surfel that would leave no more transmittance than this is not composited, nor is anything behind it."""
NEAR = 0.01
"""Nearest depth of a surfel's centre, metres."""
ELLIPSE = 0.99
"""A circle's image counts as an ellipse if (its reach in depth / its centre's depth)^2 is less than this."""
ROUNDING = 0.01
"""Added to all sides of a box for float32, pixels."""


class Projection(NamedTuple):
    ray_transforms: Float[Tensor, "N 3 3"]
    """M = K [s_u t_u, s_v t_v, p] in the camera: M (u, v, 1) is the homogeneous pixel of a surfel's point (u, v)."""
    means2d: Float[Tensor, "N 2"]
    """Centre of the box around the image of the 1-sigma ellipse, pixels; the low-pass disc stands here."""
    depths: Float[Tensor, "N"]
    """z of the surfel's centre in the camera, metres: the order of compositing."""
    valid: Bool[Tensor, "N"]
    """The centre is beyond the near plane and the 1-sigma ellipse in front of the camera."""


def ray_transforms(
    means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 2"], camera: Camera
) -> Float[Tensor, "N 3 3"]:
    """M = K [s_u t_u, s_v t_v, p] with all three in the camera (2DGS Eq. 4); differentiable.

    A view of M transposed, so that all N products are one matrix product. gsplat's kernels want M itself, contiguous;
    gsplat 1.4's torch function returns the transpose.
    """
    columns = torch.cat([tangents.mT, means[:, None]], dim=1)
    to_pixels = camera.K @ camera.viewmat[:3, :3]
    offset = torch.zeros_like(camera.K)
    offset[2] = camera.K @ camera.viewmat[:3, 3]
    return ((columns.reshape(-1, 3) @ to_pixels.T).view(-1, 3, 3) + offset).mT


def _box(
    M: Float[Tensor, "N 3 3"], radius2: Float[Tensor, "N"]
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"], Bool[Tensor, "N"]]:
    """Centre and squared half size of the box around the image of u^2 + v^2 = radius2, and whether it is an ellipse.

    From the dual conic M diag(radius2, radius2, -1) M^T. If it is none, it reaches the camera's plane and has no box.
    """
    signs = torch.stack([radius2, radius2, -torch.ones_like(radius2)], dim=1)
    w = M[:, 2]
    reach = radius2 * (w[:, 0] ** 2 + w[:, 1] ** 2)
    is_ellipse = reach < ELLIPSE * w[:, 2] ** 2
    scale = torch.where(is_ellipse, reach - w[:, 2] ** 2, -1.0)
    weights = signs * w / scale[:, None]
    centre = (M[:, :2] * weights[:, None]).sum(-1)
    half2 = centre**2 - (M[:, :2] ** 2 * (signs / scale[:, None])[:, None]).sum(-1)
    return centre, half2, is_ellipse


def project(means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 2"], camera: Camera) -> Projection:
    """Project surfels; all but `valid` is differentiable, and gradients are finite for surfels that are not valid."""
    M = ray_transforms(means, tangents, camera)
    depths = M[:, 2, 2]
    means2d, _, is_ellipse = _box(M, torch.ones_like(depths))
    return Projection(M, means2d, depths, is_ellipse & (depths > NEAR))


@torch.no_grad()
def bounds(
    projection: Projection, opacities: Float[Tensor, "N"], camera: Camera
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Lower and upper corner (x, y) in pixels of a box outside which a surfel's alpha is below 1/255.

    The union of the ellipse u^2 + v^2 = 2 ln(255 o) and the low-pass disc, clipped to the image; empty where a surfel
    shows nowhere. gsplat cuts at 3 sigma instead, which can be seen.
    """
    M, centre = projection.ray_transforms, projection.means2d
    radius2 = 2 * torch.log(opacities / ALPHA_MIN)
    visible = projection.valid & (radius2 > 0)
    radius2 = torch.where(visible, radius2, 1.0)
    # Pixels from the centre: far from the origin float32 would lose the half size in centre^2 - (...).
    shifted = torch.cat([M[:, :2] - centre[:, :, None] * M[:, 2:], M[:, 2:]], dim=1)
    offset, half2, is_ellipse = _box(shifted, radius2)
    half = half2.clamp(min=0).sqrt()
    disc = (radius2 / 2).sqrt()[:, None]
    lower = centre + torch.minimum(offset - half, -disc) - ROUNDING
    upper = centre + torch.maximum(offset + half, disc) + ROUNDING
    size = torch.cat([centre.new_full((1,), length) for length in (camera.width, camera.height)])  # without a copy
    # An ellipse that reaches the camera's plane has no bounds.
    lower = torch.where(is_ellipse[:, None], lower.clamp(min=0).minimum(size), 0.0)
    upper = torch.where(is_ellipse[:, None], upper.clamp(min=0).minimum(size), size)
    return torch.where(visible[:, None], lower, 0.0), torch.where(visible[:, None], upper, 0.0)
