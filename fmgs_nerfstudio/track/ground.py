"""From the camera's axes to a world whose ground is y = 0."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.state import Shared, State


def in_the_world(state: State, sole: float) -> Float[Array, "4 4"]:
    """World to camera: y up, x to the camera's right, the origin on the ground below the middle of the clip.

    `sole`: how high the landmarks of feet are above the ground, metres.
    """
    up = state.up
    right = np.array([1.0, 0.0, 0.0])
    right -= up * (right @ up)
    right /= np.linalg.norm(right)
    axes = np.stack([right, up, np.cross(right, up)], 1)
    middle = np.median(state.pelvis, axis=0)
    out = np.eye(4)
    out[:3, :3] = axes
    out[:3, 3] = middle - up * (middle @ up + state.shared[Shared.HEIGHT] + sole)
    return out
