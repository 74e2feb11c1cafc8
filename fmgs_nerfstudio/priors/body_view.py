"""The capture's own SMPL fit seen by its cameras: what prior maps are compared with."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, Frame
from jaxtyping import Float

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.rays import Scene


class BodyView:
    """Draws the naked body of a capture into its images (at working size)."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.body = BodyModel.load(capture.body_model)
        self.betas = torch.from_numpy(capture.betas).float()
        self._posed = lru_cache(maxsize=4)(self._vertices)

    def draw(self, frame: Frame) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W 3"]]:
        """z-depth in metres and unit normals (camera space, OpenGL axes) of the body; 0 where it is not."""
        K, width, height = self.capture.intrinsics(frame.camera)
        to_camera = self.capture.cameras[frame.camera].world_to_camera
        points = self._posed(frame.pose_id) @ to_camera[:3, :3].T + to_camera[:3, 3]
        faces = self.body.faces.numpy()
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(K).T
        hits = Scene(points, faces).hits(np.zeros_like(rays), rays)
        hit = hits["primID"] >= 0
        depth = np.where(hit, hits["tfar"], 0).astype(np.float32)  # rays have z = 1
        corners = points[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        normal = np.where(hit[:, None], normals[hits["primID"]] * [1, -1, -1], 0).astype(np.float32)
        return depth.reshape(height, width), normal.reshape(height, width, 3)

    def _vertices(self, pose: int) -> Float[np.ndarray, "V 3"]:
        capture = self.capture
        transl, angles = (torch.from_numpy(rows[pose]).float() for rows in (capture.transl, capture.poses))
        return self.body.vertices(self.betas, angles, transl).double().numpy()
