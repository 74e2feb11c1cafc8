"""A camera frame in the viewer, against rays and projections in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.modalities import Pictures
from fmgs_nerfstudio.rendering import Camera
from fmgs_nerfstudio.viewer.frame_overlay import FrameOverlay, field_of_view, frame_seen_from

POINT = np.array([0.1, -0.2, 3.0])


def camera(rotation: tuple[float, float, float], centre: tuple[float, float, float], width: int = 48) -> Camera:
    """Looks along z, turned by Euler angles in degrees, from `centre`."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    viewmat[:3, 3] = -viewmat[:3, :3] @ centre
    K = np.array([[60.0, 0, width / 2 + 1], [0, 55.0, 17], [0, 0, 1]])
    return Camera(torch.from_numpy(viewmat).float(), torch.from_numpy(K).float(), width, 36)


def coordinates(camera: Camera) -> torch.Tensor:
    """An image whose colours are where its pixels are: bilinear sampling gives positions back."""
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)


def through_plane(view: Camera, source: Camera, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of `source` that show what pixels of `view` show of the plane, and whether the plane is before them."""
    W, C = view.viewmat.double().numpy(), source.viewmat.double().numpy()
    eye, normal = -W[:3, :3].T @ W[:3, 3], C[2, :3]
    found, front = np.zeros((view.height, view.width, 2)), np.zeros((view.height, view.width), bool)
    for row in range(view.height):
        for column in range(view.width):
            ray = W[:3, :3].T @ np.linalg.solve(view.K.double().numpy(), [column + 0.5, row + 0.5, 1.0])
            distance = normal @ (point - eye) / (normal @ ray)
            seen = source.K.double().numpy() @ (C[:3, :3] @ (eye + distance * ray) + C[:3, 3])
            found[row, column], front[row, column] = seen[:2] / seen[2], distance > 0
    return found, front


@pytest.mark.parametrize(
    "view",
    [
        camera((0, 0, 0), (0.0, 0.0, 0.0)),
        camera((5, -12, 3), (0.4, -0.1, 0.3), width=40),
        camera((0, 35, 0), (1.8, -0.2, 0.5)),
        camera((0, 180, 0), (0.0, 0.0, 6.0)),  # from behind: mirrored
        camera((0, 80, 0), (1.0, -0.2, 2.5)),  # partly away from the plane
    ],
)
def test_the_frame_lies_on_the_plane_through_the_person(view: Camera) -> None:
    source = camera((2, 4, -3), (0.05, 0.0, -0.1))
    colours, covered = frame_seen_from(view, coordinates(source), source, torch.from_numpy(POINT).float())
    found, front = through_plane(view, source, POINT)
    inside = front & (found > 1).all(-1) & (found[..., 0] < source.width - 1) & (found[..., 1] < source.height - 1)
    outside = ~front | (found < -0.01).any(-1) | (found[..., 0] > source.width + 0.01) | (found[..., 1] > 36.01)
    assert inside.sum() > 50
    assert covered[..., 0].numpy()[inside].all()
    assert not covered[..., 0].numpy()[outside].any()
    np.testing.assert_allclose(colours.numpy()[inside][:, :2], found[inside], atol=2e-2)


def test_at_the_camera_the_frame_is_the_frame() -> None:
    """And does not depend on where the person is."""
    source = camera((2, 4, -3), (0.05, 0.0, -0.1))
    image = torch.rand(source.height, source.width, 3)
    for distance in (0.5, 3.0, 40.0):
        colours, covered = frame_seen_from(source, image, source, torch.tensor([0.0, 0.0, distance]))
        assert covered.all()
        torch.testing.assert_close(colours, image, atol=1e-3, rtol=0)


def test_the_whole_image_is_in_the_window() -> None:
    source = camera((0, 0, 0), (0.0, 0.0, 0.0))
    for aspect in (0.4, 1.0, 3.0):
        tangent = math.tan(field_of_view(source, aspect) / 2)
        corners = np.array([[0.0, 0], [source.width, source.height]]) - source.K[:2, 2].numpy()
        reach = np.abs(corners / [60.0, 55.0])
        assert (reach <= np.array([aspect * tangent, tangent]) + 1e-6).all()
        assert np.isclose(reach, [aspect * tangent, tangent]).any()


def test_a_wipe_is_left_of_its_border_and_a_blend_everywhere() -> None:
    maps = Pictures({"rgb": torch.zeros(4, 10, 3), "depth": torch.zeros(4, 10, 1)})
    maps.maps = {}
    frame, covered = torch.ones(4, 10, 3), torch.ones(4, 10, 1, dtype=torch.bool)
    covered[0] = False
    wiped = FrameOverlay("", amount=0.3).apply(maps, frame, covered)
    assert wiped["rgb"][1:, :3].eq(1).all()
    assert wiped["rgb"][:, 3:].eq(0).all()
    assert wiped["rgb"][0].eq(0).all()
    assert wiped["depth"] is maps["depth"]
    blended = FrameOverlay("", amount=0.3, blend=True).apply(maps, frame, covered)
    torch.testing.assert_close(blended["rgb"][1:], torch.full((3, 10, 3), 0.3))
