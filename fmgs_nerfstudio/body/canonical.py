"""The canonical space: the shaped body in the star pose, and bones relative to it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.body.model import N_JOINTS, BodyModel

_LEFT_HIP, _RIGHT_HIP = 1, 2


def star_pose() -> Float[Tensor, "72"]:
    """Legs apart by 45 degrees each, so that no volume cell and no skinning weight sees two legs."""
    pose = torch.zeros(N_JOINTS, 3)
    pose[_LEFT_HIP, 2] = math.pi / 4
    pose[_RIGHT_HIP, 2] = -math.pi / 4
    return pose.flatten()


class CanonicalBody:
    """A body model with one person's shape in the star pose.

    Attributes:
        joints: [24, 3] of the shaped T-pose, metres.
        vertices: [V, 3] in canonical space, metres.
        from_canonical: [24, 4, 4] inverse bones of the star pose.
    """

    def __init__(self, body: BodyModel, betas: Float[Tensor, "S"]) -> None:
        self.body = body
        shaped, self.joints = body.shape(betas)
        star = body.bones(self.joints, star_pose(), torch.zeros(3))
        transforms = (body.weights @ star.view(N_JOINTS, 16)).view(-1, 4, 4)
        self.vertices = (transforms[:, :3, :3] @ shaped[..., None])[..., 0] + transforms[:, :3, 3]
        self.from_canonical = torch.linalg.inv(star)

    def to(self, device: torch.device | str) -> CanonicalBody:
        """Move what `bones` needs; the canonical vertices stay where they are."""
        self.joints, self.from_canonical = self.joints.to(device), self.from_canonical.to(device)
        return self

    def bones(
        self, pose: Float[Tensor, "*batch 72"], transl: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch 24 4 4"]:
        """B_b of Eq. 10: maps canonical points to the observed world."""
        return self.body.bones(self.joints, pose, transl) @ self.from_canonical
