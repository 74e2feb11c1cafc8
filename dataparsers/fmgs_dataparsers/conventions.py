"""The conventions that layouts disagree on, turned into one: a pose, and where the pelvis is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from fmgs_dataparsers.files import CaptureError, array
from fmgs_dataparsers.plausible import check_body
from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel, find_body_model

PixelCentres = Literal["whole", "half"]
"""Where a calibration has the centre of the first pixel: whole, (0, 0), as OpenCV; half, (0.5, 0.5), as we."""
N_BETAS = 10
"""Shape coefficients that trackers estimate."""


@dataclass(frozen=True, eq=False)
class Fit:
    """SMPL at one time. The pelvis says where: unlike `transl` it means the same whatever the shape."""

    pose: Float[Array, "72"]
    """Axis-angle in radians, global orientation first."""
    pelvis: Float[Array, "3"]
    """Root joint, metres."""
    betas: Float[Array, "S"]


class BodyFile:
    """A body model file, and the joints of its shaped T-pose in double precision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.model = BodyModel.load(path)
        except ValueError as error:
            raise CaptureError(str(error)) from error
        regressor = self.model.J_regressor.double()
        self._joints = (regressor @ self.model.v_template.double()).numpy()
        self._directions = torch.einsum("jv,vcs->jcs", regressor, self.model.shapedirs.double()).numpy()

    @staticmethod
    def find(gender: str, places: Sequence[Path | None]) -> BodyFile:
        """The model for `gender` in `places`.

        Raises:
            FileNotFoundError: there is none; says where to get it.
            CaptureError: the file is broken.
        """
        return BodyFile(find_body_model(gender, places))

    def joints(self, betas: Float[Array, "S"]) -> Float[Array, "24 3"]:
        """J(beta), metres. More betas than the model knows are left out."""
        n = min(len(betas), self._directions.shape[-1])
        return self._joints + self._directions[..., :n] @ betas[:n]

    def betas(self, joints: Float[Array, "J 3"], ridge: float = 0.0) -> Float[Array, "10"]:
        """The shape whose first J joints lie, from the pelvis, where `joints` do; least squares.

        `ridge` in metres per unit of beta keeps the shape near the mean where the joints are another model's.
        """
        n = len(joints)
        away = (self._directions[1:n, :, :N_BETAS] - self._directions[:1, :, :N_BETAS]).reshape(3 * (n - 1), -1)
        target = (joints[1:] - joints[0]) - (self._joints[1:n] - self._joints[0])
        pull = ridge * np.eye(away.shape[1])
        return np.linalg.lstsq(np.vstack([away, pull]), np.r_[target.ravel(), np.zeros(len(pull))], rcond=None)[0]

    def fit(self, source: Path, pose: Array, transl: Array, betas: Array) -> Fit:
        """From smplx's sense: the root turns about the pelvis J0, and `transl` comes on top."""
        transl, betas = array(source, "translation", transl, 3), array(source, "betas", betas, -1)
        check_body(source, place=transl, betas=betas)
        return checked(source, pose, transl + self.joints(betas)[0], betas)

    def fit_easymocap(self, source: Path, poses: Array, Rh: Array, Th: Array, betas: Array) -> Fit:
        """From EasyMocap's sense: V = R(Rh) X + Th, about the origin; X has no root turn (its doc/02_output.md)."""
        Rh, Th = array(source, "Rh", Rh, 3), array(source, "Th", Th, 3)
        poses, betas = array(source, "poses", poses, -1), array(source, "shapes", betas, -1)
        if len(poses) not in (69, 72):
            raise CaptureError(f"{source}: expected poses [72] or [69]; found {len(poses)} numbers")
        check_body(source, Rh, Th, betas)
        return checked(source, np.r_[Rh, poses[-69:]], easymocap_pelvis(Rh, Th, self.joints(betas)[0]), betas)


def checked(source: Path, pose: Array, pelvis: Array, betas: Array) -> Fit:
    """A fit of finite values and the right sizes.

    Raises:
        CaptureError: names `source`; an ImpossibleError where no body has these values.
    """
    pose, pelvis = array(source, "pose", pose, 72), array(source, "translation", pelvis, 3)
    betas = array(source, "betas", betas, -1)
    check_body(source, pose, pelvis, betas)
    return Fit(pose, pelvis, betas)


def easymocap_pelvis(Rh: Float[Array, "3"], Th: Float[Array, "3"], joint: Float[Array, "3"]) -> Float[Array, "3"]:
    """The pelvis of V = R(Rh) X + Th. In smplx's sense transl = pelvis - J0 = Th + R J0 - J0."""
    return Th + Rotation.from_rotvec(Rh).apply(joint)


def seen_from(fit: Fit, world_to_camera: Float[Array, "4 4"], units_per_metre: float = 1.0) -> Fit:
    """The fit in the camera's axes, in metres: a camera that moves becomes one that rests at the origin.

    `fit` is metric but for its pelvis, which is in the world's units, as is `world_to_camera`.
    """
    turn = Rotation.from_matrix(world_to_camera[:3, :3])
    root = (turn * Rotation.from_rotvec(fit.pose[:3])).as_rotvec()
    pelvis = (turn.apply(fit.pelvis) + world_to_camera[:3, 3]) / units_per_metre
    return Fit(np.r_[root, fit.pose[3:]], pelvis, fit.betas)


def upward(poses: Float[Array, "P 72"]) -> tuple[float, float, float]:
    """The mean direction from feet to head: up, where the capture does not say."""
    mean = Rotation.from_rotvec(poses[:, :3]).apply([0.0, 1.0, 0.0]).mean(0)
    x, y, z = (float(value) for value in mean / np.linalg.norm(mean))
    return x, y, z


def axis_angle(matrices: Array) -> Float[Array, "N"]:
    """Rotation matrices [..., 3, 3] as axis-angles in a row."""
    return Rotation.from_matrix(np.array(matrices, np.float64).reshape(-1, 3, 3)).as_rotvec().ravel()


def rotation(matrix: Array) -> Float[Array, "3 3"]:
    """The rotation nearest to a matrix that was stored in low precision; one that is no rotation stays what it is."""
    given = np.asarray(matrix, np.float64).reshape(3, 3)
    u, _, vt = np.linalg.svd(given)
    nearest = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return nearest if np.abs(nearest - given).max() < 0.05 else given


def world_to_camera(R: Array, T: Array) -> Float[Array, "4 4"]:
    """OpenCV's R and T (metres) as one matrix."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(R), np.asarray(T, np.float64).ravel()
    return matrix


def our_intrinsics(K: Float[Array, "3 3"], pixel_centres: PixelCentres) -> Float[Array, "3 3"]:
    """Of a file's K, whose pixel centres are as `pixel_centres` says, ours, whose are at + 0.5."""
    K = np.array(K, np.float64)
    K[:2, 2] += {"whole": 0.5, "half": 0.0}[pixel_centres]
    return K


def centred_intrinsics(focal: float, width: int, height: int) -> Float[Array, "3 3"]:
    """A pinhole camera that looks at the middle of the image, where pixel centres are at + 0.5."""
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float64)
