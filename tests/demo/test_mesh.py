"""Subdivision, smoothing and cutting against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from fmgs_nerfstudio.demo.mesh import (
    boundary_loops,
    catmull_clark,
    cut,
    limit_positions,
    neighbour_mean,
    slope,
    triangulated,
    vertex_normals,
)

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
CUBE_QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A flat n x n grid of quads over the unit square, facing +z."""
    y, x = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    vertices = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    i = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    return vertices, np.stack([i, i + 1, i + n + 2, i + n + 1], 1)


def test_catmull_clark_of_a_cube() -> None:
    matrix, quads = catmull_clark(CUBE_QUADS, 8)
    v = matrix @ CUBE
    assert v.shape == (26, 3)
    assert quads.shape == (24, 4)
    # (mean of 3 face points + 2 mean of 3 edge midpoints) / 3 = (1/3 + 2 * 2/3) / 3 for every coordinate
    np.testing.assert_allclose(v[:8], CUBE * 5 / 9, atol=1e-12)
    edge = v[8:20]
    np.testing.assert_allclose(np.sort(np.abs(edge), axis=1), np.tile([0, 0.75, 0.75], (12, 1)), atol=1e-12)
    np.testing.assert_allclose(np.abs(v[20:]).sum(1), 1, atol=1e-12)
    mesh = trimesh.Trimesh(v, triangulated(quads), process=False)
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_limit_is_where_subdivision_goes() -> None:
    points, quads = CUBE, CUBE_QUADS
    for _ in range(6):
        step, quads = catmull_clark(quads, len(points))
        points = step @ points
    np.testing.assert_allclose(limit_positions(CUBE_QUADS, 8) @ CUBE, points[:8], atol=1e-3)


def test_flat_grid_stays_flat_and_keeps_its_rim() -> None:
    v, quads = grid(4)
    matrix, fine = catmull_clark(quads, len(v))
    p = matrix @ v
    assert np.allclose(p[:, 2], 0)
    (loop,) = boundary_loops(fine)
    on_edge = (np.isclose(p[loop], 0) | np.isclose(p[loop], 1))[:, :2].any(1)
    assert on_edge.sum() >= len(loop) - 4  # the rim is a spline: only its corners are rounded
    np.testing.assert_allclose(vertex_normals(p, triangulated(fine)), np.tile([0, 0, 1.0], (len(p), 1)))


def test_boundary_loop_runs_with_its_faces() -> None:
    v, quads = grid(3)
    (loop,) = boundary_loops(quads)
    assert len(loop) == 12
    x, y = v[loop, 0], v[loop, 1]
    area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    np.testing.assert_allclose(area, 1)  # counter-clockwise


@pytest.mark.parametrize("offset", [0.31, 0.5, 0.777])
def test_cut_is_exact(offset: float) -> None:
    v, quads = grid(8)
    level = v[:, 0] + 0.3 * v[:, 1] - offset
    matrix, faces = cut(triangulated(quads), level, snap=1e-9)
    p = matrix @ v
    mesh = trimesh.Trimesh(p, faces, process=False)
    # the part of the unit square where x > offset - 0.3 y
    np.testing.assert_allclose(mesh.area, 1 - np.mean([offset, offset - 0.3]), atol=1e-9)
    assert (matrix @ level).min() > -1e-12
    np.testing.assert_allclose(mesh.face_normals[:, 2], 1)
    np.testing.assert_allclose(slope(p, faces, matrix @ level), np.hypot(1, 0.3), atol=1e-6)


def test_neighbour_mean_keeps_linear_functions_inside() -> None:
    v, quads = grid(6)
    mean = neighbour_mean(quads, len(v))
    inside = (v[:, :2] > 0.01).all(1) & (v[:, :2] < 0.99).all(1)
    np.testing.assert_allclose((mean @ v)[inside], v[inside], atol=1e-12)
    np.testing.assert_allclose(np.asarray(mean.sum(1)).ravel(), 1)
