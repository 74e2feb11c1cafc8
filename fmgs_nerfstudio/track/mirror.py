"""The mirrored image: left is right in it. The camera's axis meets the middle of the image in both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.records import N_LANDMARKS, Sightings

OTHER_SIDE = [0, 4, 5, 6, 1, 2, 3, *(i + 1 if i % 2 else i - 1 for i in range(7, N_LANDMARKS))]
_JOINTS = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
_ACROSS = np.array([-1.0, 1.0, 1.0])


def mirrored(seen: Sightings) -> Sightings:
    """What the networks would see in the mirrored frames."""
    return replace(
        seen,
        landmarks=seen.landmarks[:, OTHER_SIDE] * [-1, 1] + [seen.size[0], 0],
        depth=seen.depth[:, OTHER_SIDE],
        world=mirrored_landmarks(seen.world),
        score=seen.score[:, OTHER_SIDE],
    )


def mirrored_landmarks(points: Float[Array, "F 33 3"]) -> Float[Array, "F 33 3"]:
    """Landmarks in the camera's axes."""
    return points[:, OTHER_SIDE] * _ACROSS


def mirrored_joints(points: Float[Array, "F 24 3"]) -> Float[Array, "F 24 3"]:
    """SMPL's joints in the camera's axes."""
    return points[:, _JOINTS] * _ACROSS


def mirrored_rotations(turned: Float[Array, "F 24 3 3"]) -> Float[Array, "F 24 3 3"]:
    """Of SMPL's joints in the camera."""
    return turned[:, _JOINTS] * _ACROSS[:, None] * _ACROSS
