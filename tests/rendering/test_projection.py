from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gsplat.cuda._torch_impl_2dgs import _fully_fused_projection_2dgs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.rendering_scenes import leaf, random_scene, relative_error

from fmgs_nerfstudio.rendering import Camera, cpu_geometry
from fmgs_nerfstudio.rendering.projection import bounds, project, ray_transforms
from fmgs_nerfstudio.rendering.reference import pixel_alphas


def test_ray_transform_maps_points_of_the_surfel_to_their_pixels() -> None:
    scene = random_scene(50, 64, 48)
    M = ray_transforms(scene.means, scene.tangents, scene.camera)
    uv = torch.randn(50, 2, dtype=torch.float64)
    points = scene.means + (scene.tangents @ uv[:, :, None])[..., 0]
    in_camera = points @ scene.camera.viewmat[:3, :3].T + scene.camera.viewmat[:3, 3]
    pixels = in_camera @ scene.camera.K.T
    expected = pixels[:, :2] / pixels[:, 2:]
    mapped = (M @ torch.cat([uv, torch.ones(50, 1)], dim=1)[:, :, None])[..., 0]
    torch.testing.assert_close(mapped[:, :2] / mapped[:, 2:], expected)


def test_values_and_gradients_are_gsplats() -> None:
    scene = random_scene(60, 64, 48)
    means, scales = leaf(scene.means), leaf(scene.scales)
    xyzw = Rotation.from_matrix(scene.frames.numpy()).as_quat()
    quats = torch.from_numpy(xyzw[:, [3, 0, 1, 2]].copy())
    scales3 = torch.cat([scales, torch.ones_like(scales[:, :1])], dim=1)
    camera = scene.camera
    _, means2d, depths, M_transposed, *_ = _fully_fused_projection_2dgs(
        means, quats, scales3, camera.viewmat[None], camera.K[None], camera.width, camera.height
    )
    theirs = [means2d[0], depths[0], M_transposed[0].mT]

    own_means, own_scales = leaf(scene.means), leaf(scene.scales)
    ours = project(own_means, scene.frames[:, :, :2] * own_scales[:, None], camera)
    assert ours.valid.all()
    mine = [ours.means2d, ours.depths, ours.ray_transforms]
    generator = torch.Generator().manual_seed(3)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in mine]
    torch.autograd.backward(mine, cotangents)
    torch.autograd.backward(theirs, cotangents)
    assert relative_error(own_means.grad, means.grad) < 1e-10
    assert relative_error(own_scales.grad, scales.grad) < 1e-10


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(0.003, 0.8),
    opacities=st.sampled_from([(0.001, 0.02), (0.05, 0.95), (0.99, 1.0)]),
)
def test_bounds_cut_nothing_that_shows(seed: int, size: float, opacities: tuple[float, float]) -> None:
    scene = random_scene(40, 40, 33, seed, (size / 3, size), opacities)
    projection = project(scene.means, scene.tangents, scene.camera)
    lower, upper = bounds(projection, scene.opacities, scene.camera)
    alphas = pixel_alphas(projection, scene.opacities, scene.camera)
    pixel, surfel = torch.nonzero((alphas > 0) & projection.valid, as_tuple=True)
    xy = torch.stack([pixel % 40, pixel // 40], dim=-1) + 0.5
    assert ((xy >= lower[surfel]) & (xy <= upper[surfel])).all()
    assert (lower >= 0).all()
    assert (upper <= torch.tensor([40, 33])).all()


def frontal_camera(width: int = 100, height: int = 80) -> Camera:
    K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]], dtype=torch.float64)
    return Camera(torch.eye(4, dtype=torch.float64), K, width, height)


def surfel(position: tuple[float, float, float], u: float, v: float) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.tensor([position], dtype=torch.float64)
    return means, torch.tensor([[[u, 0.0], [0.0, v], [0.0, 0.0]]], dtype=torch.float64)


@pytest.mark.parametrize(("scale", "opacity"), [(0.1, 0.9), (0.1, 0.02), (0.001, 0.9)])
def test_box_of_a_frontal_disc(scale: float, opacity: float) -> None:
    """Radius f s / z sqrt(2 ln(255 o)), or the low-pass' sqrt(ln(255 o)) if that is larger."""
    projection = project(*surfel((0.2, 0.1, 2.0), scale, scale), frontal_camera())
    lower, upper = bounds(projection, torch.tensor([opacity], dtype=torch.float64), frontal_camera())
    centre = torch.tensor([[60.0, 45.0]], dtype=torch.float64)
    log = math.log(255 * opacity)
    radius = max(50 * scale * math.sqrt(2 * log), math.sqrt(log))
    torch.testing.assert_close(lower, centre - radius, atol=0.011, rtol=0)
    torch.testing.assert_close(upper, centre + radius, atol=0.011, rtol=0)
    torch.testing.assert_close(projection.means2d, centre)


@pytest.mark.parametrize(
    ("z", "scale", "opacity"),
    [(-2.0, 0.1, 0.9), (0.005, 0.001, 0.9), (2.0, 0.1, 0.003), (2.0, math.nan, 0.9)],
    ids=["behind", "nearer than near", "too faint", "not a number"],
)
def test_what_shows_nowhere_has_an_empty_box(z: float, scale: float, opacity: float) -> None:
    projection = project(*surfel((0.0, 0.0, z), scale, scale), frontal_camera())
    lower, upper = bounds(projection, torch.tensor([opacity], dtype=torch.float64), frontal_camera())
    torch.testing.assert_close(lower, upper)


def test_a_surfel_that_reaches_the_cameras_plane() -> None:
    """Within 1 sigma it is not valid; within its visible size it has the whole image as box."""
    means = torch.tensor([[0.0, 0.2, 1.0]], dtype=torch.float64)
    along_view = torch.tensor([[[0.1, 0.0], [0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    opacity = torch.tensor([0.9], dtype=torch.float64)
    assert not project(means, along_view, frontal_camera()).valid
    projection = project(means, along_view * 0.5, frontal_camera())
    assert projection.valid
    lower, upper = bounds(projection, opacity, frontal_camera())
    assert lower.tolist() == [[0, 0]]
    assert upper.tolist() == [[100, 80]]


@pytest.mark.parametrize("scales", [(0.003, 0.01), (0.02, 0.12), (0.2, 2.0)])
def test_the_kernels_projection_is_the_same(scales: tuple[float, float]) -> None:
    scene = random_scene(500, 70, 50, scales=scales)
    means, tangents, opacities = (x.float() for x in (scene.means, scene.tangents, scene.opacities))
    camera = Camera(scene.camera.viewmat.float(), scene.camera.K.float(), 70, 50)
    records, depths = np.zeros((500, cpu_geometry.RECORD), np.float32), np.zeros(500, np.float32)
    to_pixels = (camera.K @ camera.viewmat[:3]).double().numpy()
    cpu_geometry.project(means.numpy(), tangents.numpy(), opacities.numpy(), to_pixels, 70, 50, records, depths)

    projection = project(means, tangents, camera)
    lower, upper = bounds(projection, opacities, camera)
    shows = (lower < upper).all(dim=1).numpy()
    boxes = torch.cat([torch.ceil(lower - 0.5), torch.floor(upper - 0.5) + 1], dim=1).numpy()
    np.testing.assert_allclose(depths, projection.depths, rtol=1e-5)
    np.testing.assert_allclose(records[shows, 9:11], projection.means2d[shows], atol=1e-3, rtol=1e-4)
    same = (records[shows, 12:] == boxes[shows]).mean()  # a side can be rounded over a pixel's centre
    assert same > 0.999
    assert (records[~shows, 12:14] >= records[~shows, 14:]).any(axis=1).all()


def test_camera_from_opengl() -> None:
    """Ahead of the camera is the principal point; right and up are right and up in the image."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    rotation = rotation * torch.linalg.det(rotation)
    position = torch.tensor([0.3, -1.0, 2.0])
    camera = Camera.from_opengl(torch.cat([rotation, position[:, None]], dim=1), 80.0, 90.0, 31.0, 22.0, 64, 48)
    right, up, backward = rotation.T
    points = torch.stack(
        [position - 2 * backward, position - 2 * backward + 0.1 * right, position - 2 * backward + 0.1 * up]
    )
    in_camera = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = in_camera @ camera.K.T
    torch.testing.assert_close(pixels[:, 2], torch.full((3,), 2.0))
    torch.testing.assert_close(pixels[:, :2] / 2, torch.tensor([[31.0, 22.0], [35.0, 22.0], [31.0, 17.5]]))
