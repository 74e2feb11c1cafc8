"""The poses of a capture, and their refinement in training (theta_p of 4.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PoseTable(nn.Module):
    """Fitted pose and translation of every instant, with a learned correction for those that are trained on.

    One parameter per instant: Adam on a dense table would keep moving rows that are not in the batch.
    """

    pose: Tensor
    transl: Tensor

    def __init__(
        self, pose: Float[Tensor, "P 72"], transl: Float[Tensor, "P 3"], trained: Iterable[int], refine: bool
    ) -> None:
        super().__init__()
        self.register_buffer("pose", pose, persistent=False)
        self.register_buffer("transl", transl, persistent=False)
        self.row = {pose_id: row for row, pose_id in enumerate(sorted(set(trained)))} if refine else {}
        self.corrections = nn.ParameterList(torch.zeros(75) for _ in self.row)

    def forward(self, pose_id: int, refine: bool = True) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """Axis-angle pose (radians) and translation (metres), corrected where training has seen the instant."""
        pose, transl = self.pose[pose_id], self.transl[pose_id]
        row = self.row.get(pose_id)
        if row is None or not refine:
            return pose, transl
        d_pose, d_transl = self.corrections[row].split([72, 3])
        return pose + d_pose, transl + d_transl
