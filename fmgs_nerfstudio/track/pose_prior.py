"""What joints of people do, from anatomy alone: a Gaussian for each, and limits of hinges.

Rotation vectors against the parent, in SMPL's T-pose: x to the person's left, y up, z to the front. A limb swings
forward by a negative turn about x, a knee bends by a positive one; an arm comes down by a turn about z and an elbow
bends by one about y, both negative at the left and positive at the right.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import JOINT_NAMES

# Middle and standard deviation about x, y, z in radians, of joints in the middle and at the left.
_USUAL = {
    "hip": ((-0.25, 0.0, 0.08), (0.55, 0.30, 0.22)),
    "knee": ((0.40, 0.0, 0.0), (0.60, 0.06, 0.06)),
    "ankle": ((0.0, 0.0, 0.0), (0.30, 0.15, 0.12)),
    "foot": ((0.0, 0.0, 0.0), (0.10, 0.03, 0.03)),
    "spine1": ((0.04, 0.0, 0.0), (0.16, 0.12, 0.09)),
    "spine2": ((0.04, 0.0, 0.0), (0.12, 0.12, 0.09)),
    "spine3": ((0.02, 0.0, 0.0), (0.10, 0.12, 0.08)),
    "neck": ((0.05, 0.0, 0.0), (0.20, 0.25, 0.15)),
    "head": ((0.0, 0.0, 0.0), (0.18, 0.25, 0.12)),
    "collar": ((0.0, 0.0, 0.0), (0.07, 0.10, 0.14)),
    "shoulder": ((0.0, -0.15, -0.80), (0.50, 0.60, 0.60)),
    "elbow": ((0.0, -0.60, 0.0), (0.15, 0.60, 0.10)),
    "wrist": ((0.0, 0.0, 0.0), (0.25, 0.20, 0.25)),
    "hand": ((0.0, 0.0, 0.0), (0.05, 0.05, 0.05)),
}
# Least and largest angle about the hinge's axis, at the left.
_HINGES = {"knee": (0, 0.0, 2.6), "elbow": (1, -2.6, 0.0)}
_BEYOND = 0.05
"""Radians past a limit that count as one standard deviation."""
_MIRROR = np.array([1.0, -1.0, -1.0])


def _sided(name: str) -> tuple[str, bool]:
    return name.removeprefix("left_").removeprefix("right_"), name.startswith("right_")


def usual_pose() -> tuple[Float[Array, "24 3"], Float[Array, "24 3"]]:
    """Middle and standard deviation of each joint's rotation vector; the root may be anything."""
    middle, deviation = np.zeros((24, 3)), np.full((24, 3), np.inf)
    for joint, name in enumerate(JOINT_NAMES[1:], 1):
        kind, right = _sided(name)
        usual, spread = _USUAL[kind]
        middle[joint] = np.array(usual) * (_MIRROR if right else 1)
        deviation[joint] = spread
    return middle, deviation


def beyond_limits(vectors: Float[Array, "F 24 3"]) -> tuple[Float[Array, "F 24 3"], Float[Array, "F 24 3"]]:
    """How far hinges are bent past their limits, in standard deviations; and its derivative by the angle."""
    past, slope = np.zeros_like(vectors), np.zeros_like(vectors)
    for joint, name in enumerate(JOINT_NAMES):
        kind, right = _sided(name)
        if kind not in _HINGES:
            continue
        axis, low, high = _HINGES[kind]
        if right and _MIRROR[axis] < 0:
            low, high = -high, -low
        angle = vectors[:, joint, axis]
        past[:, joint, axis] = (np.minimum(angle - low, 0) + np.maximum(angle - high, 0)) / _BEYOND
        slope[:, joint, axis] = ((angle < low) | (angle > high)) / _BEYOND
    return past, slope
