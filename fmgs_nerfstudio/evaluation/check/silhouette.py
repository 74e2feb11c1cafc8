"""The capture's SMPL body as its cameras see it: silhouettes, small and fast."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.kernels.compiled import device_function

NEAR = 0.01
"""Metres before the camera; triangles that reach nearer are not drawn."""
_INSIDE = 0.7  # share of the image; no camera that shows a person shows so much of them


class View(NamedTuple):
    """One frame, its camera and its fit: what a convention may have got wrong."""

    pose_id: int
    """Row of the capture's poses."""
    transl: Float[np.ndarray, "3"]
    """Metres, in smplx's sense."""
    K: Float[np.ndarray, "3 3"]
    """Pixels of `mask`; the centre of the first at (0.5, 0.5)."""
    world_to_camera: Float[np.ndarray, "4 4"]
    """OpenCV axes, metres."""
    mask: Bool[np.ndarray, "H W"]


class Fits(NamedTuple):
    """All instants of a capture."""

    transl: Float[np.ndarray, "P 3"]
    """Metres, as read."""
    lever: Float[np.ndarray, "P 3"]
    """R J_0 - J_0, metres: what a turn about the origin moves the pelvis by, against a turn about the pelvis."""


def view_of(capture: Capture, frame: Frame, size: int) -> View:
    """A frame as it was read, its mask reduced to `size` pixels on the longer side.

    Raises:
        CaptureError: the mask cannot be read.
    """
    K, width, height = capture.intrinsics(frame.camera)
    reduced = min(1.0, size / max(width, height))
    small = (max(1, round(width * reduced)), max(1, round(height * reduced)))
    mask = cv2.resize(capture.mask(frame), small, interpolation=cv2.INTER_AREA) > 0.5
    K = np.diag([small[0] / width, small[1] / height, 1.0]) @ K
    to_camera = capture.cameras[frame.camera].world_to_camera
    return View(frame.pose_id, capture.transl[frame.pose_id], K, to_camera, mask)


class Silhouettes:
    """Draws the naked body of a capture, whose poses are `fits`."""

    def __init__(self, capture: Capture) -> None:
        self._body = BodyModel.load(capture.body_model)
        self._betas = torch.from_numpy(capture.betas).float()
        self._poses = torch.from_numpy(capture.poses).float()
        self._faces = self._body.faces.numpy()
        pelvis = self._body.shape(self._betas)[1][0].double().numpy()
        self.fits = Fits(capture.transl, Rotation.from_rotvec(capture.poses[:, :3]).apply(pelvis) - pelvis)
        self._posed = lru_cache(maxsize=4)(self._at_the_origin)  # a frame's pose and its neighbours'

    def draw(self, view: View) -> Bool[np.ndarray, "H W"]:
        """Pixels of `view.mask` whose centre the body covers."""
        points = self._posed(view.pose_id) + view.transl
        points = points @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
        z = points[:, 2:]
        pixels = points @ view.K[:2].T / np.where(z > NEAR, z, 1)
        covered = np.zeros(view.mask.shape, bool)
        _fill(np.hstack([pixels, z]), self._faces, covered)
        return covered

    def overlap(self, view: View) -> float:
        """Intersection over union of body and mask; 0 where both are empty, or the camera is inside the body."""
        body = self.draw(view)
        if body.mean() > _INSIDE:
            return 0.0
        return float((body & view.mask).sum() / max((body | view.mask).sum(), 1))

    def _at_the_origin(self, pose: int) -> Float[np.ndarray, "V 3"]:
        return self._body.vertices(self._betas, self._poses[pose], torch.zeros(3)).double().numpy()


@device_function  # a millisecond: threads would cost more than they bring
def _fill(points, faces, covered):
    """The union of triangles. `points` [V, 3]: column, row, z."""
    height, width = covered.shape
    for f in range(len(faces)):
        ax, ay, az = points[faces[f, 0]]
        bx, by, bz = points[faces[f, 1]]
        cx, cy, cz = points[faces[f, 2]]
        turn = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if min(az, bz, cz) <= NEAR or turn == 0:
            continue
        x0, x1 = max(np.ceil(min(ax, bx, cx) - 0.5), 0.0), min(np.floor(max(ax, bx, cx) - 0.5), width - 1.0)
        y0, y1 = max(np.ceil(min(ay, by, cy) - 0.5), 0.0), min(np.floor(max(ay, by, cy) - 0.5), height - 1.0)
        for row in range(int(y0), int(y1) + 1):
            for column in range(int(x0), int(x1) + 1):
                x, y = column + 0.5, row + 0.5
                a = ((cx - bx) * (y - by) - (cy - by) * (x - bx)) * turn
                b = ((ax - cx) * (y - cy) - (ay - cy) * (x - cx)) * turn
                c = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) * turn
                if a >= 0 and b >= 0 and c >= 0:
                    covered[row, column] = True
