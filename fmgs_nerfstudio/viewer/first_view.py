"""Where the viewer opens: on the whole person, upright. nerfstudio's own first view sits inside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import viser
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from torch import Tensor

_DISTANCE = 2.3  # metres: all of an adult


@dataclass(frozen=True, eq=False)
class FirstView:
    """A place to look from; world, metres."""

    up: tuple[float, float, float]
    centre: Float[Tensor, "3"]
    """The middle of the person."""
    towards: Float[Tensor, "3"]
    """From there to the eye."""

    @classmethod
    def of(cls, capture: Capture, pelvis: Float[Tensor, "P 3"]) -> FirstView:
        """From the side of the first training camera; `pelvis`: where the person is in every pose."""
        centre = pelvis.mean(0).cpu()
        camera = capture.cameras[capture.splits["train"][0].camera]
        to_camera = torch.linalg.inv(torch.from_numpy(camera.world_to_camera))
        towards = to_camera[:3, 3].float() - centre
        up = torch.tensor(capture.up)
        towards = towards - up * (towards @ up)
        return cls(capture.up, centre, towards / towards.norm() * _DISTANCE)

    def take(self, client: viser.ClientHandle) -> None:
        """Put a browser's camera there."""
        centre = (self.centre * VISER_NERFSTUDIO_SCALE_RATIO).numpy(force=True)
        client.camera.up_direction = self.up
        client.camera.position = centre + (self.towards * VISER_NERFSTUDIO_SCALE_RATIO).numpy(force=True)
        client.camera.look_at = centre
        client.camera.fov = math.radians(75)  # viser's own
