"""The pose latent Z_p (4.2.1): LEAP's hierarchical pose encoder [41] as in 3DGS-Avatar [30], then a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.parameters import TrainedPart


@dataclass(frozen=True)
class PoseEncoderConfig:
    """The hierarchical pose encoder."""

    dim_per_joint: int = 6
    """Features that each joint passes to its children; 24 times as many enter the last layer."""
    latent_dim: int = 16
    """Size of the pose latent Z_p."""


class PoseEncoder(TrainedPart):
    """Pose and shape to Z_p. Every joint sees its rotation, position and bone length, and its parent's features.

    Shape enters through the joints of the shaped body. The root's rotation is left out: Z_p describes the pose of the
    body, not where it faces.
    """

    part, optimizer = "pose encoder", "pose_encoder"

    def __init__(self, config: PoseEncoderConfig, parents: tuple[int, ...], joints: Float[Tensor, "24 3"]) -> None:
        super().__init__()
        d, own = config.dim_per_joint, 9 + 3 + 1
        levels = _levels(parents)
        self.sizes = [len(level) for level, _ in levels]
        # Indices are buffers: a list would be copied to a card at every use. `above` is the parent, of the root itself.
        for name, index in {
            "above": [max(parent, 0) for parent in parents],
            "by_level": [joint for level, _ in levels for joint in level],
            "parent_rows": [row for _, rows in levels for row in rows],
        }.items():
            self.register_buffer(name, torch.tensor(index), persistent=False)
        bone = joints - joints[self.above]
        self.register_buffer("bone_length", bone.norm(dim=-1, keepdim=True), persistent=False)
        self.register_buffer("size", (joints - joints[0]).norm(dim=-1).max(), persistent=False)
        self.root = nn.Linear(N_JOINTS * (9 + 3), d)
        # One two-layer perceptron per joint, stacked so that all joints of a level are one product.
        self.w1, self.b1 = _stacked_linear(N_JOINTS, own + d, own + d)
        self.w2, self.b2 = _stacked_linear(N_JOINTS, own + d, d)
        self.out = nn.Linear(N_JOINTS * d, config.latent_dim)

    above: Tensor
    by_level: Tensor
    parent_rows: Tensor
    bone_length: Tensor
    size: Tensor

    def forward(self, bones: Float[Tensor, "24 4 4"], joints: Float[Tensor, "24 3"]) -> Float[Tensor, "16"]:
        """`bones` map the T-pose to the posed body, `joints` are those of the shaped T-pose (metres)."""
        rotations = bones[:, :3, :3]
        local = rotations.index_select(0, self.above).transpose(1, 2) @ rotations  # relative to the parent's
        posed = (bones[:, :3, :3] @ joints[..., None])[..., 0] + bones[:, :3, 3]
        positions = (posed - posed[0]) @ bones[0, :3, :3] / self.size  # in the root's axes
        own = torch.cat([local.flatten(1), positions, self.bone_length], dim=-1)[:, None]
        features = [self.root(torch.cat([local.flatten(), positions.flatten()]))[None, None]]
        # The first layer's product with a joint's own numbers for all joints at once, that with its parent's by level.
        of_own, of_parent = self.w1.split([own.shape[-1], features[0].shape[-1]], dim=1)
        of_joints = (torch.baddbmm(self.b1, own, of_own), of_parent, self.w2, self.b2)
        levels = [value.index_select(0, self.by_level).split(self.sizes) for value in of_joints]
        for rows, hidden, w1, w2, b2 in zip(self.parent_rows.split(self.sizes), *levels, strict=True):
            hidden = torch.baddbmm(hidden, features[-1].index_select(0, rows), w1).relu()
            features.append(torch.baddbmm(b2, hidden, w2))
        return self.out(torch.cat(features[1:]).flatten())


def _levels(parents: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Joints by their distance from the root, with their parents' rows in the level above (of the root: 0)."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    levels: list[tuple[list[int], list[int]]] = []
    above = [-1]
    for at in range(max(depth) + 1):
        joints = [j for j, d in enumerate(depth) if d == at]
        levels.append((joints, [above.index(parents[j]) for j in joints]))
        above = joints
    return levels


def _stacked_linear(count: int, in_dim: int, out_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights [count, in, out] and biases [count, 1, out] with torch.nn.Linear's initial distribution."""
    bound = in_dim**-0.5
    return (
        nn.Parameter(torch.empty(count, in_dim, out_dim).uniform_(-bound, bound)),
        nn.Parameter(torch.empty(count, 1, out_dim).uniform_(-bound, bound)),
    )
