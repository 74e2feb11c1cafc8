"""Cameras that watch a motion: the capture's own, one that follows, one that goes around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.motion.motion import Vector
from fmgs_nerfstudio.rendering import Camera

CameraName = Literal["fixed", "follow", "orbit"]
_REACH = np.full(N_JOINTS, 0.13)  # metres of body and cloth beyond a joint,
_REACH[15] = 0.3  # and of head and hair
_FILL = 0.96  # of the image
_NEAREST = 0.3  # metres; a joint nearer to the camera's plane does not decide what the image shows
_STEADY = 0.4  # seconds over which a camera smooths the path of the person it follows


def capture_camera(capture: Capture, size: int | None) -> Camera:
    """The first training camera; its longer side reduced or enlarged to `size` pixels."""
    name = capture.splits["train"][0].camera
    K, width, height = capture.intrinsics(name)
    scale = 1.0 if size is None else size / max(width, height)
    viewmat = torch.from_numpy(capture.cameras[name].world_to_camera).float()
    scaled = torch.from_numpy(np.diag([scale, scale, 1.0]) @ K).float()
    return Camera(viewmat, scaled, round(width * scale), round(height * scale))


def watch(
    kind: CameraName,
    capture: Camera,
    joints: Float[Array, "T 24 3"],
    up: Vector,
    fps: float,
    seconds_per_turn: float = 8.0,
    zoom: float | None = None,
) -> list[Camera]:
    """One camera per pose.

    fixed: `capture` itself; follow: as far from the person as `capture` was from the first pose, on the same side;
    orbit: the same, going around. `zoom` times `capture`'s focal length; none: so that the whole motion is in the
    image, for a fixed camera never closer than `capture`.
    """
    if kind == "fixed":
        views = [capture.viewmat.numpy().astype(float)] * len(joints)
        centre = capture.K[0, 2].item(), capture.K[1, 2].item()
    else:
        views = _moving(capture.viewmat.numpy().astype(float), joints, up, fps, seconds_per_turn, kind == "orbit")
        centre = capture.width / 2, capture.height / 2
    K = capture.K.numpy().astype(float)
    K[:2, 2] = centre
    if zoom is None:
        zoom = whole_person_zoom(views, K, capture.width, capture.height, joints)
        zoom = min(zoom, 1.0) if kind == "fixed" else zoom
    K[0, 0], K[1, 1] = K[0, 0] * zoom, K[1, 1] * zoom
    intrinsics = torch.from_numpy(K).float()
    return [Camera(torch.from_numpy(view).float(), intrinsics, capture.width, capture.height) for view in views]


def _moving(
    capture: Float[Array, "4 4"],
    joints: Float[Array, "T 24 3"],
    up: Vector,
    fps: float,
    seconds_per_turn: float,
    around: bool,
) -> list[Float[Array, "4 4"]]:
    heights = joints @ up
    middle = np.median((heights.max(1) + heights.min(1)) / 2 - heights[:, 0])
    targets = gaussian_filter1d(joints[:, 0] + middle * up, _STEADY * fps, axis=0, mode="nearest")
    offset = -capture[:3, :3].T @ capture[:3, 3] - targets[0]
    seconds = np.arange(len(joints)) / fps
    turns = Rotation.from_rotvec(np.outer(2 * np.pi * seconds / seconds_per_turn * around, up))
    return [look_at(target + arm, target, up) for target, arm in zip(targets, turns.apply(offset), strict=True)]


def look_at(eye: Vector, target: Vector, up: Vector) -> Float[Array, "4 4"]:
    """World to camera in OpenCV's axes; `up` shows upwards in the image."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    view = np.eye(4)
    view[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    view[:3, 3] = -view[:3, :3] @ eye
    return view


def whole_person_zoom(
    views: Sequence[Float[Array, "4 4"]],
    K: Float[Array, "3 3"],
    width: int,
    height: int,
    joints: Float[Array, "T 24 3"],
) -> float:
    """The largest factor of the focal length with every joint of every pose, and what is around it, in the image."""
    view = np.stack(views)
    x, y, z = np.einsum("tij,tkj->itk", view[:, :3, :3], joints) + view[:, :3, 3].T[..., None]
    seen = z > _NEAREST
    reach = np.broadcast_to(_REACH, z.shape)[seen]
    cx, cy = K[0, 2], K[1, 2]
    limits = [
        _FILL * space * z[seen] / (focal * np.maximum(sign * axis[seen] + reach, 1e-6))
        for axis, focal, spaces in ((x, K[0, 0], (cx, width - cx)), (y, K[1, 1], (cy, height - cy)))
        for sign, space in zip((-1, 1), spaces, strict=True)
    ]
    return float(min((limit.min() for limit in limits), default=1.0)) if seen.any() else 1.0
