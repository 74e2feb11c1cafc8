"""Folds of cloth, from the pose alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.easing import bump, smoothstep
from fmgs_nerfstudio.demo.noise import value_noise

# joint -> the joint its limb points to, wavelength of its folds in metres
_FOLDING = {
    1: (4, 0.045), 2: (5, 0.045), 4: (7, 0.036), 5: (8, 0.036), 3: (6, 0.055), 6: (9, 0.055), 9: (12, 0.055),
    16: (18, 0.042), 17: (19, 0.042), 18: (20, 0.030), 19: (21, 0.030),
}  # fmt: skip
_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


class _Term(NamedTuple):
    """Folds that one joint makes, on the cloth near it."""

    joint: int
    near: Int[Array, "N"]
    shortening: Float[Array, "N 3"]
    """Excess length per radian of the joint's rotation vector."""
    axis: Float[Array, "3"]
    bend: Float[Array, "N"]
    twist: Float[Array, "N"]


class Folds:
    """Heights of cloth folds in metres.

    Where a limb bends, cloth on its inner side gets too long and buckles. Linear blend skinning with blend weight w
    shortens a fibre along the limb's axis a, at offset o from the joint, by r . (a x o) dw/ds for a small rotation r; a
    sine of wavelength L takes up the excess e with amplitude L / pi sqrt(e). Twist does the same along diagonals.
    """

    def __init__(
        self,
        strength: Float[Array, "V"],
        weights: csr_matrix,
        anchor: Float[Array, "V 3"],
        joints: Float[Array, "24 3"],
        seed: int,
    ) -> None:
        """`strength` 0: a vertex that never moves; `weights` [V, 24] and `anchor` are the rest pose's."""
        self.index = np.flatnonzero(strength > 0)
        self.strength = strength[self.index].astype(np.float32)
        p = anchor[self.index]
        self._wander = value_noise(p * [9, 4, 9], seed + 21) - 0.5
        self._fray = np.clip(1.6 * value_noise(p * 14, seed + 22) - 0.1, 0, 1)
        dense = weights[self.index].toarray()
        self._terms = [self._term(joint, p, dense, joints) for joint in _FOLDING]
        self._still = self._standing(p)

    def _term(
        self,
        joint: int,
        p: Float[Array, "K 3"],
        weights: Float[Array, "K 24"],
        joints: Float[Array, "24 3"],
    ) -> _Term:
        child, wavelength = _FOLDING[joint]
        moving = weights[:, _descendants(joint)].sum(1)
        bell = 4 * moving * (1 - moving)
        near = np.flatnonzero(bell > 0.03)
        bell, wander, fray = bell[near], self._wander[near], self._fray[near]
        axis = joints[child] - joints[joint]
        axis /= np.linalg.norm(axis)
        offset = p[near] - joints[joint]
        along = offset @ axis
        radial = offset - along[:, None] * axis
        side, front = _across(axis)
        around = np.arctan2(radial @ side, radial @ front) * 0.06
        bend = wavelength / np.pi * fray * _ridge(along / wavelength + 1.3 * wander)
        diagonal = (along + 0.8 * around) / (1.2 * wavelength)
        twist = wavelength / np.pi * fray * bell * _ridge(diagonal + 1.5 * wander)
        # dw/ds of a joint whose blend is as wide as a limb is thick: about bell / 0.11 m
        shortening = np.cross(axis, offset) * (bell / 0.11)[:, None]
        return _Term(joint, near, *(a.astype(np.float32) for a in (shortening, axis, bend, twist)))

    def _standing(self, p: Float[Array, "K 3"]) -> Float[Array, "K"]:
        """Folds that are always there: a shirt hangs in vertical ones, sleeves and trousers stack at their ends."""
        wander, fray = self._wander, self._fray
        x, y, z = p.T
        around = np.arctan2(x, z - 0.02)
        hang = _ridge(around * 0.15 / 0.085 + 1.3 * wander) * smoothstep(0.12, -0.22, y) * (y > -0.30) * 0.008
        stack = _ridge(y / 0.045 + 1.5 * wander) * smoothstep(-0.80, -1.06, y) * 0.009
        cuff = _ridge(np.abs(x) / 0.034 + 1.5 * wander) * smoothstep(0.58, 0.67, np.abs(x)) * 0.006
        thigh = _ridge(y / 0.11 + 0.4 * np.abs(x) / 0.05 + 2.0 * wander) * bump(y, -0.55, 0.2) * 0.005
        return ((hang + stack + cuff + thigh) * (0.35 + 0.65 * fray)).astype(np.float32)

    def height(self, pose: Float[Array, "72"]) -> tuple[Int[Array, "K"], Float[Array, "K"]]:
        """Which vertices to move along their normal, and by how much."""
        height = self._still.copy()
        rotations = pose.reshape(24, 3).astype(np.float32)
        for joint, near, shortening, axis, bend, twist in self._terms:
            r = rotations[joint]
            excess = np.clip(shortening @ r, 0, 0.6)
            height[near] += 0.85 * bend * np.sqrt(excess) + 0.8 * twist * np.sqrt(min(abs(float(axis @ r)) * 0.35, 0.5))
        return self.index, self.strength * np.minimum(height, 0.018)


def _ridge(phase: Array) -> Array:
    """Folds of unit height: round tops, narrow valleys."""
    return np.abs(np.cos(np.pi * phase)) ** 0.8


def _across(axis: Array) -> tuple[Array, Array]:
    side = np.cross(axis, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    return side, np.cross(side, axis)


def _descendants(joint: int) -> list[int]:
    found = {joint}
    for child, parent in enumerate(_PARENTS):
        if parent in found:
            found.add(child)
    return sorted(found)
