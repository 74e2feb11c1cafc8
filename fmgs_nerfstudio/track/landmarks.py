"""What BlazePose's landmarks say of a body in SMPL's schema: where they lie on it, and how far they err.

`calibration.npz` was measured on people of `fmgs-demo` by `scripts/calibrate_tracking`: offsets from SMPL's joints, a
small perceptron that corrects the landmarks in space and gives the joints' rotations, and the deviations that remain.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from fmgs_dataparsers.conventions import centred_intrinsics
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.track.chain import Marks, nearest_rotation
from fmgs_nerfstudio.track.mirror import mirrored, mirrored_landmarks, mirrored_rotations
from fmgs_nerfstudio.track.records import N_LANDMARKS, Sightings

CALIBRATION = Path(__file__).parent / "calibration.npz"
HIPS = (23, 24)
FEET = (29, 30, 31, 32)
"""Heels and tips of the toes."""
# Joints that landmarks hang on, and those whose rotation turns the offset: a shoulder does not turn with the arm.
_JOINTS = np.array([*[15] * 11, 16, 17, 18, 19, 20, 21, *[22, 23] * 3, 1, 2, 4, 5, 7, 8, 7, 8, 10, 11])
_AXES = np.array([*[15] * 11, 9, 9, 16, 17, 18, 19, *[20, 21] * 3, 0, 0, 1, 2, 4, 5, 7, 8, 7, 8])


@dataclass(frozen=True, eq=False)
class Lifted:
    """What the network says of space, corrected; axes as the camera's, but for z, which is the ray to the hips."""

    points: Float[Array, "F 33 3"]
    """Metres from the middle of the hips."""
    turned: Float[Array, "F 24 3 3"]
    """Rotations of the joints."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Standard deviations are those of one frame."""

    offset: Float[Array, "33 3"]
    """Of landmarks from their joints in the T-pose, metres."""
    across: Float[Array, "33"]
    """Of landmarks in the image, metres at the person's distance."""
    space: Float[Array, "33 3"]
    """Of lifted points, metres."""
    turn: Float[Array, "24"]
    """Of lifted rotations about each axis, radians."""
    dressed: Float[Array, "24"]
    """How far outlines of masks are outside of the body's at the vertices that follow a joint, metres."""
    sole: float
    """How high the lowest of heels and toes are above the ground, metres."""
    scale: float
    """Of a clip's lifted points, relative to their size."""
    middle: Float[Array, "P"]
    spread: Float[Array, "P"]
    """Of what is seen, as `in_numbers` gives it."""
    layers: tuple[tuple[Float[Array, "M N"], Float[Array, "N"]], ...]
    """Weights and constants of the perceptron from what is seen to corrections of the points and to rotations."""
    size: Float[Array, "2"]
    """Constant and slope of people's sizes by those that fits without it give them; logarithms of the mean shape's."""
    errors: Float[Array, "6"]
    """Of the fits of whole clips: rotation (radians), right, down, forward (relative to the distance), lean
    (radians), distance (relative)."""

    @staticmethod
    def load(path: Path = CALIBRATION) -> Calibration:
        """The one that comes with the package."""
        with np.load(path) as file:
            values = {name: file[name].astype(float) for name in file.files}
        depth = sum(name.startswith("weights") for name in values)
        layers = tuple((values.pop(f"weights{i}"), values.pop(f"constants{i}")) for i in range(depth))
        scale, sole = float(values.pop("scale")), float(values.pop("sole"))
        return Calibration(**values, scale=scale, sole=sole, layers=layers)

    def write(self, path: Path) -> None:
        """As `load` reads it; weights in half precision."""
        values = {name: value for name, value in vars(self).items() if name not in ("layers", "marks")}
        for i, layer in enumerate(self.layers):
            values[f"weights{i}"], values[f"constants{i}"] = layer
        kinds = {name: np.float16 if name.startswith("weights") else np.float32 for name in values}
        content = io.BytesIO()
        np.savez_compressed(content, **{name: np.asarray(value, kinds[name]) for name, value in values.items()})
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    @cached_property
    def marks(self) -> Marks:
        """The landmarks on the body."""
        return Marks(_JOINTS, _AXES, self.offset)

    def lift(self, sightings: Sightings, focal: float) -> Lifted:
        """Points and rotations from what the network sees, by a camera of a focal length in pixels.

        They are the mean of what the perceptron says of the image and of the mirrored one.
        """
        points, rotations = self._say(sightings, focal)
        others, turned = self._say(mirrored(sightings), focal)
        points = (points + mirrored_landmarks(others)) / 2
        return Lifted(points, nearest_rotation((rotations + mirrored_rotations(turned)) / 2))

    def _say(self, sightings: Sightings, focal: float) -> tuple[Float[Array, "F 33 3"], Float[Array, "F 24 3 3"]]:
        world, seen = in_numbers(sightings, focal)
        frames = len(world)
        found = (seen - self.middle) / self.spread
        for i, (weights, constants) in enumerate(self.layers):
            found = (np.maximum(found, 0) if i else found) @ weights + constants
        corrections, rotations = np.split(found, [3 * N_LANDMARKS], axis=1)
        return world + corrections.reshape(frames, N_LANDMARKS, 3), rotations.reshape(frames, 24, 3, 3)


def in_numbers(sightings: Sightings, focal: float) -> tuple[Float[Array, "F 33 3"], Float[Array, "F P"]]:
    """Landmarks from the middle of the hips in metres; and all that the calibration's perceptron looks at.

    That is: those metres; where the rays to the landmarks meet the plane through the hips that faces the camera, and
    the network's depth, both in metres; how near the person is, 1/m; and the scores.
    """
    hips = list(HIPS)
    world = sightings.world - sightings.world[:, hips].mean(1, keepdims=True)
    K = centred_intrinsics(focal, *sightings.size)
    back = along_rays(sightings.landmarks[:, hips].mean(1), K).swapaxes(1, 2)
    rays = (sightings.landmarks - K[:2, 2]) / focal
    turned = np.einsum("fab,fmb->fma", back, np.concatenate([rays, np.ones((*rays.shape[:2], 1))], -1))
    flat = turned[..., :2] / turned[..., 2:]
    flat -= flat[:, hips].mean(1, keepdims=True)
    away = (flat * world[..., :2]).sum((1, 2)) / np.maximum((flat**2).sum((1, 2)), 1e-9)
    frames = len(world)
    flat, depth = flat * away[:, None, None], sightings.depth * away[:, None] / focal
    near = 1 / np.maximum(away, 0.1)[:, None]
    numbers = [world.reshape(frames, -1), flat.reshape(frames, -1), depth, near, sightings.score]
    return world, np.concatenate(numbers, 1)


def along_rays(pixels: Float[Array, "F 2"], K: Float[Array, "3 3"]) -> Float[Array, "F 3 3"]:
    """The shortest turns from the camera's axis to the rays through pixels."""
    x, y = (pixels[:, i] - K[i, 2] for i in (0, 1))
    far = np.hypot(x, y)
    axis = np.stack([-y, x, np.zeros_like(x)], -1) / np.maximum(far, 1e-12)[:, None]
    return Rotation.from_rotvec(axis * np.arctan2(far, K[0, 0])[:, None]).as_matrix()
