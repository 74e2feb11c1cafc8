"""The thread behind the panel: plays motions, and keeps panel and overlays in the pose of the picture."""

from __future__ import annotations

import threading
import time

import torch
from jaxtyping import Float
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.viewer import Viewer

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.viewer.first_view import FirstView
from fmgs_nerfstudio.viewer.overlays import SceneOverlays
from fmgs_nerfstudio.viewer.panel import Panel
from fmgs_nerfstudio.viewer.pose import SmplPose, joint_frames, local_rotation, next_position
from fmgs_nerfstudio.viewer.state import ViewerState

_TICK = 1 / 30  # seconds
# nerfstudio shrinks the picture until it moves at 30 frames per second; where posing alone takes longer, to 30 rows.
_MOVING_FPS_ON_CPU = 8


class ViewerLoop(threading.Thread):
    """Renderings may be cut off at any line and must not wait: what follows from them is done here."""

    def __init__(self, state: ViewerState, first_view: FirstView, viewer: Viewer) -> None:
        super().__init__(name="fmgs-viewer", daemon=True)
        self.state, self.viewer = state, viewer
        self.playing, self.position = False, 0.0
        server = viewer.viser_server
        vertices, _ = state.body.body.shape(torch.from_numpy(state.capture.betas).float())
        self.overlays = SceneOverlays(server, state.body, vertices.numpy().astype(float), self._turn_with_gizmo)
        self.panel = Panel(state, first_view, self, self.overlays, server, viewer.stats_markdown.order + 0.5)
        self._time = viewer.control_panel.time
        self._followed: SmplPose | None = None
        self._state: tuple[object, ...] = ()

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(_TICK)
            now = time.monotonic()
            self.tick(now - last)
            last = now

    def tick(self, seconds: float) -> None:
        """What is to be done after so many seconds."""
        if self.playing:
            self.position = next_position(self.position, seconds, self.panel.fps.value, self.state.motion_length)
            if int(self.position) != self.state.frame:
                self.state.show_frame(int(self.position))
                self.rerender()
        if (at := self.viewer.control_panel.time) != self._time:
            self._time, self.playing, self.state.source, self.state.message = at, False, "time slider", ""
        if self.viewer.get_model().device.type == "cpu":
            for machine in list(self.viewer.render_statemachines.values()):
                machine.target_fps = _MOVING_FPS_ON_CPU
        self.follow()

    def follow(self) -> None:
        """Panel and overlays as in the picture."""
        now, overlays, joint = self.state, self.overlays, self.panel.selected_joint
        visible = (overlays.skeleton.visible, overlays.mesh.visible, overlays.gizmo.visible)
        shown, state = now.shown, (now.source, now.message, joint, self.playing, *visible)
        if shown is not self._followed or state != self._state:
            self._followed, self._state = shown, state
            self.panel.show()
            overlays.follow(joint_frames(now.body, shown), joint)

    def rerender(self) -> None:
        """Ask for new pictures in all browsers, as the host does when one of its own controls changes."""
        for machine in list(self.viewer.render_statemachines.values()):
            machine.action(RenderAction("move", self.viewer.get_camera_state(machine.client)))

    def hide_cameras(self) -> None:
        """As the host's button does."""
        if self.viewer.hide_images.visible:
            self.viewer.set_camera_visibility(False)
            self.viewer.toggle_cameravis_button()

    def _turn_with_gizmo(self, orientation: Float[Array, "3 3"]) -> None:
        self.playing, joint = False, self.panel.selected_joint
        frames = joint_frames(self.state.body, self.state.current())
        self.state.turn(joint, local_rotation(frames, self.state.body.body.parents, joint, orientation))
        self.rerender()
