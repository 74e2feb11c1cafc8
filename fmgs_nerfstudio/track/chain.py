"""The skeleton of a body for many frames at once, with derivatives: what least squares need of SMPL's joints.

A rotation is changed in its joint's own frame, R <- R exp([d]_x). The point p then moves by g_c x (p - P_j) for each
column g_c of the joint's rotation G_j in the camera, where P_j is the joint and p hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.model import N_JOINTS

PER_FRAME = 3 * N_JOINTS + 3
"""Unknowns of a frame: a small turn of each joint, a shift of the pelvis."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints of the T-pose, and how they follow the shape (S numbers)."""

    parents: tuple[int, ...]
    rest: Float[Array, "24 3"]
    """Of the mean shape, metres."""
    shaped: Float[Array, "24 3 S"]
    """Metres for one unit of each shape direction."""

    @staticmethod
    def of(body: BodyModel, shapes: int = 10) -> Skeleton:
        """With the first `shapes` of the body's shape directions, where it has as many."""
        count = min(shapes, body.shapedirs.shape[-1])
        rest = body.shape(torch.zeros(0))[1]
        shaped = torch.einsum("jv,vis->jis", body.J_regressor, body.shapedirs[..., :count])
        return Skeleton(body.parents, rest.double().numpy(), shaped.double().numpy())

    def joints(self, betas: Float[Array, "S"]) -> Float[Array, "24 3"]:
        """T-pose of a shape."""
        return self.rest + self.shaped @ betas

    @cached_property
    def above(self) -> Bool[Array, "24 24"]:
        """[j, k]: whether k is j or above it."""
        above = np.eye(N_JOINTS, dtype=bool)
        for joint, parent in enumerate(self.parents[1:], 1):
            above[joint] |= above[parent]
        return above


@dataclass(frozen=True, eq=False)
class Marks:
    """M points of a body."""

    joint: Int[Array, "M"]
    """Where they hang."""
    axes: Int[Array, "M"]
    """Whose rotation turns the offset: this joint or one above."""
    offset: Float[Array, "M 3"]
    """From the joint, in the T-pose, metres."""


@dataclass(frozen=True, eq=False)
class Posed:
    """F frames of a skeleton in the camera, metres."""

    skeleton: Skeleton
    turned: Float[Array, "F 24 3 3"]
    """Rotations from the T-pose to the camera."""
    joints: Float[Array, "F 24 3"]
    by_shape: Float[Array, "F 24 3 S"]
    """How the joints move with the shape; the pelvis stays."""

    @staticmethod
    def of(
        skeleton: Skeleton, betas: Float[Array, "S"], local: Float[Array, "F 24 3 3"], pelvis: Float[Array, "F 3"]
    ) -> Posed:
        """`local`: rotations against the parent, the root's in the camera; `pelvis`: where it is in the camera."""
        bones = skeleton.joints(betas)
        turned, joints = np.empty_like(local), np.empty((len(local), N_JOINTS, 3))
        by_shape = np.zeros((len(local), N_JOINTS, 3, len(betas)))
        turned[:, 0], joints[:, 0] = local[:, 0], pelvis
        for joint, parent in enumerate(skeleton.parents[1:], 1):
            turned[:, joint] = turned[:, parent] @ local[:, joint]
            joints[:, joint] = joints[:, parent] + turned[:, parent] @ (bones[joint] - bones[parent])
            grown = skeleton.shaped[joint] - skeleton.shaped[parent]
            by_shape[:, joint] = by_shape[:, parent] + turned[:, parent] @ grown
        return Posed(skeleton, turned, joints, by_shape)

    def points(self, marks: Marks) -> tuple[Float[Array, "F M 3"], Float[Array, "F M 24 3"]]:
        """Where `marks` are, and their arms: how they move with a turn w of each joint is w x arm."""
        offset = (self.turned[:, marks.axes] @ marks.offset[..., None])[..., 0]
        base, above = self.joints[:, marks.joint], self.skeleton.above
        arms = (base[:, :, None] - self.joints[:, None]) * above[marks.joint][..., None]
        return base + offset, arms + offset[:, :, None] * above[marks.axes][..., None]

    def moves(self, arms: Float[Array, "F M 24 3"]) -> Float[Array, "F M 3 75"]:
        """How points with these arms move with the unknowns of their frame."""
        frames, count = arms.shape[:2]
        axis = self.turned.swapaxes(-1, -2)[:, None]  # [F, 1, 24, column, 3]
        turns = np.empty((frames, count, 3, N_JOINTS, 3))
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            turns[:, :, i] = axis[..., j] * arms[..., None, k] - axis[..., k] * arms[..., None, j]
        shift = np.broadcast_to(np.eye(3), (frames, count, 3, 3))
        return np.concatenate([turns.reshape(frames, count, 3, 3 * N_JOINTS), shift], -1)

    def turns(self) -> Float[Array, "F 24 3 75"]:
        """How each joint's rotation turns, in its own frame, with the unknowns of its frame."""
        frames = len(self.turned)
        relative = self.turned.swapaxes(-1, -2)[:, :, None] @ self.turned[:, None]  # F j k 3 3
        relative = relative * self.skeleton.above[..., None, None]
        out = np.zeros((frames, N_JOINTS, 3, PER_FRAME))
        out[..., : 3 * N_JOINTS] = relative.swapaxes(2, 3).reshape(frames, N_JOINTS, 3, 3 * N_JOINTS)
        return out


def exponential(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """Rotation vectors to matrices."""
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)


def logarithm(matrices: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3"]:
    """Matrices to rotation vectors, of at most half a turn."""
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(matrices.shape[:-1])


def inverse_right_jacobian(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """How log(exp(v) exp(d)) changes with d at 0."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    safe = np.maximum(angle, 1e-4)
    factor = np.where(angle < 1e-2, 1 / 12, 1 / safe**2 - 1 / (2 * safe * np.tan(safe / 2)))
    cross = skew(vectors)
    return np.eye(3) + cross / 2 + factor * (cross @ cross)


def skew(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """[v]_x"""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape, 3)


def nearest_rotation(matrices: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3 3"]:
    """The rotation that differs least, in squares."""
    left, _, right = np.linalg.svd(matrices)
    left[..., -1] *= np.sign(np.linalg.det(left @ right))[..., None]
    return left @ right
