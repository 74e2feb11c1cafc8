"""A trained avatar for showing: all that depends on neither pose nor view is computed once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from fmgs_dataparsers.capture import Frame
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.fields.skinning import blend
from fmgs_nerfstudio.kernels.carrying import Carried
from fmgs_nerfstudio.kernels.precision import full_precision
from fmgs_nerfstudio.modalities import Pictures, RenderingConfig, compose_outputs, layers_of, visualize_outputs
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.motion import Motion
from fmgs_nerfstudio.motion.readers import of_capture
from fmgs_nerfstudio.recorded import Recorder
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize_finer
from fmgs_nerfstudio.routes import Strategy
from fmgs_nerfstudio.surfels import Surfels, correct

_NODES = 5
_MARGIN = 0.003  # metres beyond the displacements that training poses have


class FrozenAvatar:
    """`FMGSModel` without its gradients, at the speed of what pose and view change.

    A guided surfel moves along its normal only, so that its skinning weights are a function of one number, delta_d:
    they are tabulated over the displacements of the training poses, and interpolated linearly. For surfels that no
    mesh guides, the skinning field is evaluated.

    Attributes:
        Z_low, Z_high: [16] range of the pose latent over the training poses.
        Z_mean: [16] its mean.
    """

    @full_precision()
    @torch.inference_mode()
    def __init__(self, model: FMGSModel, clamp_pose: bool = False) -> None:
        """`clamp_pose`: keep what the fields see of a pose within what training saw."""
        self.model, self.clamp_pose = model.eval(), clamp_pose
        self.f_g, self.f_c = model.V_g(), model.V_c()
        self.surfels, self.opacities = model.surfels(), model.surfels.opacities
        self.distilled = model.distilled()
        trained = sorted({frame.pose_id for frame in model.kwargs["metadata"]["capture"].splits["train"]})
        latents = torch.stack([self._latent(*model.pose_now(pose_id)) for pose_id in trained])
        self.Z_low, self.Z_high, self.Z_mean = latents.amin(0), latents.amax(0), latents.mean(0)
        self._poses, self._layers = Recorder(1), Recorder(4)
        if self.model.surfels.guided:
            self._tabulate_skinning(latents[:: max(1, len(latents) // 24)])

    def _tabulate_skinning(self, latents: Float[Tensor, "P 16"]) -> None:
        """Over the displacements of poses with these latents."""
        delta_d = torch.cat([self.model.geometry(self.f_g, Z_p).delta_d for Z_p in latents], dim=1)
        self.first_node = delta_d.amin(1) - _MARGIN
        self.node_distance = (delta_d.amax(1) + _MARGIN - self.first_node) / (_NODES - 1)
        normal = self.surfels.frames[..., 2]
        steps = [self.first_node + k * self.node_distance for k in range(_NODES)]
        tables = [self.model.skinning(self.surfels.means + normal * step[:, None]) for step in steps]
        self.weights = torch.stack(tables, dim=1).flatten(0, 1)
        self.rows = torch.arange(len(normal), device=normal.device) * _NODES

    @torch.inference_mode()
    def own_motion(self, fps: float | None = None) -> Motion:
        """The capture's poses, those of training as training refined them."""
        motion = of_capture(self.model.kwargs["metadata"]["capture"], fps)
        poses, transl = (column.numpy(force=True).astype(float) for column in self.model.poses_now())
        return dataclasses.replace(motion, poses=poses, transl=transl)

    @full_precision()
    @torch.inference_mode()
    def pose(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Avatar:
        """As `FMGSModel.pose_avatar_at`."""
        return self._replayed_pose(pose, transl) if self._replays else self._pose(pose, transl)

    @property
    def _replays(self) -> bool:
        return self.opacities.is_cuda and self.model.config.cuda_graphs

    def _pose(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Avatar:
        return self._posed(self.model.canonical(pose, transl)[1], self.latent(pose, transl))

    def _replayed_pose(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Avatar:
        """`_pose` as a CUDA graph: what it changes, copied, since the next replay fills it anew."""

        def moving(pose: Tensor, transl: Tensor) -> list[Tensor]:
            avatar = self._pose(pose, transl)
            means, tangents, *_ = avatar.posed.carried
            return [*avatar.canonical, avatar.T, avatar.z_g, avatar.Z_p, means, tangents]

        *canonical, T, z_g, Z_p, means, tangents = (x.clone() for x in self._poses(moving, (pose, transl), None))
        carried = Carried(means, tangents, tangents, tangents)
        return Avatar(Surfels(*canonical), T, self.opacities, self.f_c, z_g, Z_p, self.distilled, carried=carried)

    @full_precision()
    @torch.inference_mode()
    def at_rest(self) -> Avatar:
        """In canonical space, with the mean of the training poses' latents."""
        bones = torch.eye(4, device=self.opacities.device).expand(N_JOINTS, 4, 4)
        return self._posed(bones, self.Z_mean)

    @torch.inference_mode()
    def latent(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Float[Tensor, "16"]:
        """Z_p, clamped if asked for."""
        Z_p = self._latent(pose, transl)
        return Z_p.clamp(self.Z_low, self.Z_high) if self.clamp_pose else Z_p

    def _latent(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Float[Tensor, "16"]:
        canonical = self.model.canonical
        return self.model.pose_encoder(canonical(pose, transl)[0], canonical.joints)

    def _posed(self, B: Float[Tensor, "24 4 4"], Z_p: Float[Tensor, "16"]) -> Avatar:
        residual = self.model.geometry(self.f_g, Z_p)
        surfels = correct(self.surfels, residual.delta_d, residual.delta_s, residual.delta_r)
        guided = self.model.surfels.guided
        W = self.skinning(residual.delta_d[:, 0]) if guided else self.model.skinning(surfels.means)
        return Avatar(surfels, blend(W, B), self.opacities, self.f_c, residual.z_g, Z_p, self.distilled)

    def skinning(self, delta_d: Float[Tensor, "N"]) -> Float[Tensor, "N 24"]:
        """The skinning field at the centres of guided surfels, displaced by `delta_d` metres."""
        at = ((delta_d - self.first_node) / self.node_distance).clamp(0, _NODES - 1)
        node = at.long().clamp_max(_NODES - 2)
        below, above = (self.weights.index_select(0, self.rows + node + k) for k in range(2))
        return torch.lerp(below, above, (at - node)[:, None])

    @full_precision()
    @torch.inference_mode()
    def render(self, avatar: Avatar, camera: Camera, names: Iterable[str]) -> Pictures:
        """Output maps of the modalities asked for, the colour's always among them, as people see them."""
        names = ["colour", *(name for name in names if name != "colour")]
        if self._replays and avatar.f_c is self.f_c and avatar.distilled is self.distilled:
            images = rasterize_finer(self._replayed_layers(avatar, camera, names), camera, self._config.supersampling)
            maps = compose_outputs(dict(zip(names, images, strict=True)), camera, self.model.background)
        else:
            maps = self.model.render(avatar, self.model.shade(avatar, camera.centre), camera, names)
        return visualize_outputs(maps, names)

    @property
    def _config(self) -> RenderingConfig:
        return self.model.config.rendering

    def _replayed_layers(self, avatar: Avatar, camera: Camera, names: Sequence[str]) -> list[Layer]:
        """What is composited, as a CUDA graph."""
        means, tangents, *_ = avatar.posed.carried
        seen = [avatar.T, avatar.opacities, avatar.z_g, avatar.Z_p, means, tangents]

        def layers(viewmat: Tensor, K: Tensor, *seen: Tensor) -> list[Tensor]:
            T, opacities, z_g, Z_p, means, tangents = seen
            carried = Carried(means, tangents, tangents, tangents)
            made = Avatar(self.surfels, T, opacities, self.f_c, z_g, Z_p, self.distilled, carried=carried)
            view = Camera(viewmat, K, camera.width, camera.height)
            rgb = self.model.shade(made, view.centre)
            return [x for layer in layers_of(made, rgb, view, names, self._config, Strategy()) for x in layer]

        phase = *names, camera.width, camera.height, self.model.light, self._config
        made, size = self._layers(layers, [camera.viewmat, camera.K, *seen], phase), len(Layer._fields)
        return [Layer(*made[i : i + size]) for i in range(0, len(made), size)]


def frames_per_second(model: FMGSModel, frames: Sequence[Frame], count: int = 12) -> float:
    """Frames a second from a pose to an RGB image in memory, at working size, on the model's device.

    What depends on neither pose nor view is computed before; neither metrics nor files are in it. As the FPS of the
    paper's Table 1: a speed of showing a trained avatar. `count` of the `frames`, spread over all, after a first one
    that is not counted.
    """
    capture, avatar = model.kwargs["metadata"]["capture"], FrozenAvatar(model)
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]

    def draw(frame: Frame) -> None:
        K, width, height = capture.intrinsics(frame.camera)
        viewmat = torch.from_numpy(capture.cameras[frame.camera].world_to_camera).float().to(model.device)
        camera = Camera(viewmat, torch.from_numpy(K).float().to(model.device), width, height)
        avatar.render(avatar.pose(*model.pose_now(frame.pose_id)), camera, ["colour"])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    draw(chosen[0])
    start = time.perf_counter()
    for frame in chosen:
        draw(frame)
    return count / (time.perf_counter() - start)
