"""The canonical space: the shaped body in the star pose, and bones relative to it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.body.model import N_JOINTS, BodyModel

_LEFT_HIP, _RIGHT_HIP = 1, 2


def star_pose() -> Float[Tensor, "72"]:
    """Legs apart by 45 degrees each, so that no volume cell and no skinning weight sees two legs."""
    pose = torch.zeros(N_JOINTS, 3)
    pose[_LEFT_HIP, 2] = math.pi / 4
    pose[_RIGHT_HIP, 2] = -math.pi / 4
    return pose.flatten()


class CanonicalBody(nn.Module):
    """A body model with one person's shape in the star pose; nothing in it is learned or saved.

    Attributes:
        joints: [24, 3] of the shaped T-pose, metres.
        vertices: [V, 3] in canonical space, metres; on the CPU.
        from_canonical: [24, 4, 4] inverse bones of the star pose.
    """

    joints: Tensor
    from_canonical: Tensor

    def __init__(self, body: BodyModel, betas: Float[Tensor, "S"]) -> None:
        super().__init__()
        self.body = body
        shaped, joints = body.shape(betas)
        # By smplx: in another last digit, a site may be in another cell of a feature volume.
        star = body.bones_reference(joints, star_pose(), torch.zeros(3))
        transforms = (body.weights @ star.view(N_JOINTS, 16)).view(-1, 4, 4)
        self.vertices = (transforms[:, :3, :3] @ shaped[..., None])[..., 0] + transforms[:, :3, 3]
        self.register_buffer("joints", joints, persistent=False)
        self.register_buffer("from_canonical", torch.linalg.inv(star), persistent=False)

    def forward(
        self, pose: Float[Tensor, "*batch 72"], transl: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 24 4 4"], Float[Tensor, "*batch 24 4 4"]]:
        """Bones to the observed world: from the T-pose, and from canonical space (B_b of Eq. 10)."""
        bones = self.body.bones(self.joints, pose, transl)
        return bones, bones @ self.from_canonical
