"""A posed avatar as a splat file: the `.ply` layout of 3D Gaussian Splatting, which 2DGS shares and viewers open."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from fmgs_nerfstudio.export.baking import ODD_ORDERS, format_basis
from fmgs_nerfstudio.files import atomic_path
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize_finer
from fmgs_nerfstudio.routes import PosedSurfels

THICKNESS = 1e-5
"""Standard deviation across a surfel, metres: programs that know 3D Gaussians only want a third scale."""


class Splats(NamedTuple):
    """What a splat file holds."""

    surfels: PosedSurfels
    sh: Float[Tensor, "N K 3"]
    """Spherical harmonics of colour - 0.5, in the 3DGS format's basis."""

    def half_turned(self) -> Splats:
        """About z: x and y change sign, and so do harmonics of odd order."""
        turn = self.surfels.means.new_tensor([-1, -1, 1])
        surfels = self.surfels._replace(means=self.surfels.means * turn, tangents=self.surfels.tangents * turn[:, None])
        signs = self.sh.new_tensor([1, *ODD_ORDERS])[: self.sh.shape[1], None]
        return Splats(surfels, self.sh * signs)

    def draw(self, camera: Camera, factor: int = 1) -> Float[Tensor, "H W 4"]:
        """Colour and alpha on black as programs for 2DGS draw them, with `factor` x `factor` pixels for each."""
        basis = format_basis(normalize(self.surfels.means - camera.centre, dim=-1))[:, : self.sh.shape[1]]
        rgb = (torch.einsum("nk,nkc->nc", basis, self.sh) + 0.5).clamp_min(0)
        values = torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1)
        return rasterize_finer([Layer(*self.surfels, values)], camera, factor)[0]


def write_splats(surfels: PosedSurfels, sh: Float[Tensor, "N K 3"], path: Path) -> None:
    """Write surfels and their spherical harmonics (K = 1 or 16, in the format's basis), binary little-endian.

    The file has metres and the axes of the surfels' world; scales as logarithms, opacities as logits, quaternions
    (w, x, y, z), and of the harmonics degree 0 as f_dc, the others colour by colour as f_rest.
    """
    axes, scales = principal_axes(surfels.tangents)
    quaternions = np.roll(Rotation.from_matrix(axes.numpy(force=True)).as_quat(), 1, axis=1)
    opacities = surfels.opacities.clamp(1e-6, 1 - 1e-6).logit()
    thin = scales.new_full((len(scales), 3 - scales.shape[1]), THICKNESS)
    columns = {
        ("x", "y", "z"): surfels.means,
        ("nx", "ny", "nz"): axes[..., 2],
        ("f_dc_0", "f_dc_1", "f_dc_2"): sh[:, 0],
        tuple(f"f_rest_{i}" for i in range(3 * (sh.shape[1] - 1))): sh[:, 1:].transpose(1, 2).flatten(1),
        ("opacity",): opacities[:, None],
        ("scale_0", "scale_1", "scale_2"): torch.cat([scales.clamp_min(1e-9), thin], dim=1).log(),
        ("rot_0", "rot_1", "rot_2", "rot_3"): torch.from_numpy(quaternions),
    }
    values = torch.cat([value.detach().cpu().float() for value in columns.values()], dim=1).numpy()
    rows = values.view([(name, np.float32) for group in columns for name in group])[:, 0]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(temporary)


def principal_axes(tangents: Float[Tensor, "N 3 S"]) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N S"]]:
    """The rotation [t_u, t_v, t_w] and the scales of the same surfel: tangents of Eq. 12 need not be orthogonal.

    A surfel is what its M M^T says, M = [s_u t_u, s_v t_v]; the left singular vectors of M are the ellipse's axes. So
    it is with a 3D Gaussian's three.
    """
    U, scales, Vh = torch.linalg.svd(tangents, full_matrices=False)
    # A reflection in (u, v) would turn the surfel over.
    U = torch.stack([U[..., 0], U[..., 1] * (torch.linalg.det(Vh) * torch.ones_like(scales[:, 0]))[:, None]], dim=-1)
    return torch.cat([U, torch.linalg.cross(U[..., 0], U[..., 1])[..., None]], dim=-1), scales
