"""The studio: how the person moves, how well the fit knows it, and the cameras around them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from fmgs_dataparsers.capture import PinholeCamera
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.motion import novel_poses, training_clip
from fmgs_nerfstudio.demo.noise import noisy_poses, smooth_track

TRAIN_CAMERA = "Camera_B1"
# name, azimuth from the training camera and elevation in degrees
CAMERAS = (
    (TRAIN_CAMERA, 0.0, 4.0), ("Camera_B2", 45.0, 12.0), ("Camera_B3", 135.0, 4.0), ("Camera_B4", -45.0, 22.0),
    ("Camera_B5", -135.0, 12.0),
)  # fmt: skip
_DISTANCE = 4.2


@dataclass(frozen=True)
class Motion:
    """The whole capture's poses: training frames first, novel poses after them."""

    body: BodyModel
    betas: Float[Array, "10"]
    pose: Float[Array, "T 72"]
    """Axis-angle; the first joint turns the body in the world."""
    transl: Float[Array, "T 3"]

    def __len__(self) -> int:
        return len(self.pose)

    @cached_property
    def joints(self) -> Float[Array, "24 3"]:
        """Joints of the shaped T-pose."""
        return self.body.shape(torch.tensor(self.betas, dtype=torch.float32))[1].numpy().astype(float)

    @cached_property
    def bones(self) -> Float[Array, "T 24 4 4"]:
        """T-pose to world."""
        pose, transl = (torch.tensor(a, dtype=torch.float32) for a in (self.pose, self.transl))
        return self.body.bones(torch.tensor(self.joints, dtype=torch.float32), pose, transl).numpy()

    @cached_property
    def vertices(self) -> Float[Array, "T V 3"]:
        """The naked body in the world: linear blend skinning, for the demo body has no pose blend shapes."""
        rest = self.body.shape(torch.tensor(self.betas, dtype=torch.float32))[0].numpy()
        blended = np.einsum("vj,tjik->tvik", self.body.weights.numpy(), self.bones[:, :, :3], optimize=True)
        return np.einsum("tvik,vk->tvi", blended[..., :3], rest) + blended[..., 3]

    def zju(self, frame: int) -> dict[str, Float[Array, "1 K"]]:
        """EasyMocap's parameters: V = R(Rh) X(theta with zero root) + Th, so Rh turns about the origin."""
        pelvis = self.joints[0]
        rotated = Rotation.from_rotvec(self.pose[frame, :3]).apply(pelvis)
        theta = np.concatenate([np.zeros(3), self.pose[frame, 3:]])
        parts = {
            "poses": theta,
            "Rh": self.pose[frame, :3],
            "Th": self.transl[frame] + pelvis - rotated,
            "shapes": self.betas,
        }
        return {name: values[None].astype(np.float32) for name, values in parts.items()}


def sample_motion(body: BodyModel, betas: Float[Array, "10"], train_frames: int, pose_frames: int, seed: int) -> Motion:
    """Poses of a seed, standing on the ground z = 0 near the origin."""
    train, novel = training_clip(train_frames, seed).pose, novel_poses(pose_frames, seed).pose
    pose = np.concatenate([train, novel])
    standing = Motion(body, betas, pose, np.zeros((len(pose), 3)))
    soles = standing.vertices[..., 2].min(1)
    sway = 0.03 * smooth_track(len(pose), 2, np.random.default_rng([seed, 31]))
    pelvis = np.einsum("tij,j->ti", standing.bones[:, 0, :3, :3], standing.joints[0]) + standing.bones[:, 0, :3, 3]
    return Motion(body, betas, pose, np.c_[sway - pelvis[:, :2], 0.02 - soles])


def noisy_motion(exact: Motion, amount: float, train_frames: int, seed: int) -> Motion:
    """The fit that a real capture would have; training clip and novel poses err independently."""
    rng = np.random.default_rng([seed, 32])
    parts = [
        noisy_poses(exact.pose[part], exact.transl[part], amount, rng)
        for part in (slice(0, train_frames), slice(train_frames, None))
        if len(exact.pose[part])
    ]
    return dataclasses.replace(
        exact, pose=np.concatenate([p for p, _ in parts]), transl=np.concatenate([t for _, t in parts])
    )


def changing_exposure(frames: int, spread: float, seed: int) -> list[float]:
    """Factors of linear light, one per training frame: a slow drift, their logarithms of mean 0 and that deviation."""
    if not spread:
        return [1.0] * frames
    drift = smooth_track(frames, 1, np.random.default_rng([seed, 33]))[:, 0]
    drift -= drift.mean()
    return np.exp(spread * drift / drift.std()).tolist()


def place_cameras(motion: Motion, size: int, frames_of: dict[str, list[int]]) -> dict[str, PinholeCamera]:
    """Cameras on a ring, each zoomed so that the person fills the image but for a margin of 10 % in all it sees."""
    cameras = {}
    for name, azimuth, elevation in CAMERAS:
        points = motion.vertices[frames_of[name], ::5].reshape(-1, 3)
        a, e = np.radians(azimuth), np.radians(elevation)
        middle = np.array([0.0, 0.0, (points[:, 2].min() + points[:, 2].max()) / 2])
        forward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), -np.sin(e)])
        right = np.array([np.cos(a), np.sin(a), 0.0])
        rotation = np.stack([right, np.cross(forward, right), forward])
        translation = -rotation @ (middle - _DISTANCE * forward)
        seen = points @ rotation.T + translation
        reach = (np.abs(seen[:, :2]).max(0) + 0.03).max() / _DISTANCE  # 3 cm for hair, soles and cloth
        reach = max(reach, float((np.abs(seen[:, :2]) / seen[:, 2:]).max()))
        focal = 0.4 * size / reach
        K, world_to_camera = np.diag([focal, focal, 1.0]), np.eye(4)
        K[:2, 2] = size / 2
        world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, translation
        cameras[name] = PinholeCamera(K, world_to_camera, size, size)
    return cameras
