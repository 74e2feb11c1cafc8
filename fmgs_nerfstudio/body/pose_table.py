"""The poses of a capture, and their refinement in training (theta_p of 4.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.kernels.constants import constant
from fmgs_nerfstudio.parameters import TrainedPart


class PoseTable(TrainedPart):
    """Fitted pose and translation of every pose of a capture, with a learned correction for those that are trained on.

    One parameter per pose: Adam on a dense table would keep moving rows that are not in the batch. A pose's
    correction is the mean of the parameters around it, weighted by a hat: what a fit gets wrong it gets wrong for a
    while, and so each frame teaches its neighbours too. Any correction can still be expressed.
    """

    part, optimizer = "pose", "poses"
    pose: Tensor
    transl: Tensor

    def __init__(
        self,
        pose: Float[Tensor, "P 72"],
        transl: Float[Tensor, "P 3"],
        trained: Iterable[int],
        refine: bool,
        radius: int = 0,
    ) -> None:
        """`trained`: rows with a correction; `radius`: how many frames away a parameter still counts."""
        super().__init__()
        self.register_buffer("pose", pose, persistent=False)
        self.register_buffer("transl", transl, persistent=False)
        self.row = {pose_id: row for row, pose_id in enumerate(sorted(set(trained)))} if refine else {}
        self.corrections = nn.ParameterList(torch.zeros(75) for _ in self.row)
        self.radius = radius

    def forward(self, pose_id: int, refine: bool = True) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """Axis-angle pose (radians) and translation (metres), corrected where training has seen the frame."""
        pose, transl = self.pose[pose_id], self.transl[pose_id]
        row = self.row.get(pose_id)
        if row is None or not refine:
            return pose, transl
        around = range(max(row - self.radius, 0), min(row + self.radius + 1, len(self.corrections)))
        weights = [self.radius + 1 - abs(other - row) for other in around]
        shares = constant(tuple(weight / sum(weights) for weight in weights), pose.dtype, pose.device)
        corrections = torch.stack([self.corrections[other] for other in around])
        d_pose, d_transl = (corrections * shares[:, None]).sum(0).split([72, 3])
        return pose + d_pose, transl + d_transl

    def all(self) -> tuple[Float[Tensor, "P 72"], Float[Tensor, "P 3"]]:
        """Every pose, corrected."""
        poses, transl = zip(*(self(pose_id) for pose_id in range(len(self.pose))), strict=True)
        return torch.stack(poses), torch.stack(transl)
