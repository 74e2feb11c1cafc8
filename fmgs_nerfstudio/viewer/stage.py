"""The viewer as a puppet stage: what people have asked for in its panel, and the picture of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from fmgs_dataparsers.capture import Capture, CaptureError
from jaxtyping import Float
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.body.pose_table import PoseTable
from fmgs_nerfstudio.compiled import uninterrupted
from fmgs_nerfstudio.modalities import MODALITIES, Maps, draw_outputs
from fmgs_nerfstudio.motion.motion import Motion, MotionError
from fmgs_nerfstudio.motion.readers import of_capture, read_motion
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.viewer.compare import Comparison, capture_view, frame_seen_from
from fmgs_nerfstudio.viewer.first_view import FirstView
from fmgs_nerfstudio.viewer.parts import Parts, classes_of
from fmgs_nerfstudio.viewer.posture import Posture, joint_frames, posture_at
from fmgs_nerfstudio.viewer.stagehand import Stagehand

if TYPE_CHECKING:
    from fmgs_nerfstudio.model import FMGSModel

Source = Literal["time slider", "motion", "joints"]


class PuppetStage(ViewerControl):
    """State of the panel, and how the viewer's pictures are made from it.

    Browsers' callbacks write while renderings read, and a rendering may be cut off at any line: so every attribute is
    immutable and replaced whole, and a rendering reads each once. Training, ns-eval and `ns-render dataset` never come
    here; other renderings without a viewer see the stage as it is at first: the capture's poses, untouched.

    Attributes:
        source: whose poses are shown: the capture's at the host's time slider, a motion's, or joints turned by hand.
        motion: in the capture's world; none: the capture's own poses, those of training as training refined them.
        frame: of the motion.
        shown: the posture of the last rendering.
        message: what went wrong last, for people.
    """

    def __init__(
        self, capture: Capture, body: CanonicalBody, poses: PoseTable, first_view: FirstView, has_light: bool
    ) -> None:
        self.capture, self.body, self.poses, self.first_view = capture, body, poses, first_view
        self.has_light = has_light
        self.has_parts = capture.priors is not None and "semantics" in capture.priors.kinds
        self.source: Source = "time slider"
        self.motion: Motion | None = None
        self.frame = 0
        self.shown = self.captured(0)
        self.untouched = self.moved = self.shown
        self.parts = Parts()
        self.light_angle = 0.0  # degrees
        self.frames = {(frame.camera, frame.pose): frame for split in capture.splits.values() for frame in split}
        self.comparison = Comparison(capture.splits["train"][0].camera)
        self.message = ""
        self.image = functools.lru_cache(maxsize=2)(self._read_image)

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        Stagehand(self, viewer).start()

    # --- poses --------------------------------------------------------------------------------------------------------

    @property
    def motion_length(self) -> int:
        """Frames of the motion."""
        return len(self.capture.poses) if self.motion is None else len(self.motion)

    def captured(self, instant: int) -> Posture:
        """The capture's pose at an instant, refined."""
        with torch.no_grad():
            pose, transl = self.poses(instant)
        return Posture(pose.numpy(force=True), transl.numpy(force=True), instant, captured=True)

    def wanted(self, instant: int) -> Posture:
        """What to show while the time slider is at an instant of the capture."""
        source, motion, frame = self.source, self.motion, self.frame
        if source == "joints":
            return self.moved
        if source == "time slider":
            return self.captured(instant)
        if motion is None:
            return self.captured(min(frame, len(self.capture.poses) - 1))
        return posture_at(motion, min(frame, len(motion) - 1))

    def load_motion(self, path: str) -> bool:
        """Show the motion in a file, or of a capture's folder, where the person stood; no path: the capture's own.

        A motion that cannot be used leaves all as it is, but for the message.
        """
        try:
            motion = self._placed(read_motion(Path(path).expanduser())) if path.strip() else None
        except (MotionError, OSError) as error:
            self.message = str(error)
            return False
        self.motion, self.frame, self.source, self.message = motion, 0, "motion", ""
        return True

    def _placed(self, motion: Motion) -> Motion:
        """As fmgs-animate does: upright, starting where the person stood, facing as they did."""
        with torch.no_grad():
            poses, transl = (value.numpy(force=True).astype(float) for value in self.poses.all())
        own = of_capture(self.capture)
        return motion.stand_in_for(Motion(poses, transl, own.fps, own.up, own.name), self.body)

    def show_frame(self, frame: int) -> None:
        """A frame of the motion."""
        self.frame, self.source = frame, "motion"

    def current(self) -> Posture:
        """Where turning a joint starts: the posture shown last."""
        return self.moved if self.source == "joints" else self.shown

    def turn(self, joint: int, rotation: Float[np.ndarray, "3"]) -> None:
        """Turn a joint to a rotation relative to its parent: axis-angle, radians."""
        posture = self.current()
        if self.source != "joints":
            self.untouched = posture
        self.moved, self.source = posture.turned(joint, rotation), "joints"

    def reset_joints(self) -> None:
        """Back to the posture before the first joint was turned."""
        if self.source == "joints":
            self.moved = self.untouched

    # --- the picture --------------------------------------------------------------------------------------------------

    def render(self, model: FMGSModel, view: Camera, centre: Float[Tensor, "3"], instant: int) -> Maps:
        """All maps as people see them, for a camera of the viewer, its time slider at `instant`."""
        posture, parts = self.wanted(instant), self.parts
        if posture.captured and posture.instant is not None:
            avatar = model.pose_avatar(posture.instant)
        else:
            avatar = model.pose_avatar_at(*posture.tensors(model.device))
        classes = classes_of(avatar)
        avatar = avatar._replace(opacities=parts.show(avatar.opacities, classes))
        rgb = parts.paint(model.shade(avatar, centre, self.light_angle), classes)
        maps = draw_outputs(model.render(avatar, rgb, view, MODALITIES))
        self.shown = posture
        return self.compare(maps, view, posture)

    def compare(self, maps: Maps, view: Camera, posture: Posture) -> Maps:
        """Lay the camera frame of the posture's instant over the maps."""
        comparison = self.comparison
        if comparison.amount == 0:
            return maps
        try:
            image = self.image(comparison.camera, posture.instant)
        except CaptureError as error:
            self.message = str(error)
            return maps
        pelvis = torch.from_numpy(joint_frames(self.body, posture).positions[0]).float()
        camera = capture_view(self.capture, comparison.camera)
        return comparison.apply(maps, *frame_seen_from(view, image, camera, pelvis))

    @uninterrupted
    def _read_image(self, camera: str, instant: int | None) -> Float[Tensor, "H W 3"]:
        if instant is None:
            raise CaptureError("A motion has no camera frames: go back to the time slider, or clear the motion's path")
        if (frame := self.frames.get((camera, instant))) is None:
            raise CaptureError(f"Camera {camera} has no frame of instant {instant}")
        return torch.from_numpy(self.capture.image(frame)).float() / 255
