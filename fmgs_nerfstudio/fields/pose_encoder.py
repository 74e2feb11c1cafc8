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
        self.sizes = [len(rows) for rows in levels]
        self.one_child_each = [rows == list(range(size)) for rows, size in zip(levels[1:], self.sizes, strict=False)]
        # Indices are buffers: a list would be copied to a card at every use. `above` is the parent, of the root itself.
        above = [max(parent, 0) for parent in parents]
        self.register_buffer("above", torch.tensor(above), persistent=False)
        self.register_buffer("rows", torch.tensor([row for rows in levels for row in rows]), persistent=False)
        bone = joints - joints[above]
        self.register_buffer("bone_length", bone.norm(dim=-1, keepdim=True), persistent=False)
        self.register_buffer("size", (joints - joints[0]).norm(dim=-1).max(), persistent=False)
        self.root = nn.Linear(N_JOINTS * (9 + 3), d)
        # One two-layer perceptron per joint, stacked so that all joints of a level are one product.
        self.w1, self.b1 = _stacked_linear(N_JOINTS, own + d, own + d)
        self.w2, self.b2 = _stacked_linear(N_JOINTS, own + d, d)
        self.out = nn.Linear(N_JOINTS * d, config.latent_dim)

    above: Tensor
    rows: Tensor
    bone_length: Tensor
    size: Tensor

    def forward(self, bones: Float[Tensor, "24 4 4"], joints: Float[Tensor, "24 3"]) -> Float[Tensor, "16"]:
        """`bones` map the T-pose to the posed body, `joints` are those of the shaped T-pose (metres)."""
        rotations, shifts = bones[:, :3].split([3, 1], dim=-1)
        local = torch.bmm(rotations.index_select(0, self.above).transpose(1, 2), rotations)  # relative to the parent's
        posed = torch.baddbmm(shifts, rotations, joints[..., None])[..., 0]
        positions = (posed - posed[:1]) @ rotations[0] / self.size  # in the root's axes
        whole_body = self.root(torch.cat([local.flatten(), positions.flatten()]))
        # A joint hears of its parent b2 + h w2. As h is all of it that must be waited for, what it is multiplied by is
        # known for all joints at once, and a level is one product.
        of_above = torch.cat([whole_body[None], self.b2[:, 0].index_select(0, self.above[1:])])
        own = torch.cat([local.flatten(1), positions, self.bone_length, of_above], dim=-1)
        apart = torch.baddbmm(self.b1, own[:, None], self.w1).split(self.sizes)
        products = torch.bmm(self.w2.index_select(0, self.above), self.w1[:, -len(whole_body) :]).split(self.sizes)
        hidden = [apart[0].relu()]
        levels = zip(self.one_child_each, self.rows.split(self.sizes)[1:], apart[1:], products[1:], strict=True)
        for is_same, rows, of_own, product in levels:
            above = hidden[-1] if is_same else hidden[-1].index_select(0, rows)
            hidden.append(torch.baddbmm(of_own, above, product).relu())
        return self.out(torch.baddbmm(self.b2, torch.cat(hidden), self.w2).flatten())


def _levels(parents: tuple[int, ...]) -> list[list[int]]:
    """By distance from the root, of each joint the parent's row in the level above (of the root: 0). Joints come level
    by level, as SMPL's do."""
    levels, first, end = [[0]], 0, 1
    while end < len(parents):
        rows = [parent - first for parent in parents[end:] if parent < end]
        levels.append(rows)
        first, end = end, end + len(rows)
    return levels


def _stacked_linear(count: int, in_dim: int, out_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights [count, in, out] and biases [count, 1, out] with torch.nn.Linear's initial distribution."""
    bound = in_dim**-0.5
    return (
        nn.Parameter(torch.empty(count, in_dim, out_dim).uniform_(-bound, bound)),
        nn.Parameter(torch.empty(count, 1, out_dim).uniform_(-bound, bound)),
    )
