"""The panel: four tabs above the host's. Controls write the viewer's state; what is computed is elsewhere."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import viser
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from viser import GuiEvent, GuiInputHandle
from viser.transforms import SO3

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import JOINT_NAMES
from fmgs_nerfstudio.maps.classes import CLASSES, PALETTE
from fmgs_nerfstudio.viewer.first_view import FirstView
from fmgs_nerfstudio.viewer.frame_overlay import capture_view, field_of_view
from fmgs_nerfstudio.viewer.overlays import SceneOverlays
from fmgs_nerfstudio.viewer.parts import Parts, Tint
from fmgs_nerfstudio.viewer.pose import joint_frames
from fmgs_nerfstudio.viewer.state import ViewerState

SOURCES = ("time slider", "motion", "joints")


class Player(Protocol):
    """Who plays the motion and speaks with the host."""

    playing: bool
    position: float
    """Of the motion, in frames."""

    def rerender(self) -> None: ...

    def hide_cameras(self) -> None: ...


class Panel:
    """Controls of pose, parts, scene and camera frame."""

    def __init__(
        self,
        state: ViewerState,
        first_view: FirstView,
        player: Player,
        overlays: SceneOverlays,
        server: viser.ViserServer,
        order: float,
    ) -> None:
        """`order`: place among the host's elements."""
        self.state, self.first_view, self.gui = state, first_view, server.gui
        self.player, self.overlays = player, overlays
        self._said = ""
        self.message = self.gui.add_markdown("", order=order, visible=False)
        tabs = self.gui.add_tab_group(order=order)
        with tabs.add_tab("Pose"):
            self._add_pose()
        with tabs.add_tab("Parts"):
            self._add_parts()
        with tabs.add_tab("Scene"):
            self._add_scene()
        with tabs.add_tab("Camera"):
            self._add_frame_overlay()

    # --- tabs ---------------------------------------------------------------------------------------------------------

    def _add_pose(self) -> None:
        gui, state = self.gui, self.state
        self.source = gui.add_dropdown(
            "Poses from", SOURCES, hint="The host's Time slider; a motion; or joints, from the pose shown last"
        )
        self._on(self.source, self._choose_source)
        with gui.add_folder("Motion") as self.motion_folder:
            self.path = gui.add_text(
                "File", "", hint="AMASS .npz, AIST++ .pkl, a capture's folder; empty: this capture's own poses"
            )
            gui.add_button("Load", icon=viser.Icon.FOLDER_OPEN).on_click(self._act(self._load))
            self.play = gui.add_button("Play", icon=viser.Icon.PLAYER_PLAY)
            self.pause = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE, visible=False)
            self.play.on_click(self._act(lambda: self._set_playing(True)))
            self.pause.on_click(self._act(lambda: self._set_playing(False)))
            self.fps = gui.add_number("Speed", 30.0, min=0.1, max=1000.0, step=0.1, hint="Frames per second")
        self._add_frame_slider()
        with gui.add_folder("Joint"):
            self.joint = gui.add_dropdown("Joint", JOINT_NAMES, "left_shoulder")
            self.joint.on_update(lambda _: self.show())
            hint = "Degrees of the axis-angle, in the T-pose's axes: x to the left, y up, z to the front"
            self.turns = [gui.add_slider(f"Turn {axis}", -180.0, 180.0, 0.1, 0.0, hint=hint) for axis in "xyz"]
            for slider in self.turns:
                self._on(slider, self._turn)
            self.with_gizmo = gui.add_checkbox("Gizmo", False, hint="At the joint: drag its rings")
            self._on(self.with_gizmo, lambda: setattr(self.overlays.gizmo, "visible", self.with_gizmo.value))
            gui.add_button("Reset joints", icon=viser.Icon.ARROW_BACK_UP).on_click(self._act(state.reset_joints))

    def _add_frame_slider(self) -> None:
        with self.motion_folder:
            self.frame = self.gui.add_slider("Frame", 0, max(self.state.motion_length - 1, 1), 1, 0)
        self._on(self.frame, self._choose_frame)

    def _add_parts(self) -> None:
        gui, none = self.gui, not self.state.has_parts
        if none:
            gui.add_markdown("Trained without parsing maps (`fmgs-priors`): there are no parts to choose.")
        hint = "By the learned semantics"
        self.part = gui.add_dropdown("Part", CLASSES[1:], "Upper_Clothing", disabled=none, hint=hint)
        self.part.on_update(lambda _: self._show_part())
        self.hide = gui.add_checkbox("Hide", False, disabled=none)
        self._on(self.hide, lambda: self._set_parts(self.state.parts.with_hidden(self.selected_part, self.hide.value)))
        red, green, blue = (int(value) for value in PALETTE[CLASSES.index("Upper_Clothing")])
        self.colour = gui.add_rgb("Colour", (red, green, blue), disabled=none)
        hint = "0: as it is; 1: the colour, shaded"
        self.strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, 0.0, disabled=none, hint=hint)
        for control in (self.colour, self.strength):
            self._on(control, self._paint)
        only = gui.add_button("Only this part", icon=viser.Icon.FOCUS_2, disabled=none)
        only.on_click(self._act(lambda: self._set_parts(self.state.parts.only(self.selected_part))))
        reset = gui.add_button("Reset parts", icon=viser.Icon.ARROW_BACK_UP, disabled=none)
        reset.on_click(self._act(lambda: self._set_parts(Parts())))

    def _add_scene(self) -> None:
        for label, overlay in (("Skeleton", self.overlays.skeleton), ("Body mesh", self.overlays.mesh)):
            shown = self.gui.add_checkbox(label, False)
            self._on(shown, lambda shown=shown, overlay=overlay: setattr(overlay, "visible", shown.value))
        self._add_light()
        back = self.gui.add_button("Back to the first view", icon=viser.Icon.HOME)
        back.on_click(lambda event: event.client and self.first_view.take(event.client))

    def _add_light(self) -> None:
        gui, dark = self.gui, not self.state.has_light
        with gui.add_folder("Light"):
            if dark:
                gui.add_markdown("Trained without a light of its own (`--pipeline.model.light.kind sh`).")
            self.lit = gui.add_checkbox("Lit", True, disabled=dark, hint="Off: albedo")
            self.light = gui.add_slider("Turn the light", 0.0, 360.0, 5.0, 0.0, disabled=dark, hint="Degrees")
            self.light_colour = gui.add_rgb("Its colour", (255, 255, 255), disabled=dark)
            self.brightness = gui.add_slider("Its brightness", 0.0, 3.0, 0.05, 1.0, disabled=dark)
            for control in (self.lit, self.light, self.light_colour, self.brightness):
                self._on(control, self._relight)
            self.environment = gui.add_text(
                "Map", "", disabled=dark, hint="Image of all directions (.hdr, .png, .jpg); empty: its own light"
            )
            load = gui.add_button("Load map", icon=viser.Icon.SUN, disabled=dark)
            load.on_click(self._act(self._load_environment))

    def _add_frame_overlay(self) -> None:
        gui, state = self.gui, self.state
        cameras = sorted({frame.camera for split in state.capture.splits.values() for frame in split})
        self.camera = gui.add_dropdown("Camera", cameras, state.frame_overlay.camera)
        self.amount = gui.add_slider("Wipe", 0.0, 1.0, 0.01, 0.0, hint="0: the rendering alone; 1: the frame alone")
        self.blend = gui.add_checkbox("Blend", False, hint="Mix both everywhere, instead of side by side")
        for control in (self.camera, self.amount, self.blend):
            self._on(control, self._lay_frame)
        gui.add_button("Stand at the camera", icon=viser.Icon.MAP_PIN).on_click(self._stand)

    # --- what controls do ---------------------------------------------------------------------------------------------

    def _act(self, action: Callable[[], None]) -> Callable[[GuiEvent[Any]], None]:
        def callback(event: GuiEvent[Any]) -> None:
            if event.client is not None:  # a person, not `show`
                self.state.message = ""
                action()
                self.show()
                self.player.rerender()

        return callback

    def _on(self, control: GuiInputHandle[Any], action: Callable[[], None]) -> None:
        control.on_update(self._act(action))

    def _choose_source(self) -> None:
        if self.source.value == "joints":
            self._turn_to(self.state.current().rotation(self.selected_joint))
        else:
            self.player.playing = False
            self.state.source = "motion" if self.source.value == "motion" else "time slider"

    def _load(self) -> None:
        self.player.playing = False
        if self.state.load_motion(self.path.value):
            self.fps.value = 30.0 if self.state.motion is None else self.state.motion.fps
            self.frame.remove()
            self._add_frame_slider()

    def _choose_frame(self) -> None:
        self.player.playing = False
        self.state.show_frame(min(self.frame.value, self.state.motion_length - 1))

    def _set_playing(self, playing: bool) -> None:
        self.player.position, self.player.playing = float(self.state.frame), playing

    def _turn(self) -> None:
        self._turn_to(np.radians([slider.value for slider in self.turns]))

    def _turn_to(self, rotation: Float[Array, "3"]) -> None:
        self.player.playing = False
        self.state.turn(self.selected_joint, rotation)

    @property
    def selected_joint(self) -> int:
        return JOINT_NAMES.index(self.joint.value)

    @property
    def selected_part(self) -> int:
        return CLASSES.index(self.part.value)

    def _set_parts(self, parts: Parts) -> None:
        self.state.parts = parts
        self._show_part()

    def _paint(self) -> None:
        tint = Tint(self.colour.value, self.strength.value)
        self.state.parts = self.state.parts.with_tint(self.selected_part, tint)

    def _load_environment(self) -> None:
        self.state.load_environment(self.environment.value)

    def _relight(self) -> None:
        red, green, blue = (self.brightness.value * channel / 255 for channel in self.light_colour.value)
        self.state.relighting = dataclasses.replace(
            self.state.relighting, light="own" if self.lit.value else "none", turn=self.light.value,
            colour=(red, green, blue),
        )  # fmt: skip

    def _lay_frame(self) -> None:
        self.state.frame_overlay = dataclasses.replace(
            self.state.frame_overlay, camera=self.camera.value, amount=self.amount.value, blend=self.blend.value
        )

    def _stand(self, event: GuiEvent[Any]) -> None:
        """Put this browser's camera where the capture's is; it turns about the person."""
        if event.client is None:
            return
        view, camera = capture_view(self.state.capture, self.camera.value), event.client.camera
        world_to_camera = view.viewmat.double().numpy()
        R, centre = world_to_camera[:3, :3].T, -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
        pelvis = joint_frames(self.state.body, self.state.shown).positions[0]
        with event.client.atomic():
            camera.up_direction = self.state.capture.up
            camera.position = centre * VISER_NERFSTUDIO_SCALE_RATIO
            camera.look_at = (centre + R[:, 2] * max((pelvis - centre) @ R[:, 2], 0.1)) * VISER_NERFSTUDIO_SCALE_RATIO
            camera.wxyz = SO3.from_matrix(R).wxyz
            camera.fov = field_of_view(view, camera.aspect)
        self.player.hide_cameras()  # one of them would stand before the eye

    # --- what controls show -------------------------------------------------------------------------------------------

    def show(self) -> None:
        """The state in the controls; those that say so already are left alone."""
        state = self.state
        _set(self.source, state.source)
        _set(self.frame, state.frame)
        rotation = np.degrees(state.current().rotation(self.selected_joint))
        for slider, angle in zip(self.turns, rotation, strict=True):
            if abs(slider.value - angle) > 0.06:
                slider.value = round(float(angle), 1)
        self.play.visible, self.pause.visible = not self.player.playing, self.player.playing
        if self._said != state.message:
            self._said = state.message
            lines = [part for line in state.message.splitlines() for part in textwrap.wrap(line, 37)]
            self.message.content = "```\n" + "\n".join(lines) + "\n```"  # as it is: Markdown would read signs in a path
            self.message.visible = bool(state.message)

    def _show_part(self) -> None:
        part = self.selected_part
        palette = PALETTE[part]
        tint = self.state.parts.tints.get(part, Tint((int(palette[0]), int(palette[1]), int(palette[2])), 0.0))
        _set(self.hide, part in self.state.parts.hidden)
        _set(self.colour, tint.colour)
        _set(self.strength, tint.strength)


def _set(control: GuiInputHandle[Any], value: object) -> None:
    if control.value != value:
        control.value = value
