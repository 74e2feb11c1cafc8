"""The renderer of body meshes against closed forms, and against rays that are shot at every triangle."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.known_person import ASSET, Person

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.view import NEAR, MeshView, PosedBody, view_mesh

PIXELS = np.eye(3)
"""Intrinsics of a camera for which x and y at z = 1 are pixels."""
CAMERA = np.array([[60.0, 0.0, 30.0], [0.0, 55.0, 21.0], [0.0, 0.0, 1.0]])
WIDTH, HEIGHT = 64, 48
QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def seen(
    points: np.ndarray, faces: np.ndarray, K: np.ndarray = CAMERA, E: np.ndarray | None = None, size: int = WIDTH
) -> MeshView:
    return view_mesh(np.asarray(points, float), faces, K, np.eye(4) if E is None else E, size, HEIGHT)


def rays(K: np.ndarray = CAMERA) -> np.ndarray:
    """Directions [H, W, 3] through the pixels' centres, z = 1."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1)


def shot(points: np.ndarray, faces: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Depth of every face along every ray from the origin [H, W, F], infinite where it is missed.

    Moeller and Trumbore's test.
    """
    a, b, c = points[faces].swapaxes(0, 1)
    d = directions[:, :, None]
    p = np.cross(d, c - a)
    scale = ((b - a) * p).sum(-1)
    q = np.cross(-a, b - a)
    u, v = (-a * p).sum(-1) / scale, (d * q).sum(-1) / scale
    z = ((c - a) * q).sum(-1) / scale
    return np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (z > NEAR), z, np.inf)


def test_pixel_centres_are_at_a_half() -> None:
    """With centres at whole numbers the rectangle would have 4 x 5 pixels."""
    rectangle = np.array([[2.0, 3, 1], [5, 3, 1], [5, 7, 1], [2, 7, 1]])
    rows, columns = np.nonzero(seen(rectangle, QUAD, PIXELS).silhouette)
    assert set(zip(rows, columns, strict=True)) == {(i, j) for i in (3, 4, 5, 6) for j in (2, 3, 4)}


def test_a_centre_on_an_edge_is_covered_and_one_beside_it_is_not() -> None:
    corners, faces = np.array([[2.5, 2.5, 1], [6.5, 2.5, 1], [2.5, 6.5, 1]]), np.array([[0, 1, 2]])
    expected = {(i, j) for i in range(2, 7) for j in range(2, 7) if i + j <= 8}
    assert set(map(tuple, np.argwhere(seen(corners, faces, PIXELS).silhouette))) == expected
    smaller = corners + (corners.mean(0) - corners) * 1e-9
    inner = {(i, j) for i in range(3, 7) for j in range(3, 7) if i + j <= 7}
    assert set(map(tuple, np.argwhere(seen(smaller, faces, PIXELS).silhouette))) == inner


def test_the_depth_of_a_slope_is_that_under_the_centre() -> None:
    """Of a plane n . p = 1 the depth along d is 1 / (n . d); half a pixel beside it is 0.3 % off."""
    normal = np.array([0.3, -0.2, 0.4])
    corners = np.array([[-9.0, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]])
    corners[:, 2] = (1 - corners[:, :2] @ normal[:2]) / normal[2]
    view = seen(corners, QUAD[:, ::-1])
    np.testing.assert_allclose(view.depth, 1 / (rays() @ normal), rtol=1e-6)
    toward = -normal / np.linalg.norm(normal) * [1, -1, -1]
    np.testing.assert_allclose(view.normal, np.broadcast_to(toward, view.normal.shape), atol=1e-6)


def test_normals_are_in_opengl_axes_and_follow_the_winding() -> None:
    clockwise_in_the_image = np.array([[-9.0, -9, 2], [9, -9, 2], [9, 9, 2], [-9, 9, 2]])
    away, toward = (seen(clockwise_in_the_image, faces).normal for faces in (QUAD, QUAD[:, ::-1]))
    assert (toward == [0, 0, 1]).all()
    assert (away == [0, 0, -1]).all()


def test_a_ball_has_its_depth_and_normals() -> None:
    centre, radius = np.array([0.2, -0.1, 2.5]), 0.8
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    E = np.eye(4)
    E[:3, :3] = Rotation.from_euler("xyz", [0.4, 2.0, -1.0]).as_matrix()
    E[:3, 3] = [0.5, 0.7, -0.3]
    world = (centre - E[:3, 3]) @ E[:3, :3]
    view = seen(np.asarray(ball.vertices) + world, np.asarray(ball.faces), E=E)
    d = rays()
    half, square = d @ centre, (d * d).sum(-1)
    root = half**2 - square * (centre @ centre - radius**2)
    hit = root > 0
    assert (view.silhouette != hit).sum() <= 4  # the mesh lies inside of the ball
    inside = root > 0.2
    assert inside.sum() > 500
    depth = (half - np.sqrt(np.maximum(root, 0))) / square
    np.testing.assert_allclose(view.depth[inside], depth[inside], atol=4e-4)
    normal = (d * depth[..., None] - centre) / radius * [1, -1, -1]
    assert (view.normal * normal).sum(-1)[inside].min() > np.cos(np.radians(2))
    assert not view.normal[~view.silhouette].any()
    assert not view.depth[~view.silhouette].any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_what_rays_hit_around_the_camera(seed: int) -> None:
    """Triangles before it, behind it and through it, larger and smaller than the image; the nearest is seen."""
    rng = np.random.default_rng(seed)
    size = rng.choice([0.05, 0.5, 5.0], (40, 1, 1))
    points = (rng.normal(0, 1.5, (40, 1, 3)) + size * rng.normal(size=(40, 3, 3))).reshape(-1, 3)
    faces = np.arange(120).reshape(40, 3)
    depths = shot(points, faces, rays())
    view, nearest = seen(points, faces), depths.min(-1)
    same = view.silhouette == (nearest < np.inf)
    assert (~same).sum() <= 1  # a centre on an edge
    there = view.silhouette & same
    drawn = np.take_along_axis(depths, np.maximum(view.face, 0)[..., None], -1)[..., 0]
    for depth in (view.depth, drawn):
        assert (np.abs(depth[there] - nearest[there]) > 1e-5 * nearest[there]).sum() <= 1


def test_a_floor_runs_under_the_camera() -> None:
    """From behind it to the horizon: y = h is seen at z = h f / (row - c), unless that is too near."""
    for h in (0.5, 0.01):
        floor = np.array([[-1e3, h, -10], [1e3, h, -10], [1e3, h, 1e4], [-1e3, h, 1e4]])
        row = np.arange(HEIGHT) + 0.5 - CAMERA[1, 2]
        z = h * CAMERA[1, 1] / np.where(row > 0, row, np.inf)
        z[(z <= NEAR) | (z > 1e4)] = 0
        assert (z > 0).any()
        np.testing.assert_allclose(seen(floor, QUAD).depth, np.repeat(z[:, None], WIDTH, 1), rtol=1e-6)
    low = np.array([[-1.0, 1e-3, -10], [1, 1e-3, -10], [1, 1e-3, 10], [-1, 1e-3, 10]])
    assert 0 < seen(low, QUAD).silhouette.any(1).sum() < HEIGHT - CAMERA[1, 2] - 15  # the near plane cuts it


def test_nothing_is_seen_of_what_is_behind_or_empty() -> None:
    behind = np.array([[-9.0, -9, -2], [9, -9, -2], [9, 9, -2], [-9, 9, -2]])
    flat = np.array([[0.0, 0, 2], [0.1, 0, 2], [0.2, 0, 2]])
    for view in (seen(behind, QUAD), seen(flat, QUAD[:1]), seen(behind, QUAD[:0])):
        assert not view.silhouette.any()
        assert not view.depth.any()
        assert not view.normal.any()


@pytest.mark.parametrize("distance", [2.5, 0.9, 0.0])
def test_a_body_before_around_and_larger_than_the_camera(distance: float) -> None:
    """Every third pixel of every third row against rays at all triangles; at 0 the camera stands inside of it."""
    person = Person(2)
    body = PosedBody(BodyModel.load(ASSET), person.betas, person.pose)
    np.testing.assert_allclose(body.pelvis, person.joints[0], atol=1e-6)
    E = np.eye(4)
    E[:3, :3] = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    E[:3, 3] = [0, 0, distance]
    view = body.view(1, person.transl[1], CAMERA, E, WIDTH, HEIGHT)
    points = person.vertices[1] @ E[:3, :3].T + E[:3, 3]
    faces = BodyModel.load(ASSET).faces.numpy()
    nearest = np.min([shot(points, part, rays()[::3, ::3]).min(-1) for part in np.array_split(faces, 40)], axis=0)
    hit, silhouette, depth = nearest < np.inf, view.silhouette[::3, ::3], view.depth[::3, ::3]
    assert hit.sum() > 20
    assert (silhouette != hit).sum() <= 1
    both = hit & silhouette
    np.testing.assert_allclose(depth[both], nearest[both], atol=2e-4)
