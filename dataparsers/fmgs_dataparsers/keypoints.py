"""SMPL's pose and shape from 3D points of a clip, for results of other bodies whose rigs we have not.

Named points lie near joints of SMPL's. Bones are swung onto them, then all frames are fitted together: least squares of
the points, with knees and elbows that bend as hinges, and a trunk and hands that stay calm where no point tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from fmgs_dataparsers.conventions import BodyFile
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import JOINT_NAMES, N_JOINTS

_POINT = 0.015  # metres; how far a point may be from the joint
_LOOSE = ("left_foot", "right_foot", "left_hand", "right_hand", "head", "neck", "spine1", "spine2", "spine3",
          "left_collar", "right_collar")  # fmt: skip
"""Joints that other bodies have elsewhere: their points count a ninth."""
_EASY, _STIFF, _CALM = 1.0, 0.08, 0.3  # radians that a joint turns, and that it does not
_SHAPE = 1.5  # standard deviations
_SMOOTH = 0.15  # radians from frame to frame
_FAR = 3  # frames apart beyond which nothing is smooth
_STEPS = 80
_BONES = (("left_hip", "left_knee"), ("right_hip", "right_knee"), ("left_knee", "left_ankle"),
          ("right_knee", "right_ankle"), ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
          ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"))  # fmt: skip
_TRUNK = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")
NEEDED = (*_TRUNK, "left_knee", "right_knee", "left_ankle", "right_ankle", "left_elbow", "right_elbow", "left_wrist",
          "right_wrist")  # fmt: skip
"""Points without which there is no fit."""


@dataclass(frozen=True, eq=False)
class ClipFit:
    """Bodies of a clip: axis-angle in radians (root first), the root joint in metres, one shape."""

    pose: Float[Array, "F 72"]
    pelvis: Float[Array, "F 3"]
    betas: Float[Array, "S"]


def fit_points(
    body: BodyFile,
    points: Mapping[str, Float[Array, "F 3"]],
    frames: Float[Array, "F"],
    across_head: Float[Array, "F 3"] | None = None,
) -> ClipFit:
    """The clip whose joints are near `points`, by name of the joint (`JOINT_NAMES`); metres, in any axes.

    Args:
        frames: their numbers in the video: neighbours are alike.
        across_head: from the right ear or eye to the left one.
    """
    clip = _Clip(body, points, frames, across_head)
    local, pelvis = clip.swung()
    return clip.fitted(local, pelvis)


class _Clip:
    def __init__(self, body: BodyFile, points: Mapping[str, Array], frames: Array, across_head: Array | None) -> None:
        self.parents = body.model.parents
        self.rest = body.joints(np.zeros(1))
        directions = [body.joints(np.eye(10)[k]) - self.rest for k in range(body.model.shapedirs[..., :10].shape[-1])]
        self.directions = torch.from_numpy(np.stack(directions, -1))
        self.joints = [JOINT_NAMES.index(name) for name in points]
        self.points = np.stack(list(points.values()), 1)
        self.of = {name: points[name] for name in points}
        self.close = torch.from_numpy(np.diff(frames) <= _FAR)
        self.across = across_head
        self.weight = torch.tensor([1 / 3 if name in _LOOSE else 1.0 for name in points]).double() / _POINT

    def swung(self) -> tuple[Float[Array, "F 24 3 3"], Float[Array, "F 3"]]:
        """Trunks turned onto hips and shoulders, then limbs onto their ends, in each parent's axes."""
        trunk = [JOINT_NAMES.index(name) for name in _TRUNK]
        seen = np.stack([self.of[name] for name in _TRUNK], 1)
        local = np.tile(np.eye(3), (len(seen), N_JOINTS, 1, 1))
        rest = self.rest[trunk] - self.rest[trunk].mean(0)
        for frame, at in enumerate(seen - seen.mean(1, keepdims=True)):
            local[frame, 0] = Rotation.align_vectors(at, rest)[0].as_matrix()
        middle = self.rest[trunk].mean(0)
        pelvis = seen.mean(1) + np.einsum("fij,j->fi", local[:, 0], self.rest[0] - middle)
        whole = np.tile(local[:, :1], (1, N_JOINTS, 1, 1))
        for upper, lower in _BONES:
            a, b = JOINT_NAMES.index(upper), JOINT_NAMES.index(lower)
            if self.parents[a] in (4, 5, 18, 19) or a in (4, 5, 18, 19):
                whole[:, a] = whole[:, self.parents[a]]
            towards = np.einsum("fji,fj->fi", whole[:, a], self.of[lower] - self.of[upper])
            local[:, a] = _swings(self.rest[b] - self.rest[a], towards)
            whole[:, a] = whole[:, a] @ local[:, a]
        return local, pelvis

    def fitted(self, local: Float[Array, "F 24 3 3"], pelvis: Float[Array, "F 3"]) -> ClipFit:
        """From a guess, by L-BFGS over all frames."""
        start = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_rotvec().reshape(-1, N_JOINTS, 3)
        pose = torch.from_numpy(start).requires_grad_()
        place = torch.from_numpy(np.ascontiguousarray(pelvis)).requires_grad_()
        betas = torch.zeros(self.directions.shape[-1], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [pose, place, betas], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-7
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            total = self._loss(pose, place, betas)
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        found = pose.detach().numpy().reshape(-1, 3)
        return ClipFit(
            Rotation.from_rotvec(found).as_rotvec().reshape(-1, 72), place.detach().numpy(), betas.detach().numpy()
        )

    def _loss(self, pose: Tensor, place: Tensor, betas: Tensor) -> Tensor:
        joints = torch.from_numpy(self.rest) + self.directions @ betas
        whole, at = self._posed(_rotations(pose), joints)
        apart = (at[:, self.joints] + place[:, None] - torch.from_numpy(self.points)) * self.weight[:, None]
        total = _robust(apart.square().sum(-1)).sum() + (pose[:, 1:] / _limits()).square().sum()
        steps = (pose[1:] - pose[:-1])[self.close]
        total = total + (steps[:, 1:] / _SMOOTH).square().sum() + (betas / _SHAPE).square().sum()
        if self.across is not None:
            left = torch.nn.functional.normalize(torch.from_numpy(self.across), dim=-1)
            total = total + ((whole[:, 15, :, 0] - left) / 0.15).square().sum()
        return total

    def _posed(self, rotations: Float[Tensor, "F 24 3 3"], joints: Float[Tensor, "24 3"]) -> tuple[Tensor, Tensor]:
        """Orientations of the joints, and where they are from the root."""
        whole, at = [rotations[:, 0]], [torch.zeros(len(rotations), 3, dtype=torch.float64)]
        for joint in range(1, N_JOINTS):
            parent = self.parents[joint]
            at.append(at[parent] + whole[parent] @ (joints[joint] - joints[parent]))
            whole.append(whole[parent] @ rotations[:, joint])
        return torch.stack(whole, 1), torch.stack(at, 1)


def _limits() -> Float[Tensor, "23 3"]:
    """How far joints usually turn about their axes: knees about x, elbows about y, hips and shoulders about all."""
    limits = torch.full((N_JOINTS, 3), _CALM, dtype=torch.float64)
    for joint in (1, 2, 16, 17):
        limits[joint] = _EASY
    for joint in (4, 5):
        limits[joint] = torch.tensor([2 * _EASY, _STIFF, _STIFF])
    for joint in (18, 19):
        limits[joint] = torch.tensor([_CALM, 2 * _EASY, _STIFF])
    return limits[1:]


def _robust(squared: Float[Tensor, "F J"]) -> Float[Tensor, "F J"]:
    """As the square for small errors, as the distance for large ones."""
    return 4 * ((1 + squared / 2).sqrt() - 1)


def _rotations(pose: Float[Tensor, "F 24 3"]) -> Float[Tensor, "F 24 3 3"]:
    x, y, z = pose.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*pose.shape, 3)
    return torch.matrix_exp(cross)


def _swings(rest: Float[Array, "3"], towards: Float[Array, "F 3"]) -> Float[Array, "F 3 3"]:
    """The shortest turns of a direction onto others."""
    a = rest / np.linalg.norm(rest)
    b = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, (b @ a)[:, None])
    return Rotation.from_rotvec(axis / np.maximum(sine, 1e-9) * angle).as_matrix()
