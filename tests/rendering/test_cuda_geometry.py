"""A card's projection and its gradient in few operations are those that `projection` defines."""

from __future__ import annotations

import math

import pytest
import torch
from support.rendering_scenes import leaf, random_scene, relative_error

from fmgs_nerfstudio.rendering import cuda_geometry
from fmgs_nerfstudio.rendering.layers import Camera
from fmgs_nerfstudio.rendering.projection import bounds, project


@pytest.mark.parametrize("scales", [(0.0003, 0.003), (0.02, 0.12), (0.2, 2.0)])
def test_values_are_the_definitions(scales: tuple[float, float]) -> None:
    """Squares reach as far as the boxes, and no farther than the next pixel but where the image cuts those."""
    scene = random_scene(500, 70, 50, scales=scales, opacities=(0.0, 0.95))
    ours = cuda_geometry.project(scene.means, scene.tangents, scene.opacities, scene.camera)
    expected = project(scene.means, scene.tangents, scene.camera)
    torch.testing.assert_close(ours.columns.mT, expected.ray_transforms)
    assert expected.valid.sum() > 300
    torch.testing.assert_close(ours.centres[expected.valid], expected.means2d[expected.valid])

    lower, upper = bounds(expected, scene.opacities, scene.camera)
    reach = torch.maximum((lower - expected.means2d).abs(), (upper - expected.means2d).abs()).amax(dim=1)
    shows = (lower < upper).all(dim=1)
    assert (ours.radii >= reach)[shows].all()
    faint = scene.opacities < 1 / 255
    assert faint.any()
    assert not ours.radii[faint | ~expected.valid].any()
    uncut = shows & (lower > 0).all(1) & (upper < torch.tensor([70, 50])).all(1)
    assert uncut.any() or scales[0] >= 0.2
    assert (ours.radii <= reach.ceil() + 1e-9)[uncut].all()


@pytest.mark.parametrize("scales", [(0.003, 0.02), (0.02, 0.12), (0.2, 2.0)])
def test_gradients_are_the_definitions(scales: tuple[float, float]) -> None:
    """Two at once; surfels that are not valid are never drawn and so have none."""
    scene = random_scene(60, 64, 48, scales=scales)
    means, tangents = leaf(scene.means), leaf(scene.tangents)
    expected = project(means, tangents, scene.camera)
    generator = torch.Generator().manual_seed(0)
    v_centres, v_M = (
        torch.randn(2, *x.shape, generator=generator, dtype=x.dtype) * expected.valid.view(-1, *[1] * (x.dim() - 1))
        for x in (expected.means2d, expected.ray_transforms)
    )
    ours = cuda_geometry.project(scene.means, scene.tangents, scene.opacities, scene.camera)
    gradients = cuda_geometry.unproject(ours, v_centres, v_M)
    for g in range(2):
        outputs, cotangents = [expected.means2d, expected.ray_transforms], [v_centres[g], v_M[g]]
        references = torch.autograd.grad(outputs, [means, tangents], cotangents, retain_graph=True)
        for gradient, reference in zip(gradients, references, strict=True):
            assert relative_error(gradient[g], reference) < 1e-10


@pytest.mark.parametrize("z", [-2.0, 0.0, 0.005, math.nan])
def test_what_cannot_be_seen_has_no_radius(z: float) -> None:
    K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    means, tangents = torch.tensor([[0.0, 0.0, z]]), torch.tensor([[[0.1, 0.0], [0.0, 0.0], [0.0, 0.1]]])
    ours = cuda_geometry.project(means, tangents, torch.tensor([0.9]), Camera(torch.eye(4), K, 100, 80))
    assert ours.radii.tolist() == [0]
    if not math.isnan(z):
        gradients = cuda_geometry.unproject(ours, torch.zeros(1, 1, 2), torch.zeros(1, 1, 3, 3))
        assert not any(gradient.any() for gradient in gradients)
