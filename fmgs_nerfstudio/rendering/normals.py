"""Normals in camera space with OpenGL axes: x right, y up, z toward the camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

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
    y, x = torch.meshgrid(
        torch.arange(camera.height, device=depth.device), torch.arange(camera.width, device=depth.device), indexing="ij"
    )
    rays = torch.stack([(x + 0.5 - cx) / fx, -(y + 0.5 - cy) / fy, -torch.ones_like(depth)], dim=-1)
    points = rays * depth[..., None]
    right = points[1:-1, 2:] - points[1:-1, :-2]
    up = points[:-2, 1:-1] - points[2:, 1:-1]
    normals = F.normalize(torch.linalg.cross(right, up), dim=-1)
    seen = depth > 0
    whole = seen[1:-1, 1:-1] & seen[1:-1, 2:] & seen[1:-1, :-2] & seen[:-2, 1:-1] & seen[2:, 1:-1]
    return F.pad(torch.where(whole[..., None], normals, 0.0), (0, 0, 1, 1, 1, 1))


def facing_away(means: Float[Tensor, "N 3"], tangents: Float[Tensor, "N 3 S"], camera: Camera) -> Float[Tensor, "N"]:
    """Cosine between the outer side of surfels, t_u x t_v, and the line of sight, in the world: below 0, the camera
    sees the outer side, above it the inner one."""
    sight = means + camera.viewmat[:3, 3] @ camera.viewmat[:3, :3]
    outward = torch.linalg.cross(tangents[..., 0], tangents[..., 1])
    return (F.normalize(outward, dim=-1, eps=1e-18) * F.normalize(sight, dim=-1)).sum(-1).clamp(-1, 1)


def surfel_normals(tangents: Float[Tensor, "N 3 S"], camera: Camera) -> Float[Tensor, "N 3"]:
    """Unit normals t_u x t_v, the outer side of the mesh.

    Those that face away are not turned towards the camera, as 2DGS does for surfels without an outer side: along a
    silhouette, where they shine through, that would point them inwards.
    """
    normals = torch.linalg.cross(tangents[..., 0], tangents[..., 1]) @ camera.viewmat[:3, :3].T
    # Tangents are millimetres, their product can be far below F.normalize's usual epsilon.
    x, yz = F.normalize(normals, dim=-1, eps=1e-18).split([1, 2], dim=-1)
    return torch.cat([x, -yz], dim=-1)
