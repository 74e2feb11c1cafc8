"""Splat files, read back by another library and drawn: the avatar as we draw it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from small_avatar import small_avatar

from fmgs_nerfstudio.cli.export import write_posed_splats
from fmgs_nerfstudio.export.splats import principal_axes
from fmgs_nerfstudio.modalities import RenderingConfig
from fmgs_nerfstudio.motion.frozen import FrozenAvatar
from fmgs_nerfstudio.rendering import Camera, Layer, rasterize

SIZE = 160


def test_principal_axes_are_the_same_ellipse() -> None:
    tangents = torch.randn(500, 3, 2, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    axes, scales = principal_axes(tangents)
    identity = torch.eye(3, dtype=torch.float64).expand(500, 3, 3)
    assert torch.allclose(axes.mT @ axes, identity, atol=1e-9)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(500, dtype=torch.float64))
    ellipse = axes[..., :2] @ torch.diag_embed(scales**2) @ axes[..., :2].mT
    assert torch.allclose(ellipse, tangents @ tangents.mT, atol=1e-15)
    normal = torch.linalg.cross(tangents[..., 0], tangents[..., 1])
    assert ((axes[..., 2] * normal).sum(-1) > 0).all()


def test_principal_axes_of_3d_gaussians() -> None:
    tangents = torch.randn(500, 3, 3, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    axes, scales = principal_axes(tangents)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(500, dtype=torch.float64))
    assert torch.allclose(axes @ torch.diag_embed(scales**2) @ axes.mT, tangents @ tangents.mT, atol=1e-15)


def read_by_trimesh(path: Path) -> dict[str, np.ndarray]:
    loaded = trimesh.load(path)
    assert isinstance(loaded, trimesh.PointCloud)
    data = loaded.metadata["_ply_raw"]["vertex"]["data"]
    return {name: np.asarray(data[name], np.float32).ravel() for name in data.dtype.names}


def viewer_colours(file: dict[str, np.ndarray], eye: np.ndarray) -> np.ndarray:
    """Spherical harmonics as viewers of the format evaluate them, written from the format's reference renderer."""
    means = np.stack([file[axis] for axis in "xyz"], axis=1)
    x, y, z = ((means - eye) / np.linalg.norm(means - eye, axis=1, keepdims=True)).T
    xx, yy, zz = x * x, y * y, z * z
    basis = [
        0.28209479, -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * zz - xx - yy), -1.09254843 * x * z,
        0.54627422 * (xx - yy), -0.59004359 * y * (3 * xx - yy), 2.89061144 * x * y * z,
        -0.45704580 * y * (4 * zz - xx - yy), 0.37317633 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.45704580 * x * (4 * zz - xx - yy), 1.44530572 * z * (xx - yy), -0.59004359 * x * (xx - 3 * yy),
    ]  # fmt: skip
    colours = []
    for channel in range(3):
        names = [f"f_dc_{channel}", *(f"f_rest_{15 * channel + i}" for i in range(15))]
        coefficients = [file[name] for name in names if name in file]
        colours.append(0.5 + sum(b * c for b, c in zip(basis, coefficients, strict=False)))
    return np.maximum(np.stack(colours, axis=1), 0)


def draw(file: dict[str, np.ndarray], camera: Camera) -> torch.Tensor:
    quaternions = np.stack([file[f"rot_{i}"] for i in (1, 2, 3, 0)], axis=1)
    scales = np.exp(np.stack([file["scale_0"], file["scale_1"]], axis=1))
    tangents = Rotation.from_quat(quaternions).as_matrix()[:, :, :2] * scales[:, None]
    view = camera.viewmat.numpy()
    eye = -view[:3, :3].T @ view[:3, 3]
    values = [np.stack([file[axis] for axis in "xyz"], axis=1), tangents, 1 / (1 + np.exp(-file["opacity"]))]
    values.append(viewer_colours(file, eye))
    (image,) = rasterize([Layer(*(torch.from_numpy(np.ascontiguousarray(v, np.float32)) for v in values))], camera)
    return image


def test_the_picture_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 35 dB over the person's pixels from two sides; fewer harmonics, a smaller file and a worse picture."""
    model = small_avatar()
    what_viewers_do = RenderingConfig(two_sided=True, supersampling=1)
    monkeypatch.setattr(model.config, "rendering", what_viewers_do)
    frozen = FrozenAvatar(model)
    posed = frozen.pose(*model.poses(1))
    centre = (posed.T[:, :, :3] @ posed.canonical.means[..., None])[..., 0].mean(0) + posed.T[:, :, 3].mean(0)
    psnr = {}
    for degree in (3, 0):
        path = tmp_path / f"{degree}.ply"
        write_posed_splats(frozen, posed, path, degree)
        file = read_by_trimesh(path)
        assert len(file["x"]) == len(model.template.faces)
        assert np.exp(file["scale_2"]).max() < 1e-4  # flat
        for side in (1.0, -1.0):
            camera = Camera.from_opengl(
                torch.tensor([[side, 0, 0, 0], [0, 0, -side, -2.6 * side], [0, 1.0, 0, 0]])
                + torch.nn.functional.pad(centre[:, None], (3, 0)),
                200.0, 200.0, SIZE / 2, SIZE / 2, SIZE, SIZE,
            )  # fmt: skip
            ours = frozen.render(posed, camera, ())
            covered = ours["accumulation"][..., 0] > 0.5
            assert covered.float().mean() > 0.02
            error = (draw(file, camera) - ours["rgb"])[covered].square().mean()
            psnr[degree, side] = float(-10 * error.log10())
    assert min(psnr[3, 1.0], psnr[3, -1.0]) > 35
    assert psnr[3, 1.0] > psnr[0, 1.0]
