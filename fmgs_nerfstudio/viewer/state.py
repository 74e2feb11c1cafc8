"""What people have asked for in the viewer's panel: poses, parts, light, the camera frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import torch
from fmgs_dataparsers.capture import Capture
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.motion import Motion, MotionError
from fmgs_nerfstudio.motion.readers import of_capture, read_motion
from fmgs_nerfstudio.relighting import LightError, Relighting, read_map
from fmgs_nerfstudio.viewer.frame_overlay import FrameOverlay
from fmgs_nerfstudio.viewer.parts import Parts
from fmgs_nerfstudio.viewer.pose import SmplPose, pose_at

Source = Literal["time slider", "motion", "joints"]


class ViewerState:
    """State of the panel.

    Browsers' callbacks write while renderings read, and a rendering may be cut off at any line: so every attribute is
    immutable and replaced whole, and a rendering reads each once.

    Attributes:
        source: whose poses are shown: the capture's at the host's time slider, a motion's, or joints turned by hand.
        motion: in the capture's world; none: the capture's own poses, those of training as training refined them.
        frame: of the motion.
        shown: the pose of the last rendering.
        parts: hidden and recoloured body parts.
        relighting: the light.
        frame_overlay: how a camera's frame is laid over the picture.
        message: what went wrong last, for people.
    """

    def __init__(self, model: FMGSModel) -> None:
        capture: Capture = model.kwargs["metadata"]["capture"]
        self.capture = capture
        self.body, self.has_light, self.taught = model.canonical, model.light is not None, model.taught
        self.pose_now, self.poses_now = model.pose_now, model.poses_now
        self.source: Source = "time slider"
        self.motion: Motion | None = None
        self.frame = 0
        self.shown = self.captured(0)
        self.untouched = self.moved = self.shown
        self.parts = Parts()
        self.relighting = Relighting()
        self.frame_overlay = FrameOverlay(capture.splits["train"][0].camera)
        self.message = ""

    @property
    def has_parts(self) -> bool:
        """Body parts were learned."""
        return "semantics" in self.taught.shown

    @property
    def motion_length(self) -> int:
        """Frames of the motion."""
        return len(self.capture.poses) if self.motion is None else len(self.motion)

    def captured(self, pose_id: int) -> SmplPose:
        """A pose of the capture, refined."""
        with torch.no_grad():
            pose, transl = self.pose_now(pose_id)
        return SmplPose(pose.numpy(force=True), transl.numpy(force=True), pose_id, captured=True)

    def wanted(self, pose_id: int) -> SmplPose:
        """What to show while the time slider is at a pose of the capture."""
        source, motion, frame = self.source, self.motion, self.frame
        if source == "joints":
            return self.moved
        if source == "time slider":
            return self.captured(pose_id)
        if motion is None:
            return self.captured(min(frame, len(self.capture.poses) - 1))
        return pose_at(motion, min(frame, len(motion) - 1))

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

    def load_environment(self, path: str) -> bool:
        """Light the avatar by a map of all directions; no path: by its own light again.

        A map that cannot be used leaves all as it is, but for the message.
        """
        environment = Path(path).expanduser() if path.strip() else None
        try:
            if environment is not None:
                read_map(environment)
        except (LightError, OSError) as error:
            self.message = str(error)
            return False
        self.relighting, self.message = dataclasses.replace(self.relighting, environment=environment), ""
        return True

    def _placed(self, motion: Motion) -> Motion:
        """As fmgs-animate does: upright, starting where the person stood, facing as they did."""
        with torch.no_grad():
            poses, transl = (value.numpy(force=True).astype(float) for value in self.poses_now())
        own = of_capture(self.capture)
        return motion.stand_in_for(Motion(poses, transl, own.fps, own.up, own.name), self.body)

    def show_frame(self, frame: int) -> None:
        """A frame of the motion."""
        self.frame, self.source = frame, "motion"

    def current(self) -> SmplPose:
        """Where turning a joint starts: the pose shown last."""
        return self.moved if self.source == "joints" else self.shown

    def turn(self, joint: int, rotation: Float[Array, "3"]) -> None:
        """Turn a joint to a rotation relative to its parent: axis-angle, radians."""
        pose = self.current()
        if self.source != "joints":
            self.untouched = pose
        self.moved, self.source = pose.turned(joint, rotation), "joints"

    def reset_joints(self) -> None:
        """Back to the pose before the first joint was turned."""
        if self.source == "joints":
            self.moved = self.untouched
