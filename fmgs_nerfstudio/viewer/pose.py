"""Poses as the viewer handles them: one pose, its joints in the world, and a joint turned by hand. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.motion.motion import Motion


class SmplPose(NamedTuple):
    """One pose in the capture's world, in smplx's sense."""

    pose: Float[Array, "72"]
    """Axis-angle, radians."""
    transl: Float[Array, "3"]
    """Metres."""
    pose_id: int | None = None
    """Row of the capture's pose table that it comes from, if any: its camera frame can be laid over the picture."""
    captured: bool = False
    """It is that row of the capture, unchanged."""

    def rotation(self, joint: int) -> Float[Array, "3"]:
        """Of a joint relative to its parent: axis-angle, radians."""
        return self.pose[3 * joint : 3 * joint + 3]

    def turned(self, joint: int, rotation: Float[Array, "3"]) -> SmplPose:
        """With another rotation of one joint."""
        pose = self.pose.copy()
        pose[3 * joint : 3 * joint + 3] = rotation
        return self._replace(pose=pose, captured=False)

    def tensors(self, device: torch.device) -> tuple[Float[Tensor, "72"], Float[Tensor, "3"]]:
        """Pose and translation as the model takes them."""
        pose, transl = (torch.from_numpy(value).float().to(device) for value in (self.pose, self.transl))
        return pose, transl


class JointFrames(NamedTuple):
    """Where the joints are in the world, and how they are turned from the T-pose."""

    rotations: Float[Array, "24 3 3"]
    positions: Float[Array, "24 3"]
    """Metres."""


def joint_frames(body: CanonicalBody, smpl_pose: SmplPose) -> JointFrames:
    """Forward kinematics of the 24 joints."""
    rest = body.joints.cpu()
    bones = body.body.bones(rest, *smpl_pose.tensors(torch.device("cpu"))).double().numpy()
    rotations = bones[:, :3, :3]
    return JointFrames(rotations, np.einsum("jab,jb->ja", rotations, rest.numpy()) + bones[:, :3, 3])


def local_rotation(
    frames: JointFrames, parents: Sequence[int], joint: int, world: Float[Array, "3 3"]
) -> Float[Array, "3"]:
    """The axis-angle (radians, relative to its parent) that turns a joint to the orientation `world`."""
    parent = np.eye(3) if parents[joint] < 0 else frames.rotations[parents[joint]]
    return Rotation.from_matrix(parent.T @ world).as_rotvec()


def next_position(position: float, seconds: float, motion_fps: float, frames: int) -> float:
    """Where a motion is after some time, in frames; it begins again at its end."""
    return (position + seconds * motion_fps) % frames


def pose_at(motion: Motion, frame: int) -> SmplPose:
    """A pose of a motion that is in the capture's world."""
    return SmplPose(motion.poses[frame], motion.transl[frame])
