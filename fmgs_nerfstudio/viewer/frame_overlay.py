"""The camera frame beside the rendering: a frame, drawn where the person stands, as the viewer's camera sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from fmgs_dataparsers.capture import Capture
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.modalities import Pictures
from fmgs_nerfstudio.rendering import Camera


@dataclass(frozen=True)
class FrameOverlay:
    """How a camera frame is laid over the rendering."""

    camera: str
    """Name of a camera of the capture."""
    amount: float = 0.0
    """0: the rendering alone; 1: the frame alone."""
    blend: bool = False
    """Mix both everywhere; else the frame is left of a border."""

    def apply(self, pictures: Pictures, frame: Float[Tensor, "H W 3"], covered: Bool[Tensor, "H W 1"]) -> Pictures:
        """Lay the frame over every map that is a picture, where it is."""
        width = frame.shape[1]
        share = torch.full((width, 1), self.amount, device=frame.device)
        if not self.blend:
            columns = (torch.arange(width, device=frame.device) + 0.5) / width
            share = (columns < self.amount).float()[:, None]
        share = share * covered
        laid = {name: torch.lerp(value, frame, share) for name, value in pictures.items() if value.shape[-1] == 3}
        return pictures.with_pictures(laid)


def capture_view(capture: Capture, camera: str) -> Camera:
    """A camera of the capture at working size."""
    K, width, height = capture.intrinsics(camera)
    viewmat = torch.from_numpy(capture.cameras[camera].world_to_camera).float()
    return Camera(viewmat, torch.from_numpy(K).float(), width, height)


@full_precision()
def frame_seen_from(
    view: Camera, image: Float[Tensor, "H0 W0 3"], camera: Camera, point: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "H W 3"], Bool[Tensor, "H W 1"]]:
    """The image of `camera`, drawn on the plane through `point` that is parallel to the image, as `view` sees it.

    A homography. Where both cameras have one centre it does not depend on the plane, and is exact. Returns colours,
    and where they are: in front of `view` and inside the image.
    """
    image = image.to(view.K)
    to_camera = camera.viewmat.to(view.K) @ torch.linalg.inv(view.viewmat)
    depth = camera.viewmat.to(view.K)[2, :3] @ point.to(view.K) + camera.viewmat.to(view.K)[2, 3]
    # H maps pixels of the view to those of the image: X = t + lambda R K^-1 x, lambda = (depth - t_z) / (R K^-1 x)_z,
    # times (R K^-1 x)_z, so that nothing is divided by what may be 0.
    R, t = to_camera[:3, :3], to_camera[:3, 3]
    rays = R @ torch.linalg.inv(view.K)
    H = camera.K.to(view.K) @ (torch.outer(t, rays[2]) + (depth - t[2]) * rays)
    y, x = torch.meshgrid(*(torch.arange(n).to(view.K) + 0.5 for n in (view.height, view.width)), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    towards = pixels @ rays[2]
    u = pixels @ H.T
    size = u.new_tensor([image.shape[1], image.shape[0]])
    at = u[..., :2] / torch.where(u[..., 2:].abs() < 1e-9, 1e-9, u[..., 2:]) / size * 2 - 1
    # On the plane, before the view (lambda > 0) and before the camera.
    front = ((depth - t[2]) * towards > 0) & (depth > 0)
    inside = front & (at.abs() <= 1).all(-1)
    colours = grid_sample(image.permute(2, 0, 1)[None], at[None], padding_mode="border", align_corners=False)
    return colours[0].permute(1, 2, 0), inside[..., None]


def field_of_view(camera: Camera, aspect: float) -> float:
    """Vertical field of view, radians, with which a window of this aspect (width / height) shows the whole image."""
    fx, fy, cx, cy = (float(value) for value in camera.K[(0, 1, 0, 1), (0, 1, 2, 2)])
    half_width, half_height = max(cx, camera.width - cx) / fx, max(cy, camera.height - cy) / fy
    return 2 * math.atan(max(half_height, half_width / aspect))
