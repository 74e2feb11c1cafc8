"""The networks give what TensorFlow Lite's own runtime gives, whatever the picture's turn, place and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.footage import JOINTS, SIZE, place, turning, wall

from fmgs_nerfstudio.track.networks import DETECTOR, LANDMARKS, SIDE, WEIGHTS, Detector, LandmarkNetwork, Region


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    return LandmarkNetwork()


def _picture(side: int) -> np.ndarray:
    """Something like a person, blue, green, red."""
    y, x = np.mgrid[:side, :side] / side
    body = np.exp(-(((x - 0.5) / 0.08) ** 2) - ((y - 0.5) / 0.3) ** 2)
    head = np.exp(-((x - 0.5) ** 2 + (y - 0.17) ** 2) / 0.003)
    channels = 0.4 + 0.3 * x - 0.3 * body, 0.5 - 0.2 * y + 0.3 * head, 0.45 + 0.4 * body + 0.4 * head
    return np.rint(255 * np.stack(channels, -1).clip(0, 1)).astype(np.uint8)


def test_detector_agrees_with_tensorflow_lite() -> None:
    """Values of ai-edge-litert 2.3.0 with the file that ours was made from."""
    net = cv2.dnn.readNetFromONNX(str(WEIGHTS / DETECTOR))
    net.setInput(cv2.dnn.blobFromImage(_picture(224), 1 / 127.5, mean=(127.5,) * 3, swapRB=True))
    score, boxes = (output[0] for output in net.forward(net.getUnconnectedOutLayersNames()))
    expected = [-67.5085, -112.1379, -6.8039, -7.4008, -16.4032, -27.8416]
    np.testing.assert_allclose(score[[0, 700, 1568, 1800, 1960, 2253], 0], expected, atol=2e-3)
    first = [-2.558, -8.116, 3.914, -6.266, 1.19, 3.431, -2.554, -2.318, -0.953, -7.784, -19.042, 5.786]
    last = [0.236, -0.2, 0.184, -0.052, -0.086, 0.095, -0.137, 0.433, -0.147, -0.285, 0.422, 0.16]
    np.testing.assert_allclose(boxes[[0, 2253]], [first, last], atol=5e-3)


def test_landmark_network_agrees_with_tensorflow_lite() -> None:
    """Values of ai-edge-litert 2.3.0 with the same file."""
    net = cv2.dnn.readNetFromTFLite(str(WEIGHTS / LANDMARKS))
    net.setInput(cv2.dnn.blobFromImage(_picture(256), 1 / 255, swapRB=True))
    landmarks, mask, world = net.forward(["Identity", "Identity_2", "Identity_4"])
    expected = [132.2556, 51.1716, -87.4888, -1.7833, -2.9254, 129.0439]
    np.testing.assert_allclose(landmarks.ravel()[: 6 * 16 : 16], expected, atol=0.01)
    np.testing.assert_allclose(np.abs(mask).mean(), 28.9553, rtol=1e-4)
    np.testing.assert_allclose(np.abs(world).mean(), 0.36753, rtol=1e-3)


def test_a_region_and_the_image() -> None:
    """Its matrix is OpenCV's form of the inverse of `to_image`: centres of pixels half a pixel in."""
    region = Region(np.array([40.0, 70.0]), 64.0, 0.4)
    points = np.random.default_rng(0).uniform(0, 128, (5, 2))
    back = (region.to_image(points, 128) - 0.5) @ region.matrix(128)[:, :2].T + region.matrix(128)[:, 2] + 0.5
    np.testing.assert_allclose(back, points, atol=1e-9)
    up = region.to_image(np.array([[64.0, 0.0]]), 128)[0] - region.centre
    np.testing.assert_allclose(up, [32 * np.sin(0.4), -32 * np.cos(0.4)])
    again = Region.around(region.centre, region.centre + up / 1.25)
    np.testing.assert_allclose([again.side, again.angle], [64.0, 0.4])


def test_a_picture_is_cut_without_loss_of_pixels() -> None:
    """A large region is averaged, not sampled: stripes of one pixel become grey."""
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 200
    cut = Region(np.array([512.0, 512.0]), 1024.0).cut(stripes)
    assert cut.shape == (SIDE, SIDE, 3)
    assert np.abs(cut[20:-20, 20:-20].astype(int) - 100).max() <= 2


@pytest.mark.parametrize(("scale", "quarters"), [(1.0, 0), (1.6, 1), (1.0, 2)])
def test_landmarks_are_where_the_joints_are(network: LandmarkNetwork, scale: float, quarters: int) -> None:
    shot = turning()[0]
    image = place(wall(), shot, 150, 20) if scale == 1 else place(wall(1, 900, 600), shot, 200, 40, scale)
    joints = shot.joints * scale + ([150, 20] if scale == 1 else [200, 40])
    for _ in range(quarters):
        image = np.ascontiguousarray(np.rot90(image))
        joints = np.stack([joints[:, 1], image.shape[0] - joints[:, 0]], 1)
    people = Detector()(image)
    assert len(people) == 1
    look = network(image, people[0].region)
    look = network(image, look.next)
    apart = np.hypot(*(look.landmarks[list(JOINTS)] - joints[list(JOINTS.values())]).T) / scale
    assert apart.mean() < 4  # of 250 pixels that the person is high
    assert apart.max() < 10
    # Metres, in the camera's axes: left of the person is right in the image where they face it upright.
    across = look.world[11] - look.world[12]
    sides = joints[16] - joints[17]
    np.testing.assert_allclose(across[:2] / np.hypot(*across[:2]), sides / np.hypot(*sides), atol=0.15)
    assert 0.25 < np.linalg.norm(across) < 0.45
    assert look.depth[0] < 0  # the nose is nearer than the hips
    assert look.world[0, 2] < 0


def test_left_is_left_in_a_mirror(network: LandmarkNetwork) -> None:
    """The mean of both passes of a mirrored picture is the mirrored mean, left and right swapped."""
    image = place(wall(), turning()[2], 150, 20)
    region = Region(np.array([150 + SIZE / 2, 20 + SIZE / 2]), 300.0, 0.1)
    there = Region(np.array([image.shape[1] - region.centre[0], region.centre[1]]), 300.0, -0.1)
    look, mirrored = network(image, region), network(np.ascontiguousarray(image[:, ::-1]), there)
    swap = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9, *np.arange(11, 33).reshape(-1, 2)[:, ::-1].ravel()]
    np.testing.assert_allclose(mirrored.landmarks[swap] * [-1, 1] + [image.shape[1], 0], look.landmarks, atol=0.5)
    np.testing.assert_allclose(mirrored.world[swap] * [-1, 1, 1], look.world, atol=0.02)
    np.testing.assert_allclose(mirrored.score[swap], look.score, atol=0.05)
