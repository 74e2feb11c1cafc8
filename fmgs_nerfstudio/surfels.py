"""The mesh-bound 2D Gaussians: one surfel on each face of the template (Eq. 2), corrected by Eq. 4-6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fmgs_nerfstudio.kernels.closed_forms import turned
from fmgs_nerfstudio.kernels.compiled import takes
from fmgs_nerfstudio.kernels.correction import correct_on_cpu
from fmgs_nerfstudio.parameters import Parameters, TrainedPart


class Surfels(NamedTuple):
    """Surfels in canonical space, metres.

    `frames` holds [t_u, t_v, t_w] as columns, `scales` the standard deviations along the first S of them: two, of 3D
    Gaussians three.
    """

    means: Float[Tensor, "N 3"]
    frames: Float[Tensor, "N 3 3"]
    scales: Float[Tensor, "N S"]

    @property
    def axes(self) -> Float[Tensor, "N 3 S"]:
        """Unit vectors along which `scales` are."""
        return self.frames[:, :, : self.scales.shape[1]]


def bind_to_faces(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "N 3"], size: float) -> Surfels:
    """One surfel on each face: barycentric centre (Eq. 2), t_w the face normal, t_u and t_v the axes of the face's
    Steiner circumellipse, `scales` = `size` times its semi-axes.

    The ellipse is the affine image of an equilateral triangle's circumcircle, so its axes are the principal axes of the
    three corners about their centre: semi-axes sqrt(2/3) times the singular values of the corner matrix.
    """
    corners = vertices[faces]
    means = corners.mean(dim=1)
    axes, singular, _ = torch.linalg.svd((corners - means[:, None]).transpose(1, 2))
    t_u, t_v = axes[..., 0], axes[..., 1]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flip = (torch.linalg.cross(t_u, t_v) * normal).sum(-1, keepdim=True).sign()
    t_v = t_v * flip
    frames = torch.stack([t_u, t_v, torch.linalg.cross(t_u, t_v)], dim=-1)
    return Surfels(means, frames, size * (2 / 3) ** 0.5 * singular[:, :2].clamp_min(1e-5))


def rotation_exp(r: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    """exp([r]_x) by Rodrigues' formula, with its series near zero: value and gradient are exact there (Eq. 6)."""
    angle_sq = (r * r).sum(-1, keepdim=True)
    small = angle_sq < 1e-4
    angle = torch.where(small, torch.ones_like(angle_sq), angle_sq).sqrt()
    a = torch.where(small, 1 - angle_sq / 6 + angle_sq**2 / 120, angle.sin() / angle)
    b = torch.where(small, 0.5 - angle_sq / 24 + angle_sq**2 / 720, (1 - angle.cos()) / angle**2)
    x, y, z = r.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    outer = r[:, :, None] * r[:, None, :]
    identity = torch.eye(3, dtype=r.dtype, device=r.device)
    # [r]_x^2 = r r^T - |r|^2 I
    return identity + a[..., None] * cross + b[..., None] * (outer - angle_sq[..., None] * identity)


def correct(
    surfels: Surfels, delta_d: Float[Tensor, "N D"], delta_s: Float[Tensor, "N S"], delta_r: Float[Tensor, "N 3"]
) -> Surfels:
    """mu' = mu + n delta_d (Eq. 4), s' = s exp(delta_s) (Eq. 5), R' = R exp([delta_r]_x) (Eq. 6).

    Without a mesh (D = 3) mu' = mu + delta_d, as in 3DGS-Avatar [30].
    """
    bound = delta_d.shape[1] == 1 and not (surfels.means.requires_grad or surfels.frames.requires_grad)
    if bound and takes(*surfels, delta_d, delta_s, delta_r):
        return Surfels(*correct_on_cpu(*surfels, delta_d, delta_s, delta_r))
    return _corrected(surfels, delta_d, delta_s, turned(surfels.frames, delta_r))


def correct_reference(
    surfels: Surfels, delta_d: Float[Tensor, "N D"], delta_s: Float[Tensor, "N S"], delta_r: Float[Tensor, "N 3"]
) -> Surfels:
    """`correct` in plain torch, for any device and dtype, and for surfels that no mesh guides."""
    return _corrected(surfels, delta_d, delta_s, torch.bmm(surfels.frames, rotation_exp(delta_r)))


def _corrected(
    surfels: Surfels, delta_d: Float[Tensor, "N D"], delta_s: Float[Tensor, "N S"], frames: Float[Tensor, "N 3 3"]
) -> Surfels:
    guided = delta_d.shape[1] == 1
    moved = torch.addcmul(surfels.means, surfels.frames[..., 2], delta_d) if guided else surfels.means + delta_d
    return Surfels(moved, frames, surfels.scales * delta_s.exp())


@dataclass(frozen=True)
class SurfelsConfig:
    """The mesh-bound surfels at the start."""

    size: float = 0.7
    """Standard deviations of a surfel, as a fraction of the semi-axes of its face's Steiner circumellipse."""
    opacity: float = 0.9
    """Initial opacity. If it is low, the far side shines through until the near side has closed."""
    guided: bool = True
    """Bind surfels to the mesh: the geometry field moves them along its normals only. Off: freely (ablation)."""
    kind: Literal["2d", "3d"] = "2d"
    """2d: surfels. 3d: 3D Gaussians (ablation); needs CUDA and guided False, best with rendering.backface-cutoff 1."""


class MeshSurfels(TrainedPart):
    """Canonical surfels. Learned are a log-scale offset and an opacity logit; centre and frame are the mesh's.

    Those that are not `guided` start alike, and learn centre and rotation too. 3D Gaussians start half as thick as
    their surfel is wide.

    Raises ValueError if 3D Gaussians are asked for where there can be none.
    """

    means: Tensor
    frames: Tensor
    scales: Tensor

    def __init__(self, config: SurfelsConfig, vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "N 3"]) -> None:
        super().__init__()
        check_kind(config, torch.cuda.is_available())
        bound = bind_to_faces(vertices, faces, config.size)
        if config.kind == "3d":
            bound = bound._replace(scales=torch.cat([bound.scales, bound.scales.amin(1, keepdim=True) / 2], dim=1))
        for name, value in bound._asdict().items():
            self.register_buffer(name, value)
        self.log_scale = nn.Parameter(torch.zeros_like(bound.scales))
        self.opacity_logit = nn.Parameter(torch.full((len(faces),), config.opacity).logit())
        self.free = nn.ParameterDict() if config.guided else _free_parameters(len(faces))

    def trained(self) -> list[Parameters]:
        own = {"scales": self.log_scale, "opacities": self.opacity_logit, **self.free}
        return [Parameters.of(name, name, parameter) for name, parameter in own.items()]

    @property
    def opacities(self) -> Float[Tensor, "N"]:
        return self.opacity_logit.sigmoid()

    @property
    def guided(self) -> bool:
        return len(self.free) == 0

    def forward(self) -> Surfels:
        scales = self.scales * self.log_scale.exp()
        if self.guided:
            return Surfels(self.means, self.frames, scales)
        return Surfels(self.means + self.free["centres"], turned(self.frames, self.free["rotations"]), scales)


def check_kind(config: SurfelsConfig, on_card: bool) -> None:
    """ValueError, with the ways out, where 3D Gaussians are asked for and there can be none."""
    if config.kind == "3d" and config.guided:
        raise ValueError("surfels.kind 3d: no mesh guides 3D Gaussians; add --pipeline.model.surfels.guided False")
    if config.kind == "3d" and not on_card:
        raise ValueError(
            "surfels.kind 3d: gsplat renders 3D Gaussians on CUDA only, and this would run on the CPU; use a machine "
            "with a CUDA device (--machine.device-type cuda), or surfels: --pipeline.model.surfels.kind 2d"
        )


def _free_parameters(count: int) -> nn.ParameterDict:
    """Offsets of the centres in metres, and rotation vectors."""
    return nn.ParameterDict({name: nn.Parameter(torch.zeros(count, 3)) for name in ("centres", "rotations")})
