"""Closed surfaces: outlines as wide as they are, and no far side through the near one."""

import math

import pytest
import torch
import trimesh

from fmgs_nerfstudio.avatar import Avatar
from fmgs_nerfstudio.modalities import RenderingConfig, compose_outputs, render_modalities
from fmgs_nerfstudio.rendering import Camera, Layer, facing_away, rasterize, rasterize_finer
from fmgs_nerfstudio.surfels import bind_to_faces

RADIUS, DISTANCE, FOCAL, SIZE = 0.5, 4.0, 160.0, 64


def view() -> Camera:
    """From the side, so that a transposed rotation would show."""
    angle = torch.tensor(0.7)
    rotation = torch.tensor([[angle.cos(), 0, -angle.sin()], [0, 1, 0], [angle.sin(), 0, angle.cos()]])
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[2, 3] = rotation, DISTANCE
    return Camera(viewmat, torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]), SIZE, SIZE)


def ball(opacity: float = 0.9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    surfels = bind_to_faces(torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces), size=1.0)
    tangents = surfels.frames[..., :2] * surfels.scales[:, None]
    return surfels.means, tangents, torch.full((len(surfels.means),), opacity)


def test_the_outline_is_nearer_to_the_true_one_with_more_pixels() -> None:
    means, tangents, opacities = ball()
    layer = Layer(means, tangents, opacities, torch.ones(len(means), 1))
    # The cone that touches the sphere, seen on the image plane.
    true_radius = FOCAL * RADIUS / math.sqrt(DISTANCE**2 - RADIUS**2)
    pad = {}
    for factor in (1, 2, 4):
        (alpha,) = rasterize_finer([layer], view(), factor)
        assert alpha.shape == (SIZE, SIZE, 1)
        pad[factor] = math.sqrt(float(alpha.sum()) / math.pi) - true_radius
    assert pad[1] > 0.9
    assert pad[2] < 0.6 * pad[1]
    assert pad[4] < 0.6 * pad[2]


def test_finer_pixels_are_the_mean_of_views_shifted_by_a_part_of_a_pixel() -> None:
    """A finer camera's pixels are those of cameras with twice the focal length, taken apart: each its own view."""
    means, tangents, opacities = ball()
    values = torch.rand(len(means), 3, generator=torch.Generator().manual_seed(0))
    layer, camera = Layer(means, tangents, opacities, values), view()
    (image,) = rasterize_finer([layer], camera, 2)
    K = torch.tensor([[2 * FOCAL, 0, SIZE], [0, 2 * FOCAL, SIZE], [0, 0, 1]])
    (big,) = rasterize([layer], Camera(camera.viewmat, K, 2 * SIZE, 2 * SIZE))
    mean = (big[::2, ::2] + big[1::2, ::2] + big[::2, 1::2] + big[1::2, 1::2]) / 4
    torch.testing.assert_close(image, mean)


@pytest.mark.parametrize("offset", [torch.zeros(3), torch.tensor([0.3, -0.2, 0.1])])
def test_facing_away_is_the_cosine_of_the_ball_s_normal_and_the_line_of_sight(offset: torch.Tensor) -> None:
    means, tangents, _ = ball()
    camera = view()
    centre = -camera.viewmat[:3, :3].T @ camera.viewmat[:3, 3]
    outward = means / means.norm(dim=-1, keepdim=True)
    sight = means + offset - centre
    expected = (sight * outward).sum(-1) / sight.norm(dim=-1)
    cosine = facing_away(means + offset, tangents, camera)
    torch.testing.assert_close(cosine, expected, atol=0.02, rtol=0)  # faces are flat, the ball is not
    assert 0.4 < (cosine < 0).float().mean() < 0.5  # from a finite distance less than half is seen


def test_the_far_side_does_not_show_through_gaps_of_the_near_one() -> None:
    """A ball with holes: without back faces its depth is the near side's; with all of them, the far side's mixes in."""
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    surfels = bind_to_faces(torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces), size=1.0)
    count, nothing, camera = len(surfels.means), torch.zeros(1), view()
    T = torch.eye(3, 4).expand(count, 3, 4)
    avatar = Avatar(surfels, T, torch.full((count,), 0.05), nothing, nothing, nothing, {})
    depths = {}
    for cutoff in (0.0, 0.3, 1.0):
        config = RenderingConfig(backface_cutoff=cutoff, supersampling=1)
        rendered = render_modalities(avatar, torch.ones(count, 3), camera, ("colour", "depth"), config)
        maps = compose_outputs(rendered, camera, torch.zeros(3))
        depths[cutoff] = float(maps["depth"][SIZE // 2, SIZE // 2])
    assert depths[0.0] == pytest.approx(DISTANCE - RADIUS, abs=0.005)
    assert depths[0.3] == depths[0.0]  # in the middle of the ball no back is near its outline
    assert depths[1.0] > DISTANCE - RADIUS + 0.05


def test_a_supersampling_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="supersampling is 0; expected 1 or more"):
        RenderingConfig(supersampling=0)
