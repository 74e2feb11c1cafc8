"""What a fit of a clip looks for, in the camera's axes (OpenCV, metres), and the step from one guess to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.track.chain import Posed, Skeleton, exponential

_LARGEST_TURN = 0.5  # radians that a joint may turn in one step


class Shared(IntEnum):
    """Unknowns that all frames share, from the end; the shape is before them."""

    FOCAL = -6
    """Logarithm of the focal length in pixels."""
    SCALE = -5
    """Logarithm of the lifted points' size."""
    LEAN = -4
    """By which lifted points and rotations must turn about the camera's horizontal axis, radians."""
    PITCH = -3
    """Of the camera, downward, radians."""
    ROLL = -2
    """Of the camera, clockwise, radians."""
    HEIGHT = -1
    """Of the camera above the ground, metres."""


@dataclass(frozen=True, eq=False)
class State:
    """A guess."""

    skeleton: Skeleton
    local: Float[Array, "F 24 3 3"]
    """Rotations against the parent; the root's in the camera."""
    pelvis: Float[Array, "F 3"]
    shared: Float[Array, "G"]
    """Shape, then `Shared`."""
    middle: Float[Array, "2"]
    """Where the camera's axis meets the image, pixels."""

    @property
    def betas(self) -> Float[Array, "S"]:
        return self.shared[: self.shapes]

    @property
    def shapes(self) -> int:
        """How many."""
        return self.skeleton.shaped.shape[-1]

    @property
    def focal(self) -> float:
        """Pixels."""
        return float(np.exp(self.shared[Shared.FOCAL]))

    @property
    def K(self) -> Float[Array, "3 3"]:
        K = np.diag([self.focal, self.focal, 1.0])
        K[:2, 2] = self.middle
        return K

    @property
    def up(self) -> Float[Array, "3"]:
        """The world's, in the camera."""
        return up_of(self.shared)[0]

    def posed(self, frames: slice = slice(None)) -> Posed:
        """Some of the frames."""
        return Posed.of(self.skeleton, self.betas, self.local[frames], self.pelvis[frames])

    def moved(self, own: Float[Array, "F 75"], shared: Float[Array, "G"]) -> State:
        """After a step, shortened where a joint would turn too far for its derivative to hold."""
        turns = own[:, : 3 * N_JOINTS].reshape(-1, N_JOINTS, 3)
        angle = np.linalg.norm(turns, axis=-1, keepdims=True)
        turns = turns * np.minimum(1, _LARGEST_TURN / np.maximum(angle, 1e-9))
        local = self.local @ exponential(turns)
        return replace(self, local=local, pelvis=self.pelvis + own[:, -3:], shared=self.shared + shared)


def up_of(shared: Float[Array, "G"]) -> tuple[Float[Array, "3"], Float[Array, "3 2"]]:
    """The world's up in the camera, and its derivative by pitch and roll."""
    pitch, roll = shared[Shared.PITCH], shared[Shared.ROLL]
    c, s, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return np.array([sr * c, -cr * c, -s]), np.array([[-sr * s, cr * c], [cr * s, sr * c], [-c, 0.0]])
