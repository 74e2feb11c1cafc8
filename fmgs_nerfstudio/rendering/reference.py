"""The definition of the rendering, in plain torch: every pixel against every surfel, autograd, any dtype.

2DGS (Huang et al. 2024) with the constants of gsplat 1.4's kernels; the executors are tested against this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.rendering.layers import Camera, Layer
from fmgs_nerfstudio.rendering.projection import ALPHA_MAX, ALPHA_MIN, T_MIN, Projection, project


def pixel_alphas(projection: Projection, opacities: Float[Tensor, "N"], camera: Camera) -> Float[Tensor, "P N"]:
    """Alpha of every surfel at every pixel (row-major), zero below 1/255."""
    y, x = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).to(opacities) + 0.5
    u_row, v_row, w_row = projection.ray_transforms[None].unbind(2)
    # The pixel is where the planes h_u and h_v meet, in the surfel's own coordinates (2DGS Eq. 8-10).
    h_u = pixels[..., :1] * w_row - u_row
    h_v = pixels[..., 1:] * w_row - v_row
    point = torch.linalg.cross(h_u, h_v)
    low_pass = ((pixels - projection.means2d) ** 2).sum(-1)
    w = point[..., 2]
    parallel = w == 0
    gaussian = 0.5 * (point[..., :2] ** 2).sum(-1) / torch.where(parallel, 1, w) ** 2
    is_gaussian = ~parallel & (gaussian <= low_pass)
    # Divide again, by something safe where the low-pass holds: else its zero gradient times infinity is NaN.
    gaussian = 0.5 * (point[..., :2] ** 2).sum(-1) / torch.where(is_gaussian, w, 1) ** 2
    sigma = torch.where(is_gaussian, gaussian, low_pass)
    alpha = (opacities * torch.exp(-sigma)).clamp(max=ALPHA_MAX)
    return torch.where((alpha >= ALPHA_MIN) & ~parallel, alpha, 0)


def composite_weights(alphas: Float[Tensor, "P N"]) -> Float[Tensor, "P N"]:
    """w_i = alpha_i T_i, T_i the product of 1 - alpha of all surfels in front; zero from where T would sink to 1e-4."""
    after = torch.cumprod(1 - alphas, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    return torch.where(after > T_MIN, alphas * before, 0)


def rasterize_reference(layers: Sequence[Layer], camera: Camera) -> list[Float[Tensor, "H W C"]]:
    """Each layer's sum of w_i values_i, front to back by the depth of the centres."""
    images = []
    for means, tangents, opacities, values in layers:
        projection = project(means, tangents, camera)
        order = torch.argsort(projection.depths.detach(), stable=True)
        order = order[projection.valid[order]]
        visible = Projection(*(x[order] for x in projection))
        weights = composite_weights(pixel_alphas(visible, opacities[order], camera))
        images.append((weights @ values[order]).reshape(camera.height, camera.width, values.shape[1]))
    return images
