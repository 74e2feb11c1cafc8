"""The box around the posed body, as several papers' evaluations see it."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Bool

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel

_MARGIN = 0.05  # metres


class BodyBounds:
    """Where the body's box along the world's axes, grown by 5 cm, is seen: NeuralBody's and GauHuman's mask."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture

    @cached_property
    def _body(self) -> BodyModel:
        return BodyModel.load(self.capture.body_model)

    def mask(self, frame: Frame) -> Bool[Array, "H W"]:
        """The pixels of `frame` at working size that the box covers; the pose is the capture's own."""
        capture = self.capture
        pose, transl, betas = (
            torch.from_numpy(value).float()
            for value in (capture.poses[frame.pose_id], capture.transl[frame.pose_id], capture.betas)
        )
        vertices = self._body.vertices(betas, pose, transl).numpy()
        low, high = vertices.min(0) - _MARGIN, vertices.max(0) + _MARGIN
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, 3)
        K, width, height = capture.intrinsics(frame.camera)
        viewmat = capture.cameras[frame.camera].world_to_camera
        seen = (corners @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
        pixels = np.round(seen[:, :2] / seen[:, 2:] - 0.5).astype(np.int32)
        mask = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(pixels), (1,))
        return mask.astype(bool)
