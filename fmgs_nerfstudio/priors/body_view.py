"""The capture's own SMPL fit seen by its cameras: what prior maps are compared with."""

from __future__ import annotations

from fmgs_dataparsers.capture import Capture, Frame

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.view import MeshView, PosedBody


class BodyView:
    """Draws the naked body of a capture into its images (at working size)."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._body = PosedBody(BodyModel.load(capture.body_model), capture.betas, capture.poses)

    def draw(self, frame: Frame) -> MeshView:
        """The body in the frame's pose before its camera."""
        capture = self._capture
        K, width, height = capture.intrinsics(frame.camera)
        to_camera = capture.cameras[frame.camera].world_to_camera
        return self._body.view(frame.pose_id, capture.transl[frame.pose_id], K, to_camera, width, height)
