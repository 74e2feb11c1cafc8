"""A trained avatar for showing: all that depends on neither pose nor view is computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.fields.geometry import GeometryResidual
from fmgs_nerfstudio.fields.skinning import blend
from fmgs_nerfstudio.modalities import MODALITIES, Maps
from fmgs_nerfstudio.model import FMGSModel
from fmgs_nerfstudio.motion.motion import Motion
from fmgs_nerfstudio.motion.readers import of_capture
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.surfels import correct

_NODES = 5
_MARGIN = 0.003  # metres beyond the displacements that training poses have


class FrozenAvatar:
    """`FMGSModel` without its gradients, at the speed of what pose and view change.

    A surfel moves along its normal only, so that its skinning weights are a function of one number, delta_d: they are
    tabulated over the displacements of the training poses, and interpolated linearly.

    Attributes:
        Z_low, Z_high: [16] range of the pose latent over the training poses.
        Z_mean: [16] its mean.
    """

    @torch.inference_mode()
    def __init__(self, model: FMGSModel, clamp_pose: bool = False) -> None:
        """`clamp_pose`: keep what the fields see of a pose within what training saw."""
        self.model, self.clamp_pose = model.eval(), clamp_pose
        self.f_g, self.f_c = model.V_g(), model.V_c()
        self.surfels, self.opacities = model.surfels(), model.surfels.opacities
        self.distilled = model.distilled()
        trained = sorted({frame.pose for frame in model.kwargs["metadata"]["capture"].splits["train"]})
        latents = torch.stack([self._latent(*model.poses(pose_id)) for pose_id in trained])
        self.Z_low, self.Z_high, self.Z_mean = latents.amin(0), latents.amax(0), latents.mean(0)
        some = latents[:: max(1, len(latents) // 24)]
        delta_d = torch.cat([self._residual(Z_p).delta_d for Z_p in some], dim=1)
        self.first_node = delta_d.amin(1) - _MARGIN
        self.node_distance = (delta_d.amax(1) + _MARGIN - self.first_node) / (_NODES - 1)
        normal = self.surfels.frames[..., 2]
        steps = [self.first_node + k * self.node_distance for k in range(_NODES)]
        tables = [model.skinning(self.surfels.means + normal * step[:, None]) for step in steps]
        self.weights = torch.stack(tables, dim=1).flatten(0, 1)
        self.rows = torch.arange(len(normal), device=normal.device) * _NODES

    @torch.inference_mode()
    def own_motion(self, fps: float | None = None) -> Motion:
        """The capture's poses, those of training as training refined them."""
        motion = of_capture(self.model.kwargs["metadata"]["capture"], fps)
        poses, transl = (column.numpy(force=True).astype(float) for column in self.model.poses.all())
        return dataclasses.replace(motion, poses=poses, transl=transl)

    @torch.inference_mode()
    def pose(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Avatar:
        """As `FMGSModel.pose_avatar_at`."""
        return self._posed(self.model.canonical(pose, transl)[1], self.latent(pose, transl))

    @torch.inference_mode()
    def at_rest(self) -> Avatar:
        """In canonical space, with the mean of the training poses' latents."""
        bones = torch.eye(4, device=self.rows.device).expand(self.weights.shape[1], 4, 4)
        return self._posed(bones, self.Z_mean)

    @torch.inference_mode()
    def latent(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Float[Tensor, "16"]:
        """Z_p, clamped if asked for."""
        Z_p = self._latent(pose, transl)
        return Z_p.clamp(self.Z_low, self.Z_high) if self.clamp_pose else Z_p

    def _latent(self, pose: Float[Tensor, "72"], transl: Float[Tensor, "3"]) -> Float[Tensor, "16"]:
        canonical = self.model.canonical
        return self.model.pose_encoder(canonical(pose, transl)[0], canonical.joints)

    def _residual(self, Z_p: Float[Tensor, "16"]) -> GeometryResidual:
        """Left side of Eq. 3; without displacement, scaling and rotation where surfels are not the mesh's."""
        residual = self.model.geometry(self.f_g, Z_p)
        if self.model.surfels.guided:
            return residual
        still = {"delta_d": residual.delta_d, "delta_s": self.surfels.scales, "delta_r": residual.delta_r}
        return residual._replace(**{name: torch.zeros_like(like) for name, like in still.items()})

    def _posed(self, B: Float[Tensor, "24 4 4"], Z_p: Float[Tensor, "16"]) -> Avatar:
        residual = self._residual(Z_p)
        surfels = correct(self.surfels, residual.delta_d, residual.delta_s, residual.delta_r)
        T = blend(self.skinning(residual.delta_d[:, 0]), B)
        return Avatar(surfels, T, self.opacities, self.f_c, residual.z_g, Z_p, self.distilled)

    def skinning(self, delta_d: Float[Tensor, "N"]) -> Float[Tensor, "N 24"]:
        """The skinning field at the surfels' centres, displaced by `delta_d` metres."""
        at = ((delta_d - self.first_node) / self.node_distance).clamp(0, _NODES - 1)
        node = at.long().clamp_max(_NODES - 2)
        below, above = (self.weights.index_select(0, self.rows + node + k) for k in range(2))
        return torch.lerp(below, above, (at - node)[:, None])

    @torch.inference_mode()
    def render(self, avatar: Avatar, camera: Camera, names: Iterable[str]) -> Maps:
        """Output maps of the modalities asked for, the colour's always among them, as people see them."""
        names = ["colour", *(name for name in names if name != "colour")]
        R, t = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
        maps = self.model.render(avatar, self.model.shade(avatar, -R.T @ t), camera, names)
        for name in names:
            maps = MODALITIES[name].draw(maps)
        return maps
