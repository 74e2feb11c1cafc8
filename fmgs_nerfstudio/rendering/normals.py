"""Normals of surfels and of depth maps, in camera axes x right, y up, z toward the camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fmgs_nerfstudio.rendering.layers import Camera


def depth_to_normal(depth: Float[Tensor, "H W"], camera: Camera) -> Float[Tensor, "H W 3"]:
    return torch.zeros(*depth.shape, 3)


def surfel_normals(
    tangents: Float[Tensor, "N 3 2"], means: Float[Tensor, "N 3"], camera: Camera
) -> Float[Tensor, "N 3"]:
    n = normalize(torch.linalg.cross(tangents[..., 0], tangents[..., 1]), dim=-1) @ camera.viewmat[:3, :3].T
    p = means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    return n * -torch.sign((n * p).sum(-1, keepdim=True)).detach() * n.new_tensor([1.0, -1.0, -1.0])
