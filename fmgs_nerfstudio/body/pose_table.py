"""The poses of a capture, and their refinement in training (theta_p of 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.kernels.constants import constant
from fmgs_nerfstudio.parameters import Parameters, TrainedPart

_ALONG = 74  # of a correction: along the ray
_PLACE_STEP = 4.0
"""Standard deviations that one of a place's parameters stands for: images see them less than those of joints."""


class ExpectedErrors(NamedTuple):
    """Errors of fits one standard deviation long: corrections are learned in these units."""

    rotation: float
    """Radians, of a joint about each axis."""
    position: Float[Tensor, "P 3 3"]
    """Metres in the world; columns: right, down, along the ray from the camera."""
    distance: Float[Tensor, "P 3"]
    """Metres, of the whole clip along that ray; 0 at poses that are not of the clip."""
    lean: Float[Tensor, "P 3"]
    """Radians, what the whole clip's lean adds to the root's rotation vector; 0 at poses that are not of the clip."""


class PoseTable(TrainedPart):
    """Fitted pose and translation of every pose of a capture, with a learned correction for those that are trained on.

    One parameter per pose: Adam on a dense table would keep moving rows that are not in the batch. A pose's
    correction is the mean of the parameters around it, weighted by a hat: what a fit gets wrong it gets wrong for a
    while, and so each frame teaches its neighbours too. Any correction can still be expressed.
    """

    pose: Tensor
    transl: Tensor

    def __init__(
        self,
        pose: Float[Tensor, "P 72"],
        transl: Float[Tensor, "P 3"],
        trained: Iterable[int],
        refine: bool,
        radius: int = 0,
        errors: ExpectedErrors | None = None,
    ) -> None:
        """`trained`: rows with a correction; `radius`: how many frames away a parameter still counts; `errors`: units
        of the corrections, and what the whole clip may be off by. None: radians, metres, and nothing of the clip."""
        super().__init__()
        self.register_buffer("pose", pose, persistent=False)
        self.register_buffer("transl", transl, persistent=False)
        self.row = {pose_id: row for row, pose_id in enumerate(sorted(set(trained)))} if refine else {}
        self.corrections = nn.ParameterList(torch.zeros(75) for _ in self.row)
        self.radius, self.errors = radius, errors if refine else None
        self.clip = nn.Parameter(torch.zeros(2)) if self.errors else None
        if self.errors:
            units = torch.cat([torch.ones(72), torch.full((3,), _PLACE_STEP)])
            for name, value in {**self.errors._asdict(), "parameter": units}.items():
                self.register_buffer(f"one_{name}", torch.as_tensor(value), persistent=False)

    one_rotation: Tensor
    one_position: Tensor
    one_distance: Tensor
    one_lean: Tensor
    one_parameter: Tensor

    def trained(self) -> list[Parameters]:
        clip = [] if self.clip is None else [self.clip]
        optimizer = "poses" if self.errors is None else "pose_errors"
        return [Parameters.of("pose", optimizer, self.corrections), Parameters.of("clip", "clip", *clip)]

    def forward(
        self, pose_id: int, refine: bool = True, whole: bool = True
    ) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """Axis-angle pose (radians) and translation (metres): with `refine` corrected where training has seen the
        frame, with `whole` also by what its clip has in common: its lean and distance where errors are stated, else
        the mean of all corrections."""
        pose, transl = self.pose[pose_id], self.transl[pose_id]
        if self.clip is not None and whole:
            distance, lean = self.clip
            pose = torch.cat([pose[:3] + lean * self.one_lean[pose_id], pose[3:]])
            transl = transl + distance * self.one_distance[pose_id]
        if (row := self.row.get(pose_id)) is None or not refine:
            return pose, transl
        correction = self.correction(row)
        if self.errors is None and not whole:
            correction = correction - self._mean()
        d_pose, d_transl = correction.split([72, 3])
        if self.errors is not None:
            d_pose, d_transl = d_pose * self.one_rotation, self.one_position[pose_id] @ d_transl
        return pose + d_pose, transl + d_transl

    def corrections_of(self, pose_id: int) -> tuple[Float[Tensor, "75"], Float[Tensor, "2"]]:
        """All that corrects a pose, in the units of the table: its own, and the whole clip's distance and lean."""
        row = self.row.get(pose_id)
        own = self.pose.new_zeros(75) if row is None else self.correction(row)
        return own, self.pose.new_zeros(2) if self.clip is None else self.clip

    def correction(self, row: int) -> Float[Tensor, "75"]:
        """Of the pose and the translation in a row of the trained, in the units of the table."""
        around = range(max(row - self.radius, 0), min(row + self.radius + 1, len(self.corrections)))
        weights = [self.radius + 1 - abs(other - row) for other in around]
        shares = constant(tuple(weight / sum(weights) for weight in weights), self.pose.dtype, self.pose.device)
        corrections = torch.stack([self.corrections[other] for other in around])
        mean = (corrections * shares[:, None]).sum(0)
        return mean if self.errors is None else (mean - self._common()) * self.one_parameter

    @torch.no_grad()
    def _mean(self) -> Float[Tensor, "75"]:
        return torch.stack([*self.corrections]).mean(0)

    @torch.no_grad()
    def let_common(self) -> None:
        """What all frames have in common begins to count, at zero: their losses have moved it while it did not."""
        if self.corrections and self.errors is None:
            mean = self._mean()
            for own in self.corrections:
                own -= mean

    @torch.no_grad()
    def _common(self) -> Float[Tensor, "75"]:
        """What all frames share of the way along the ray: it is the clip's distance, and that is not theirs to move.
        While the avatar is naked, every frame would come nearer, so that it covers the clothes' outline."""
        common = torch.zeros_like(self.corrections[0])
        common[_ALONG] = torch.stack([own[_ALONG] for own in self.corrections]).mean()
        return common

    def all(self, refine: bool = True, whole: bool = True) -> tuple[Float[Tensor, "P 72"], Float[Tensor, "P 3"]]:
        """Every pose, as `forward` gives it."""
        poses, transl = zip(*(self(pose_id, refine, whole) for pose_id in range(len(self.pose))), strict=True)
        return torch.stack(poses), torch.stack(transl)
