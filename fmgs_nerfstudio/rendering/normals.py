"""Normals in camera space with OpenGL axes: x right, y up, z toward the camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fmgs_nerfstudio.kernels.closed_forms import unit
from fmgs_nerfstudio.kernels.compiled import takes
from fmgs_nerfstudio.kernels.directions import LEAST, facing_away_on_cpu, normals_on_cpu
from fmgs_nerfstudio.kernels.normal_maps import normals_of_depth, on_cpu
from fmgs_nerfstudio.rendering.layers import Camera


def depth_to_normal(depth: Float[Tensor, "H W"], camera: Camera) -> Float[Tensor, "H W 3"]:
    """Unit normals of a z-depth map (metres), from central differences of its points.

    Zero on the image's border and where the pixel or one of its four neighbours has depth 0.
    """
    if on_cpu(depth) and not depth.requires_grad:
        (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
        return normals_of_depth(depth, (fx, fy), (cx, cy))
    return depth_to_normal_reference(depth, camera)


def depth_to_normal_reference(depth: Float[Tensor, "H W"], camera: Camera) -> Float[Tensor, "H W 3"]:
    """`depth_to_normal` in plain torch, differentiable, for any device and dtype."""
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    columns, rows = (
        torch.arange(0.5, size, dtype=depth.dtype, device=depth.device) for size in (camera.width, camera.height)
    )
    y, x = torch.meshgrid((cy - rows) / fy, (columns - cx) / fx, indexing="ij")
    rays = torch.stack([x, y, torch.full_like(depth, -1)], dim=-1)
    points = rays * depth[..., None]
    right = points[1:-1, 2:] - points[1:-1, :-2]
    up = points[:-2, 1:-1] - points[2:, 1:-1]
    normals = F.normalize(torch.linalg.cross(right, up), dim=-1)
    seen = depth > 0
    whole = seen[1:-1, 1:-1] & seen[1:-1, 2:] & seen[1:-1, :-2] & seen[:-2, 1:-1] & seen[2:, 1:-1]
    return F.pad(torch.where(whole[..., None], normals, 0.0), (0, 0, 1, 1, 1, 1))


def outward(tangents: Float[Tensor, "N 3 S"]) -> Float[Tensor, "N 3"]:
    """Unit normals t_u x t_v in the world, the outer side of the mesh; 0 where the tangents span nothing."""
    if takes(tangents):
        return normals_on_cpu(tangents, torch.eye(3))
    t_u, t_v, *_ = tangents.unbind(-1)
    return unit(torch.linalg.cross(t_u, t_v), LEAST)


def surfel_normals(tangents: Float[Tensor, "N 3 S"], camera: Camera) -> Float[Tensor, "N 3"]:
    """`outward` in the camera's axes, OpenGL's.

    Those that face away are not turned towards the camera, as 2DGS does for surfels without an outer side: along a
    silhouette, where they shine through, that would point them inwards.
    """
    axes = camera.viewmat[:3, :3]
    return surfel_normals_along(tangents, torch.cat([axes[:1], -axes[1:]]))


def surfel_normals_along(tangents: Float[Tensor, "N 3 S"], axes: Float[Tensor, "3 3"]) -> Float[Tensor, "N 3"]:
    """`outward` along the rows of a rotation matrix."""
    if takes(tangents, axes):
        return normals_on_cpu(tangents, axes)
    return outward(tangents) @ axes.T


def surfel_normals_reference(tangents: Float[Tensor, "N 3 S"], axes: Float[Tensor, "3 3"]) -> Float[Tensor, "N 3"]:
    """`surfel_normals_along` in plain torch, for any device and dtype."""
    normals = torch.linalg.cross(tangents[..., 0], tangents[..., 1]) @ axes.T
    # Tangents are millimetres, their product can be far below F.normalize's usual epsilon.
    return F.normalize(normals, dim=-1, eps=LEAST)


def facing_away(means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 S"], camera: Camera) -> Float[Tensor, "N"]:
    """Cosine between the outer side of surfels and the line of sight, in the world: below 0, the camera sees the outer
    side, above it the inner one."""
    if takes(means, tangents, camera.viewmat) and not torch.is_grad_enabled():
        return facing_away_on_cpu(means, tangents, camera.centre)
    return facing_away_reference(means, tangents, camera)


def facing_away_reference(
    means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 S"], camera: Camera
) -> Float[Tensor, "N"]:
    """`facing_away` in plain torch, differentiable, for any device and dtype."""
    normals = F.normalize(torch.linalg.cross(tangents[..., 0], tangents[..., 1]), dim=-1, eps=LEAST)
    return (normals * F.normalize(means - camera.centre, dim=-1)).sum(-1).clamp(-1, 1)
