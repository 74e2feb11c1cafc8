"""Cameras that watch a motion."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from fmgs_nerfstudio.motion.cameras import CameraName, look_at, watch, whole_person_zoom
from fmgs_nerfstudio.rendering import Camera

UP = np.array([0.0, 0.0, 1.0])
EYE = np.array([0.0, -4.0, 1.2])
FPS = 10.0


def capture_camera() -> Camera:
    view = look_at(EYE, np.array([0.0, 0.0, 1.0]), UP)
    K = torch.tensor([[300.0, 0, 130.0], [0, 300.0, 120.0], [0, 0, 1]])
    return Camera(torch.from_numpy(view).float(), K, 256, 240)


def walk(frames: int = 80) -> np.ndarray:
    """[T, 24, 3]: a cloud of joints 1.6 m high that wanders 3 m to the side, arms swinging."""
    rng = np.random.default_rng(0)
    body = rng.uniform([-0.3, -0.2, 0.0], [0.3, 0.2, 1.6], (24, 3))
    body[0] = 0, 0, 0.9
    t = np.linspace(0, 1, frames)[:, None, None]
    return body + t * [3.0, 0.5, 0.0] + 0.1 * np.sin(20 * t + np.arange(24)[:, None])


def pixels(camera: Camera, points: np.ndarray) -> np.ndarray:
    view, K = camera.viewmat.numpy(), camera.K.numpy()
    seen = (points @ view[:3, :3].T + view[:3, 3]) @ K.T
    return seen[..., :2] / seen[..., 2:]


def test_look_at_centres_the_target_and_keeps_up_up() -> None:
    camera = Camera(torch.from_numpy(look_at(EYE, np.ones(3), UP)).float(), capture_camera().K, 256, 240)
    np.testing.assert_allclose(pixels(camera, np.ones(3)), [130, 120], atol=1e-3)
    above, right = np.ones(3) + 0.1 * UP, np.ones(3) + 0.1 * np.cross(np.ones(3) - EYE, UP)
    assert pixels(camera, above)[1] < 120
    assert pixels(camera, right)[0] > 130
    rotation = camera.viewmat[:3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
    assert torch.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("kind", get_args(CameraName))
def test_the_whole_person_is_in_the_image(kind: CameraName) -> None:
    joints = walk()
    cameras = watch(kind, capture_camera(), joints, UP, FPS)
    assert len(cameras) == len(joints)
    seen = np.stack([pixels(camera, points) for camera, points in zip(cameras, joints, strict=True)])
    assert (seen > 0).all()
    assert (seen < [256, 240]).all()
    if kind != "fixed":  # and not lost in it
        assert (np.ptp(seen.reshape(-1, 2), axis=0) / [256, 240]).max() > 0.6


@pytest.mark.parametrize(("place", "pixels_to_the_edge"), [((-1, 0), 60), ((1, 0), 40), ((0, -1), 30), ((0, 1), 50)])
def test_the_zoom_leaves_room_on_every_side(place: tuple[int, int], pixels_to_the_edge: int) -> None:
    """A joint 1 m aside and 2 m away, and 13 cm beyond it, at 96 % of the way to that edge of the image."""
    K = np.array([[100.0, 0, 60.0], [0, 100.0, 30.0], [0, 0, 1]])
    joints = np.tile([0.0, 0.0, 2.0], (1, 24, 1))
    joints[0, 4, :2] = place
    found = whole_person_zoom([np.eye(4)], K, 100, 80, joints)
    assert found == pytest.approx(0.96 * pixels_to_the_edge / (100 * 1.13 / 2))


def test_a_fixed_camera_comes_no_closer_and_a_following_one_looks_at_the_middle() -> None:
    small = walk(1) * 0.1
    assert torch.equal(watch("fixed", capture_camera(), small, UP, FPS)[0].K, capture_camera().K)
    joints = np.tile(walk(1), (9, 1, 1))
    pelvis, heights = joints[0, 0], joints[0, :, 2]
    middle = [pelvis[0], pelvis[1], (heights.max() + heights.min()) / 2]
    assert abs(middle[2] - pelvis[2]) > 0.05
    following = watch("follow", capture_camera(), joints, UP, FPS)[0]
    np.testing.assert_allclose(pixels(following, np.array(middle)), [128, 120], atol=1e-2)


def test_the_fixed_camera_is_the_captures() -> None:
    camera = capture_camera()
    near = np.tile(walk(1), (5, 1, 1)) * [1, 1, 0.5] + [0, 0, 0.5]
    for watching in watch("fixed", camera, near, UP, FPS, zoom=1.0):
        assert torch.equal(watching.viewmat, camera.viewmat)
        assert torch.equal(watching.K, camera.K)


def test_a_following_camera_keeps_its_side_and_an_orbit_goes_around() -> None:
    joints = np.tile(walk(1), (81, 1, 1))  # stands still
    eyes = {}
    for kind in ("follow", "orbit"):
        views = [c.viewmat.double().numpy() for c in watch(kind, capture_camera(), joints, UP, FPS, seconds_per_turn=8)]
        eyes[kind] = np.stack([-view[:3, :3].T @ view[:3, 3] for view in views])
    np.testing.assert_allclose(eyes["follow"], np.tile(EYE, (81, 1)), atol=1e-5)
    np.testing.assert_allclose(eyes["orbit"][[0, 80]], np.tile(EYE, (2, 1)), atol=1e-5)
    np.testing.assert_allclose(eyes["orbit"][40], EYE * [-1, -1, 1], atol=1e-5)
    np.testing.assert_allclose(eyes["orbit"][:, 2], EYE[2], atol=1e-5)
