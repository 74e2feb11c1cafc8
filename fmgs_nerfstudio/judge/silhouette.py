"""The capture's SMPL body as its cameras see it: silhouettes, small and fast."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.view import PosedBody

_INSIDE = 0.7  # share of the image; no camera that shows a person shows so much of them


class View(NamedTuple):
    """One frame, its camera and its fit: what a convention may have got wrong."""

    pose_id: int
    """Row of the capture's poses."""
    transl: Float[Array, "3"]
    """Metres, in smplx's sense."""
    K: Float[Array, "3 3"]
    """Pixels of `mask`; the centre of the first at (0.5, 0.5)."""
    world_to_camera: Float[Array, "4 4"]
    """OpenCV axes, metres."""
    mask: Bool[Array, "H W"]


class Fits(NamedTuple):
    """All poses of a capture."""

    transl: Float[Array, "P 3"]
    """Metres, as read."""
    lever: Float[Array, "P 3"]
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
        self._body = PosedBody(BodyModel.load(capture.body_model), capture.betas, capture.poses)
        pelvis = self._body.pelvis
        self.fits = Fits(capture.transl, Rotation.from_rotvec(capture.poses[:, :3]).apply(pelvis) - pelvis)

    def draw(self, view: View) -> Bool[Array, "H W"]:
        """Pixels of `view.mask` whose centre the body covers."""
        height, width = view.mask.shape
        return self._body.view(view.pose_id, view.transl, view.K, view.world_to_camera, width, height).silhouette

    def overlap(self, view: View) -> float:
        """`overlap` of the drawn body and the mask."""
        return overlap(self.draw(view), view.mask)


def overlap(body: Bool[Array, "H W"], mask: Bool[Array, "H W"]) -> float:
    """Intersection over union; 0 where both are empty, or the camera is inside the body."""
    if body.mean() > _INSIDE:
        return 0.0
    return float((body & mask).sum() / max((body | mask).sum(), 1))
