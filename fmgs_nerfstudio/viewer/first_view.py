"""Where the viewer opens."""

from __future__ import annotations

import math

import viser
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor


class FirstView(ViewerControl):
    """Opens the viewer on the whole person, upright; nerfstudio's own first view sits inside them."""

    def __init__(self, up: tuple[float, float, float], centre: Float[Tensor, "3"], towards: Float[Tensor, "3"]) -> None:
        """`centre`: the middle of the person; `towards`: from there to the first camera's side; world, metres."""
        self.up, self.centre, self.towards = up, centre, towards

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self.viser_server.on_client_connect(self.take)

    def take(self, client: viser.ClientHandle) -> None:
        """Put a browser's camera there."""
        centre = (self.centre * VISER_NERFSTUDIO_SCALE_RATIO).numpy(force=True)
        client.camera.up_direction = self.up
        client.camera.position = centre + (self.towards * VISER_NERFSTUDIO_SCALE_RATIO).numpy(force=True)
        client.camera.look_at = centre
        client.camera.fov = math.radians(75)  # viser's own
