"""What the renderer takes: a pinhole camera, and layers of surfels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor


class Layer(NamedTuple):
    """Surfels and what is composited over them.

    The layers of one call have the same geometry by value, each with its own autograd leaves: a caller chooses what a
    layer's gradient may reach with `detach()` here, and nowhere else.
    """

    means: Float[Tensor, "N 3"]
    """Centres in the world, metres."""
    tangents: Float[Tensor, "N 3 S"]
    """Columns s_u t_u and s_v t_v in the world, metres; they need not be orthogonal. 3D Gaussians have a third."""
    opacities: Float[Tensor, "N"]
    values: Float[Tensor, "N C"]
    """Anything that blends: colours, a one for alpha, depths, normals, logits."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in OpenCV's axes: x right, y down, z forward; row i, column j is at (j + 0.5, i + 0.5)."""

    viewmat: Float[Tensor, "4 4"]
    """World to camera, metres."""
    K: Float[Tensor, "3 3"]
    """Intrinsics, pixels."""
    width: int
    height: int

    @classmethod
    def from_opengl(
        cls, camera_to_world: Float[Tensor, "3 4"], fx: float, fy: float, cx: float, cy: float, width: int, height: int
    ) -> Camera:
        """From nerfstudio's `camera_to_worlds[i]` (x right, y up, z backward) and intrinsics in pixels."""
        rotation = camera_to_world[:3, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
        viewmat = torch.eye(4, dtype=rotation.dtype, device=rotation.device)
        viewmat[:3, :3] = rotation.T
        viewmat[:3, 3] = -(rotation * camera_to_world[:3, 3:]).sum(0)
        return cls(viewmat, rotation.new_tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), width, height)

    @classmethod
    def from_nerfstudio(cls, camera: Cameras) -> Camera:
        """From nerfstudio's cameras, of which there is one. It is read: on a card, that waits for the card."""
        fx, fy, cx, cy = (float(value[0]) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
        width, height = int(camera.width[0]), int(camera.height[0])
        return cls.from_opengl(camera.camera_to_worlds[0], fx, fy, cx, cy, width, height)

    def to(self, device: torch.device) -> Camera:
        """On another device."""
        viewmat, K = (value.to(device, non_blocking=True) for value in (self.viewmat, self.K))
        return Camera(viewmat, K, self.width, self.height)

    @property
    def centre(self) -> Float[Tensor, "3"]:
        """Where it stands in the world, metres."""
        return -(self.viewmat[:3, :3] * self.viewmat[:3, 3:]).sum(0)  # no product, whose float32 could be TF32

    def finer(self, factor: int) -> Camera:
        """The same view with `factor` pixels for each, along both axes."""
        K = torch.cat([self.K[:2] * factor, self.K[2:]])
        return Camera(self.viewmat, K, self.width * factor, self.height * factor)
