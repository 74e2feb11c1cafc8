"""What no camera, no body and no list of files can hold: refused by name when a capture is read.

A number that is not finite is how trackers say that they saw nobody, and leaves a frame out. A finite one that cannot
be is a wrong unit or a damaged file, and then its neighbours that could be are not to be trusted either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fmgs_dataparsers.files import CaptureError
from fmgs_nerfstudio.arrays import Array

_TURN = 4 * np.pi  # radians; a rotation vector needs pi, a fit that winds up a bit more
_SHAPE = 20.0  # standard deviations of SMPL's shapes
_FAR = 1e4  # metres; float32 tells millimetres up to here
_FOCAL = (0.05, 1000.0)  # of the image's longer side: fields of view of 169 and of 0.06 degrees
_OFF_AXIS = np.tan(np.radians(75))
_PIXELS_AWAY = 100.0  # principal point from the middle, in longer sides
_SKEW = 0.5  # pixels over half the height; cameras here have none
_ORTHONORMAL = 0.02  # files of low precision


class ImpossibleError(CaptureError):
    """A value that nothing can have; unlike a fit that is missing, it refuses the whole capture."""


def names_of(names: Sequence[str], most: int = 6) -> str:
    """The first few, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_body(
    source: Path,
    pose: Float[Array, "N"] | None = None,
    place: Float[Array, "3"] | None = None,
    betas: Float[Array, "S"] | None = None,
) -> None:
    """Rotation vectors in radians, a place in metres, shape coefficients: those that are given.

    Raises:
        ImpossibleError: no body has them.
    """
    if pose is not None and (turn := np.linalg.norm(pose.reshape(-1, 3), axis=-1).max()) > _TURN:
        raise ImpossibleError(f"{source}: a joint turns by {turn:.4g} rad; a pose is in radians, 4 pi at the most")
    if place is not None and (away := np.abs(place).max()) > _FAR:
        raise ImpossibleError(f"{source}: the person is {away:.4g} m from the origin; expected metres, below 10 km")
    if betas is not None and (beta := np.abs(betas).max()) > _SHAPE:
        raise ImpossibleError(f"{source}: betas reach {beta:.4g}; no body is beyond {_SHAPE:g} standard deviations")


def camera_fault(K: Float[Array, "3 3"], world_to_camera: Float[Array, "4 4"], size: tuple[int, int]) -> str | None:
    """What of this no camera with images of this width and height can have, or None."""
    focal, middle, side = K[[0, 1], [0, 1]], np.array(size) / 2, max(size)
    away = np.abs(K[:2, 2] - middle)
    if not (focal > 0).all():
        return f"its focal length is {focal[0]:.4g}, {focal[1]:.4g} pixels; expected two positive numbers"
    if not _FOCAL[0] * side <= focal.min() <= focal.max() <= _FOCAL[1] * side:
        return f"its focal length is {focal[0]:.4g}, {focal[1]:.4g} pixels, which no lens has at {size[0]} x {size[1]}"
    if (away > _OFF_AXIS * focal).any() or away.max() > _PIXELS_AWAY * side:
        return (
            f"its principal point is at {K[0, 2]:.4g}, {K[1, 2]:.4g} pixels, which no lens has at "
            f"{size[0]} x {size[1]} with a focal length of {focal[0]:.4g}"
        )
    if K[1, 0] or K[2, 0] or K[2, 1] or abs(K[2, 2] - 1) > 1e-6 or abs(K[0, 1] * middle[1] / focal[1]) > _SKEW:
        return f"its K is {K.round(4).tolist()}; expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
    return place_fault(world_to_camera)


def place_fault(world_to_camera: Float[Array, "4 4"]) -> str | None:
    """Why these extrinsics (metres, or a scene's own unit) are no camera's, or None."""
    R, away = world_to_camera[:3, :3], np.abs(world_to_camera[:3, 3]).max()
    if np.abs(R @ R.T - np.eye(3)).max() > _ORTHONORMAL or np.linalg.det(R) < 0:
        return f"its R is no rotation: {R.round(4).tolist()}"
    if np.abs(world_to_camera[3] - [0, 0, 0, 1]).max() > 1e-6:
        return f"its extrinsics end with {world_to_camera[3].tolist()}; expected 0, 0, 0, 1"
    return f"its translation is {away:.4g} m; expected metres, below 10 km" if away > _FAR else None
