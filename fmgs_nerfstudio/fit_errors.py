"""How far a capture's fits may be off, as directions in which training corrects them, one standard deviation long."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Uncertainty
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.pose_table import ExpectedErrors

PoseSigma = Literal["stated", "none"] | tuple[float, float, float, float, float, float]


def sigma_of(option: PoseSigma, capture: Capture) -> Uncertainty | None:
    """What the option `pose_sigma` says of a capture's fits."""
    if isinstance(option, str):
        return capture.uncertainty if option == "stated" else None
    rotation, right, down, forward, lean, distance = option
    return Uncertainty(rotation, (right, down, forward), lean, distance, 0.0)


def settled_sigma(option: PoseSigma, capture: Capture) -> PoseSigma:
    """The option as numbers, or none: what a run's configuration keeps, whatever capture lies beside it later."""
    sigma = sigma_of(option, capture)
    return (sigma.rotation, *sigma.position, sigma.lean, sigma.distance) if sigma else "none"


def expected_errors(capture: Capture, sigma: Uncertainty, pelvis: Float[Tensor, "3"]) -> ExpectedErrors:
    """Directions at every pose that a training camera filmed; at others none, for they are of another source.

    A fit that looks right is off along the ray from the camera to the pelvis, where a step hardly moves the picture;
    not along the camera's axis. `pelvis`: the root joint of the shaped T-pose, metres.
    """
    count = len(capture.poses)
    position, distance, lean = np.zeros((count, 3, 3)), np.zeros((count, 3)), np.zeros((count, 3))
    cameras = {frame.camera for frame in capture.splits["train"]}
    for frame in (frame for split in capture.splits.values() for frame in split if frame.camera in cameras):
        row, view = frame.pose_id, capture.cameras[frame.camera].world_to_camera.astype(float)
        right, down, _ = view[:3, :3]
        ray = capture.transl[row] + pelvis.numpy().astype(float) + view[:3, :3].T @ view[:3, 3]
        ray /= np.linalg.norm(ray)
        position[row] = np.stack([right, down, ray], axis=1) * sigma.position
        distance[row] = ray * sigma.distance
        lean[row] = inverse_left_jacobian(capture.poses[row, :3].astype(float)) @ right * sigma.lean
    return ExpectedErrors(sigma.rotation, *(torch.from_numpy(each).float() for each in (position, distance, lean)))


def inverse_left_jacobian(vector: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """What a small rotation adds to a rotation vector (radians) that it is applied after: exp(J e) exp(r) is
    exp(r + e) to first order. (Sola et al., A micro Lie theory, eq. 146.)"""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-6:
        return np.eye(3)
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) - cross / 2 + (1 - angle / 2 / np.tan(angle / 2)) / angle**2 * cross @ cross
