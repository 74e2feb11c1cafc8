"""The avatar's part of nerfstudio's viewer: what the panel asks for, rendered."""

from __future__ import annotations

import functools

import torch
from fmgs_dataparsers.capture import Capture, CaptureError
from fmgs_dataparsers.kept import KeptCapture
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.kernels.compiled import uninterrupted
from fmgs_nerfstudio.modalities import Pictures, visualize_outputs
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.relighting import LightError, relit
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.viewer.address import tell_true_port
from fmgs_nerfstudio.viewer.first_view import FirstView
from fmgs_nerfstudio.viewer.frame_overlay import capture_view, frame_seen_from
from fmgs_nerfstudio.viewer.loop import ViewerLoop
from fmgs_nerfstudio.viewer.parts import Parts, classes_of
from fmgs_nerfstudio.viewer.pose import SmplPose, joint_frames
from fmgs_nerfstudio.viewer.state import ViewerState


class AvatarViewer(ViewerControl):
    """Renders what the panel asks for, in place of the model, for cameras that are not the capture's.

    nerfstudio finds it on the pipeline and sets it up with each viewer. Training, ns-eval and `ns-render dataset` never
    come here; other renderings without a viewer see its state as it is at first: the capture's poses, untouched.
    """

    def __init__(self, model: FMGSModel) -> None:
        capture: Capture = model.kwargs["metadata"]["capture"]
        self._model, self.capture = model, capture
        self.state = ViewerState(model)
        self.first_view = FirstView.of(capture, model.poses.transl + model.canonical.joints[0])
        self.frames = {(frame.camera, frame.pose_id): frame for split in capture.splits.values() for frame in split}
        self._image = functools.lru_cache(maxsize=2)(self._read_image)
        model.interactive_renderer = self.render

    def _setup(self, viewer: Viewer) -> None:
        if isinstance(self.capture, KeptCapture):
            viewer.config.max_num_display_images = 0
        super()._setup(viewer)
        tell_true_port(viewer)
        self.viser_server.on_client_connect(self.first_view.take)
        ViewerLoop(self.state, self.first_view, viewer).start()

    def render(self, camera: Cameras) -> Pictures:
        """All maps that were trained, as people see them, for a camera of the viewer."""
        model, state, shown = self._model, self.state, self._model.taught.shown
        view, centre = Camera.from_nerfstudio(camera), camera.camera_to_worlds[0, :, 3]
        pose, parts = state.wanted(model.pose_id(camera)), state.parts if state.has_parts else Parts()
        if pose.captured and pose.pose_id is not None:
            avatar = model.pose_avatar(pose.pose_id)
        else:
            avatar = model.pose_avatar_at(*pose.tensors(model.device))
        classes = classes_of(avatar)
        avatar = avatar.with_opacities(parts.show(avatar.opacities, classes))
        rgb = parts.paint(model.shade(avatar, centre, self._light()), classes)
        pictures = visualize_outputs(model.render(avatar, rgb, view, shown), shown)
        state.shown = pose
        return self._with_frame(pictures, view, pose)

    def _light(self) -> Light | None:
        try:
            return relit(self._model.light, self.state.relighting, self.capture)
        except LightError as error:
            self.state.message = str(error)
            return self._model.light

    def _with_frame(self, pictures: Pictures, view: Camera, pose: SmplPose) -> Pictures:
        """The frame of the same time laid over the pictures."""
        overlay = self.state.frame_overlay
        if overlay.amount == 0:
            return pictures
        try:
            image = self._image(overlay.camera, pose.pose_id)
        except CaptureError as error:
            self.state.message = str(error)
            return pictures
        pelvis = torch.from_numpy(joint_frames(self.state.body, pose).positions[0]).float()
        camera = capture_view(self.capture, overlay.camera)
        return overlay.apply(pictures, *frame_seen_from(view, image, camera, pelvis))

    @uninterrupted
    def _read_image(self, camera: str, pose_id: int | None) -> Float[Tensor, "H W 3"]:
        if pose_id is None:
            raise CaptureError("A motion has no camera frames: go back to the time slider, or clear the motion's path")
        if (frame := self.frames.get((camera, pose_id))) is None:
            raise CaptureError(f"Camera {camera} has no frame of pose {pose_id}")
        return torch.from_numpy(self.capture.image(frame)).float() / 255
