from __future__ import annotations

import math

import nerfacc
import numpy as np
import pytest
import torch
from gsplat.cuda._torch_impl_2dgs import accumulate_2dgs
from support.rendering_scenes import Scene, leaf, random_scene, random_values
from torch import Tensor

from fmgs_nerfstudio.rendering import Camera, Layer, rasterize
from fmgs_nerfstudio.rendering.projection import project


def render_by_rays(scene: Scene, values: np.ndarray) -> np.ndarray:
    """Every ray against every surfel's plane, by solving for (u, v, distance); one pixel at a time."""
    camera = scene.camera
    rotation, translation = camera.viewmat[:3, :3].numpy(), camera.viewmat[:3, 3].numpy()
    K = camera.K.numpy()
    centres = scene.means.numpy() @ rotation.T + translation
    tangents = rotation @ scene.tangents.numpy()
    image = np.zeros((camera.height, camera.width, values.shape[1]))
    for i in range(camera.height):
        for j in range(camera.width):
            ray = np.array([(j + 0.5 - K[0, 2]) / K[0, 0], (i + 0.5 - K[1, 2]) / K[1, 1], 1.0])
            transmittance = 1.0
            for n in np.argsort(centres[:, 2], kind="stable"):
                if centres[n, 2] <= 0.01:
                    continue
                u, v, _ = np.linalg.solve(np.column_stack([tangents[n], -ray]), -centres[n])
                # Centre of the ellipse's box, from its extreme points in the image
                angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
                circle = centres[n] + np.stack([np.cos(angles), np.sin(angles)], 1) @ tangents[n].T
                pixels = circle @ K.T
                pixels = pixels[:, :2] / pixels[:, 2:]
                box_centre = (pixels.max(0) + pixels.min(0)) / 2
                low_pass = 2 * ((np.array([j + 0.5, i + 0.5]) - box_centre) ** 2).sum()
                sigma = 0.5 * min(u * u + v * v, low_pass)
                alpha = min(0.999, scene.opacities[n].item() * math.exp(-sigma))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                image[i, j] += alpha * transmittance * values[n]
                transmittance *= 1 - alpha
    return image


@pytest.mark.parametrize("opacities", [(0.05, 0.95), (0.99, 1.0)])
def test_is_ray_by_ray_intersection(opacities: tuple[float, float]) -> None:
    scene = random_scene(12, 13, 9, scales=(0.1, 0.6), opacities=opacities)
    (values,) = random_values(scene, [3])
    (image,) = rasterize([Layer(scene.means, scene.tangents, scene.opacities, values)], scene.camera, "reference")
    np.testing.assert_allclose(image.numpy(), render_by_rays(scene, values.numpy()), atol=2e-5)


def test_is_gsplats_accumulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat's own formulas on all pairs of pixel and surfel, with nerfacc's batched weights (the flat need CUDA)."""
    scene = random_scene(40, 24, 18, opacities=(0.05, 0.5))
    camera = scene.camera
    (values,) = random_values(scene, [4])
    projection = project(scene.means, scene.tangents, camera)
    order = torch.argsort(projection.depths)
    pixels, count = camera.width * camera.height, len(scene.means)

    def batched(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
        shown = torch.where(alphas < 1 / 255, 0, alphas).reshape(n_rays, count)
        weights, transmittance = weight_of_batch(shown)
        return weights.flatten(), transmittance.flatten()

    weight_of_batch = nerfacc.render_weight_from_alpha
    monkeypatch.setattr(nerfacc, "render_weight_from_alpha", batched)
    theirs, alphas, _ = accumulate_2dgs(
        projection.means2d[None],
        projection.ray_transforms[None],
        scene.opacities[None],
        values[None],
        torch.zeros(1, count, 3, dtype=torch.float64),
        order.repeat(pixels),
        torch.arange(pixels).repeat_interleave(count),
        torch.zeros(pixels * count, dtype=torch.int64),
        camera.width,
        camera.height,
    )
    ones = torch.ones(count, 1, dtype=torch.float64)
    layer = Layer(scene.means, scene.tangents, scene.opacities, torch.cat([values, ones], dim=1))
    (ours,) = rasterize([layer], camera, "reference")
    assert alphas.max() > 0.5
    torch.testing.assert_close(ours, torch.cat([theirs[0], alphas[0]], dim=-1))


def test_gradients_are_finite_differences() -> None:
    scene = random_scene(6, 11, 7, seed=4, scales=(0.1, 0.5))
    (values,) = random_values(scene, [2])

    def render(*tensors: Tensor) -> Tensor:
        return rasterize([Layer(*tensors)], scene.camera, "reference")[0]

    tensors = [leaf(x) for x in (scene.means, scene.tangents, scene.opacities, values)]
    assert torch.autograd.gradcheck(render, tensors, eps=1e-7, atol=1e-5, rtol=1e-4)


def test_stops_before_the_surfel_that_would_leave_too_little() -> None:
    """T = 0.05, 0.0025, 0.000125, then 6.25e-6 <= 1e-4: three of the six count."""
    K = torch.tensor([[10.0, 0, 0.5], [0, 10, 0.5], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64), K, 1, 1)
    means = torch.zeros(6, 3, dtype=torch.float64)
    means[:, 2] = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    tangents = torch.eye(3, dtype=torch.float64)[None, :, :2].repeat(6, 1, 1)
    layer = Layer(means, tangents, torch.full((6,), 0.95, dtype=torch.float64), torch.eye(6, dtype=torch.float64))
    (image,) = rasterize([layer], camera, "reference")
    expected = torch.tensor([0, 0, 0, 0.95 * 0.05**2, 0.95 * 0.05, 0.95], dtype=torch.float64)
    torch.testing.assert_close(image[0, 0], expected)


def test_alpha_is_at_most_0_999() -> None:
    K = torch.tensor([[10.0, 0, 0.5], [0, 10, 0.5], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64), K, 1, 1)
    means = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    opacity = leaf(torch.ones(1))
    layer = Layer(means, torch.eye(3, dtype=torch.float64)[None, :, :2], opacity, torch.ones(1, 1, dtype=torch.float64))
    (image,) = rasterize([layer], camera, "reference")
    assert image.item() == 0.999
    image.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.item() == 0
