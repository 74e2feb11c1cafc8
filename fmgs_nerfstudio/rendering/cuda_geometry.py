"""From surfels to ray transforms and radii on a card, and gradients back: `projection`, in few operations.

In float64: edge-on surfels need it (alpha to 3e-5 instead of 1e-4 when all is rounded once, for the kernels).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.rendering.layers import Camera
from fmgs_nerfstudio.rendering.projection import ALPHA_MIN, ELLIPSE, NEAR, ROUNDING

_EVERYWHERE = 1e9
"""Radius of what has no bounds, pixels; an int32 holds it."""


class Projected(NamedTuple):
    """What kernels want to know of surfels, and what `unproject` does."""

    columns: Float[Tensor, "N 3 3"]
    """Of M = K [s_u t_u, s_v t_v, p] in the camera, float64: the rows of M^T."""
    centres: Float[Tensor, "N 2"]
    """Of the boxes around the images of 1-sigma ellipses, pixels, float64."""
    scales: Float[Tensor, "N"]
    """What made the centres' homogeneous coordinates pixels."""
    to_pixels: Float[Tensor, "3 4"]
    """K [R | t], float64."""
    radii: Int[Tensor, "N"]
    """Half sides of squares around the centres outside which alpha is below 1/255, pixels; 0: shows nowhere."""


@torch.no_grad()
def project(
    means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 2"], opacities: Float[Tensor, "N"], camera: Camera
) -> Projected:
    """`projection.project` and a square around what `projection.bounds` gives, without its cut at the image."""
    to_pixels = camera.K.double() @ camera.viewmat[:3].double()
    columns = torch.cat([tangents.mT, means[:, None]], dim=1).double()
    columns = (columns.view(-1, 3) @ to_pixels[:, :3].T).view(-1, 3, 3)
    columns[:, 2].add_(to_pixels[:, 3])

    # The dual conic of the image of u^2 + v^2 = r^2, times -1: p p^T - r^2 (u u^T + v v^T) of M = [u, v, p].
    products = columns[..., None] * columns[:, :, None]
    spread, middle = products[:, :2].sum(1), products[:, 2]
    conic, least = middle - spread, (1 - ELLIPSE) * middle[:, 2, 2]
    is_ellipse = conic[:, 2, 2] > least
    scales = torch.where(is_ellipse, conic[:, 2, 2], 1.0)
    centres = conic[:, :2, 2] / scales[:, None]

    # Alpha is 1/255 on the ellipse of r^2 = 2 log(255 o), and on the low-pass disc of radius sqrt(log(255 o)).
    log = (opacities / ALPHA_MIN).log()
    visible = is_ellipse & (columns[:, 2, 2] > NEAR) & (log > 0)
    conic = torch.addcmul(middle, spread, log[:, None, None], value=-2)
    has_bounds = conic[:, 2, 2] > least
    conic = conic / conic[:, 2:, 2:]
    offset = conic[:, :2, 2]
    half = torch.addcmul(conic.diagonal(dim1=1, dim2=2)[:, :2], offset, offset, value=-1).abs().sqrt()
    reach = ((offset - centres).abs() + half).amax(1).maximum(log.sqrt())
    reach = torch.where(has_bounds, reach, _EVERYWHERE) + (1 + ROUNDING)  # made whole below, by cutting
    return Projected(columns, centres, scales, to_pixels, torch.where(visible, reach, 0.0).int())


def unproject(
    projected: Projected, v_centres: Float[Tensor, "G N 2"], v_M: Float[Tensor, "G N 3 3"]
) -> tuple[Float[Tensor, "G N 3"], Float[Tensor, "G N 3 2"]]:
    """Gradients of means and tangents: the transpose of `project`'s derivative, for G gradients at once.

    A centre is that of u u^T + v v^T - p p^T, (M S M^T)_iw / (M S M^T)_ww. Its derivative by column k is S_kk / scale
    times: w_k by the same row i, and M_ik - 2 centre_i w_k by the row w.
    """
    columns, centres, scales, to_pixels, _ = projected
    v_conic = (v_centres / scales[:, None])[:, :, None]
    w = columns[..., 2:]
    by_w = torch.addcmul(columns[..., :2], centres[:, None], w, value=-2)
    v_columns = torch.cat([w * v_conic, (by_w * v_conic).sum(-1, keepdim=True)], dim=-1)
    v_columns[:, :, :2].neg_()  # the conic was times -1
    v_columns = v_columns.add_(v_M.mT).view(-1, 3) @ to_pixels[:, :3]
    v_tangents, v_means = v_columns.to(v_M.dtype).view(v_M.shape).split([2, 1], dim=-2)
    return v_means[..., 0, :], v_tangents.mT
