"""What passes between the parts of tracking: what the networks saw, and the bodies that were fitted to it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fmgs_dataparsers.capture import Uncertainty
from jaxtyping import Float, Int

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.files import atomic_path

N_LANDMARKS = 33
"""BlazePose's: face 0-10, arms and hands 11-22, hips to feet 23-32; left before right."""


@dataclass(frozen=True, eq=False)
class Sightings:
    """One person in F frames, as the networks see them; frames that cannot be used are not among them."""

    index: Int[Array, "F"]
    """Number of the frame in the video."""
    time: Float[Array, "F"]
    """Seconds since the video's start, as its time stamps say."""
    landmarks: Float[Array, "F 33 2"]
    """Pixels of the frames as they are written; the centre of the first pixel is at (0.5, 0.5)."""
    depth: Float[Array, "F 33"]
    """Along the camera's axis, relative to the middle of the hips, in pixels at their distance; larger is farther."""
    world: Float[Array, "F 33 3"]
    """Metres from the middle of the hips, in camera axes (x right, y down, z forward)."""
    score: Float[Array, "F 33"]
    """How surely a landmark is seen, 0..1."""
    size: tuple[int, int]
    """Width and height of the frames, pixels."""

    def write(self, path: Path) -> None:
        """As a .npz file, whole or not at all."""
        content = io.BytesIO()  # numpy tells of a full disk without a cause
        np.savez(content, **vars(self))
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    @staticmethod
    def read(path: Path) -> Sightings:
        """What `write` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        width, height = arrays.pop("size").tolist()
        return Sightings(**arrays, size=(width, height))


@dataclass(frozen=True, eq=False)
class Fits:
    """Bodies and camera of a clip, in a world whose y points up and whose ground is y = 0 (metres, radians)."""

    betas: Float[Array, "S"]
    """One shape."""
    pose: Float[Array, "F 72"]
    """Axis-angle, the root first, in the world."""
    transl: Float[Array, "F 3"]
    """Added after the root has turned about the pelvis, as smplx does."""
    K: Float[Array, "3 3"]
    """Pixels; the centre of the first pixel is at (0.5, 0.5)."""
    world_to_camera: Float[Array, "4 4"]
    """OpenCV axes, metres; the camera is at rest."""
    uncertainty: Uncertainty
    """How far the fits may be off."""
