"""A motion: poses of SMPL's 24 joints over time, whoever recorded it, and how it gets into a capture's world."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.body.model import N_JOINTS

Vector = Float[Array, "3"]
_ROOM = 30.0  # metres, within which most motions stay
_SPRINT = 15.0  # metres per second


class MotionError(ValueError):
    """A motion cannot be used; the message names the file, what was expected, and what to do."""


@dataclass(frozen=True, eq=False)
class Motion:
    """T poses at equal intervals, in smplx's sense: the first joint turns the body about its pelvis."""

    poses: Float[Array, "T 72"]
    """Axis-angle, radians."""
    transl: Float[Array, "T 3"]
    """Metres."""
    fps: float
    """Poses per second."""
    up: tuple[float, float, float]
    """The upward axis of the motion's world."""
    name: str

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def span(self) -> float:
        """Metres along the axis on which it leads farthest."""
        return float(np.ptp(self.transl, axis=0).max())

    def root(self) -> Rotation:
        """Orientation of the body, one per pose."""
        return Rotation.from_rotvec(self.poses[:, :3])

    def clip(self, start: float, stop: float | None) -> Motion:
        """The part between two times in seconds; no `stop`: to the end.

        Raises:
            MotionError: nothing lies between them.
        """
        last = len(self) if stop is None else math.ceil(stop * self.fps)
        part = slice(round(start * self.fps), last)
        if len(self.poses[part]) == 0:
            raise MotionError(
                f"{self.name} lasts {len(self) / self.fps:.1f} s; nothing of it lies between {start} s and {stop} s"
            )
        return dataclasses.replace(self, poses=self.poses[part], transl=self.transl[part])

    def resample(self, fps: float) -> Motion:
        """At another rate: rotations by spherical, translations by linear interpolation."""
        if len(self) == 1 or fps == self.fps:
            return dataclasses.replace(self, fps=fps)
        times = np.arange(len(self)) / self.fps
        # A hair beyond the last pose counts as on it.
        wanted = np.minimum(np.arange(math.floor(times[-1] * fps + 1e-6) + 1) / fps, times[-1])
        joints = self.poses.reshape(-1, N_JOINTS, 3)
        turned = [Slerp(times, Rotation.from_rotvec(joints[:, j]))(wanted).as_rotvec() for j in range(N_JOINTS)]
        transl = np.stack([np.interp(wanted, times, axis) for axis in self.transl.T], axis=1)
        return dataclasses.replace(self, poses=np.concatenate(turned, axis=1), transl=transl, fps=fps)

    def moved(self, rotation: Rotation, shift: Vector, pelvis: Vector) -> Motion:
        """Carried by a rigid motion of the world: x becomes `rotation` x + `shift`.

        `pelvis`: of the shaped T-pose, about which smplx turns the body: p = transl + pelvis is where the pelvis is.
        """
        poses = self.poses.copy()
        poses[:, :3] = (rotation * self.root()).as_rotvec()
        up = rotation.apply(self.up)
        transl = rotation.apply(self.transl + pelvis) + shift - pelvis
        return dataclasses.replace(self, poses=poses, transl=transl, up=(float(up[0]), float(up[1]), float(up[2])))

    def upright(self, up: Vector, pelvis: Vector) -> Motion:
        """In a world with another upward axis."""
        return self.moved(rotation_between(np.array(self.up), up), np.zeros(3), pelvis)

    def facing(self) -> Float[Array, "T 3"]:
        """Where the body looks, horizontally: SMPL's T-pose faces +z. Not normalised; zero when lying."""
        forward = self.root().apply([0.0, 0.0, 1.0])
        up = np.array(self.up)
        return forward - (forward @ up)[:, None] * up

    def stand_in_for(self, other: Motion, body: CanonicalBody) -> Motion:
        """Upright in the world of `other`: the first poses at the same place, facing the same way; floors level."""
        up, pelvis = np.array(other.up), body.joints[0].numpy(force=True).astype(float)
        standing = self.upright(up, pelvis)
        a, b = standing.facing()[0], other.facing()[0]
        heading = math.atan2(np.cross(a, b) @ up, a @ b)
        turned = standing.moved(Rotation.from_rotvec(heading * up), np.zeros(3), pelvis)
        shift = other.transl[0] - turned.transl[0]
        # The floor: below the lowest joint, which stands on it most of the time.
        floors = [np.median((joints(motion, body) @ up).min(1)) for motion in (other, turned)]
        return turned.moved(Rotation.identity(), shift - (shift @ up) * up + (floors[0] - floors[1]) * up, pelvis)


def joints(motion: Motion, body: CanonicalBody) -> Float[Array, "T 24 3"]:
    """The 24 joints of every pose, metres."""
    rest = body.joints.cpu()
    poses, transl = (torch.from_numpy(value).float() for value in (motion.poses, motion.transl))
    bones = body.body.bones(rest, poses, transl)
    return ((bones[..., :3, :3] @ rest[..., None])[..., 0] + bones[..., :3, 3]).numpy().astype(float)


def rotation_between(a: Vector, b: Vector) -> Rotation:
    """The shortest rotation that takes the unit vector `a` to `b`."""
    axis = np.cross(a, b)
    if np.linalg.norm(axis) < 1e-9:  # none, or half a turn about anything across
        axis = np.cross(a, np.eye(3)[np.abs(a).argmin()])
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * math.atan2(np.linalg.norm(np.cross(a, b)), a @ b))


def find_up(poses: Float[Array, "T 72"]) -> tuple[float, float, float] | None:
    """The axis that people's heads point to on average (SMPL's T-pose stands along +y); none if there is no such."""
    mean = Rotation.from_rotvec(poses[:, :3]).apply([0.0, 1.0, 0.0]).mean(0)
    axis = int(np.abs(mean).argmax())
    if abs(mean[axis]) < 0.7:
        return None
    x, y, z = (float(np.sign(mean[axis])) if i == axis else 0.0 for i in range(3))
    return x, y, z


def find_metres(transl: Float[Array, "T 3"], fps: float) -> float:
    """Metres per unit of a translation: 1, unless it lies or leads far and nobody could move as fast."""
    moved = np.ptp(transl, axis=0).max()
    size = max(float(np.median(np.linalg.norm(transl, axis=1))), float(moved))
    speeds = np.linalg.norm(np.diff(transl, axis=0), axis=1) * fps
    if size < _ROOM or not len(speeds) or np.quantile(speeds, 0.9) <= _SPRINT:
        return 1.0
    return 0.01 if size < 2000 else 0.001
