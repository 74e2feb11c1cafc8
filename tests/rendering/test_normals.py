from __future__ import annotations

import gsplat.utils
import torch
from support.rendering_scenes import leaf, random_rotations, random_scene, to_dtype

from fmgs_nerfstudio.rendering import depth_to_normal, surfel_normals

FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)


def test_depth_to_normal_is_gsplats() -> None:
    camera = random_scene(1, 30, 22).camera
    depth = 2 + torch.rand(22, 30, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64)
    theirs = gsplat.utils.depth_to_normal(depth[..., None], identity, camera.K)
    torch.testing.assert_close(depth_to_normal(depth, camera), theirs * FLIP)


def test_depth_of_a_plane() -> None:
    """n . x = c has depth c / (n . ray)."""
    camera = random_scene(1, 30, 22).camera
    normal = torch.tensor([0.3, -0.2, 0.933], dtype=torch.float64)
    normal = normal / normal.norm()
    y, x = torch.meshgrid(torch.arange(22), torch.arange(30), indexing="ij")
    K = camera.K
    rays = torch.stack(
        [(x + 0.5 - K[0, 2]) / K[0, 0], -(y + 0.5 - K[1, 2]) / K[1, 1], -torch.ones(22, 30)], dim=-1
    ).double()
    depth = -2 / (rays @ normal)
    normals = depth_to_normal(depth, camera)
    torch.testing.assert_close(normals[1:-1, 1:-1], normal.expand(20, 28, 3))
    assert (normals[0] == 0).all()
    assert (normals[:, -1] == 0).all()


def test_no_normal_beside_a_hole() -> None:
    camera = random_scene(1, 9, 7).camera
    depth = torch.full((7, 9), 2.0, dtype=torch.float64)
    depth[3, 4] = 0
    depth.requires_grad_()
    normals = depth_to_normal(depth, camera)
    zero = (normals == 0).all(dim=-1)
    expected = torch.ones(7, 9, dtype=torch.bool)
    expected[1:-1, 1:-1] = False
    for i, j in ((3, 4), (2, 4), (4, 4), (3, 3), (3, 5)):
        expected[i, j] = True
    assert torch.equal(zero, expected)
    (normals**2 + normals).sum().backward()
    assert depth.grad is not None
    assert torch.isfinite(depth.grad).all()


def test_surfel_normals_are_the_third_axis_whatever_it_faces() -> None:
    scene = random_scene(100, 64, 48, scales=(1e-5, 1e-2))
    normals = surfel_normals(scene.tangents, scene.camera)
    expected = scene.frames[:, :, 2] @ scene.camera.viewmat[:3, :3].T * FLIP
    torch.testing.assert_close(normals, expected)
    assert (expected[:, 2] < 0).any()
    single = surfel_normals(scene.tangents.float(), to_dtype(scene.camera, torch.float32))
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=0)


def test_surfel_normals_of_sheared_tangents_and_their_gradient() -> None:
    scene = random_scene(5, 64, 48)
    shear = torch.eye(3, dtype=torch.float64) + 0.3 * random_rotations(1, torch.Generator().manual_seed(0))[0]
    tangents = leaf(shear @ scene.tangents)
    normals = surfel_normals(tangents, scene.camera) * FLIP @ scene.camera.viewmat[:3, :3]
    torch.testing.assert_close((normals[:, None] @ tangents)[:, 0], torch.zeros(5, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda t: surfel_normals(t, scene.camera), [tangents], eps=1e-8)
