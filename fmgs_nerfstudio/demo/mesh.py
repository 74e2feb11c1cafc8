"""Meshes as arrays: subdivision and smoothing as sparse matrices, normals, cuts along a level line."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags, identity, vstack

from fmgs_nerfstudio.arrays import Array


def triangulated(quads: Int[Array, "F 4"]) -> Int[Array, "2F 3"]:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def vertex_normals(vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"]) -> Float[Array, "V 3"]:
    """Area-weighted unit normals; (0, 0, 1) for a vertex without an area around it."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=1,
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(length > 0, total / np.maximum(length, 1e-30), [0.0, 0.0, 1.0]).astype(vertices.dtype)


def slope(vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"], values: Float[Array, "V"]) -> Float[Array, "V"]:
    """Length of the surface gradient of `values` at the vertices: the mean over the triangles around each."""
    p, f = vertices[faces], values[faces]
    e1, e2, d1, d2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0], f[:, 1] - f[:, 0], f[:, 2] - f[:, 0]
    a, b, c = (np.einsum("fi,fi->f", u, v) for u, v in ((e1, e1), (e1, e2), (e2, e2)))
    squared = (c * d1**2 - 2 * b * d1 * d2 + a * d2**2) / np.maximum(a * c - b * b, 1e-14)
    total = np.bincount(faces.ravel(), np.repeat(np.sqrt(np.maximum(squared, 0)), 3), minlength=len(values))
    return total / np.maximum(np.bincount(faces.ravel(), minlength=len(values)), 1)


def _edges(
    polygons: Int[Array, "F K"],
) -> tuple[Int[Array, "E 2"], Int[Array, "FK"], Bool[Array, "E"]]:
    """Undirected edges, the edge of every half-edge (face by face), and which edges lie on the boundary."""
    half = np.stack([polygons, np.roll(polygons, -1, axis=1)], -1).reshape(-1, 2)
    edges, inverse, count = _unique_pairs(half)
    return edges, inverse, count == 1


def _unique_pairs(
    pairs: Int[Array, "N 2"],
) -> tuple[Int[Array, "E 2"], Int[Array, "N"], Int[Array, "E"]]:
    """Distinct undirected pairs, which of them each pair is, and how often it occurs."""
    low, high = pairs.min(1).astype(np.int64), pairs.max(1).astype(np.int64)
    key, inverse, count = np.unique(low << 32 | high, return_inverse=True, return_counts=True)
    return np.stack([key >> 32, key & 0xFFFFFFFF], 1), inverse, count


def boundary_loops(polygons: Int[Array, "F K"]) -> list[Int[Array, "N"]]:
    """Vertex ids of every hole's rim, in the direction in which the faces beside it run."""
    half = np.stack([polygons, np.roll(polygons, -1, axis=1)], -1).reshape(-1, 2)
    _, inverse, boundary = _edges(polygons)
    following = dict(half[boundary[inverse]].tolist())
    loops = []
    while following:
        start, vertex = following.popitem()
        loop = [start]
        while vertex != start:
            loop.append(vertex)
            vertex = following.pop(vertex)
        loops.append(np.array(loop))
    return loops


def _sparse(rows: list[Array], columns: list[Array], values: list[Array], shape: tuple[int, int]) -> csr_matrix:
    flat = [np.concatenate([np.ravel(part) for part in parts]) for parts in (values, rows, columns)]
    return csr_matrix(coo_matrix((flat[0], (flat[1], flat[2])), shape=shape))


def catmull_clark(quads: Int[Array, "F 4"], count: int) -> tuple[csr_matrix, Int[Array, "4F 4"]]:
    """One step of Catmull-Clark subdivision of a mesh of `count` vertices.

    Returns:
        The matrix from old to new vertices (old ones first, then edges, then faces), and the new quads.
    """
    edges, edge_of_half, boundary = _edges(quads)
    n_edges, n_faces = len(edges), len(quads)
    face_of_half = np.repeat(np.arange(n_faces), 4)
    faces = _sparse([face_of_half], [quads], [np.full(4 * n_faces, 0.25)], (n_faces, count))
    ends = _sparse([np.repeat(np.arange(n_edges), 2)], [edges], [np.full(2 * n_edges, 0.5)], (n_edges, count))
    beside = _sparse([edge_of_half], [face_of_half], [np.full(4 * n_faces, 0.5)], (n_edges, n_faces))
    inner = diags((~boundary).astype(float))
    edge_points = csr_matrix(diags(np.where(boundary, 1.0, 0.5)) @ ends + 0.5 * inner @ beside @ faces)
    vertex_points = _vertex_rule(quads, count, edges, boundary, faces, ends)

    middle = (count + edge_of_half).reshape(n_faces, 4)
    centre = np.broadcast_to((count + n_edges + np.arange(n_faces))[:, None], (n_faces, 4))
    children = np.stack([quads, middle, centre, np.roll(middle, 1, axis=1)], -1).reshape(-1, 4)
    return csr_matrix(vstack([vertex_points, edge_points, faces])), children


def _vertex_rule(
    quads: Array, count: int, edges: Array, boundary: Array, faces: csr_matrix, ends: csr_matrix
) -> csr_matrix:
    """(mean face point + 2 mean edge midpoint + (n - 3) v) / n inside; 1/8, 3/4, 1/8 along a boundary."""
    n_edges, n_faces = len(edges), len(quads)
    touching_edges = _sparse([edges], [np.repeat(np.arange(n_edges), 2)], [np.ones(2 * n_edges)], (count, n_edges))
    touching_faces = _sparse([quads], [np.repeat(np.arange(n_faces), 4)], [np.ones(4 * n_faces)], (count, n_faces))
    n = np.maximum(np.asarray(touching_edges.sum(1)).ravel(), 1.0)
    on_rim = np.zeros(count, bool)
    on_rim[edges[boundary]] = True
    used = np.zeros(count, bool)
    used[quads] = True
    inside = used & ~on_rim
    smooth = diags(np.where(inside, n**-2.0, 0)) @ (touching_faces @ faces + 2 * touching_edges @ ends)
    rim = diags(np.where(on_rim, 0.25, 0)) @ touching_edges @ diags(boundary.astype(float)) @ ends
    keep = diags(np.where(inside, (n - 3) / n, np.where(on_rim, 0.5, 1.0)))
    return csr_matrix(smooth + rim + keep @ identity(count))


def limit_positions(quads: Int[Array, "F 4"], count: int) -> csr_matrix:
    """Moves every vertex onto the Catmull-Clark limit surface.

    That is (n^2 v + 4 sum of edge points + sum of face points) / (n (n + 5)) of the once subdivided mesh. Boundary
    vertices only take the boundary rule.
    """
    step, _ = catmull_clark(quads, count)
    edges, _, boundary = _edges(quads)
    n_edges, n_faces = len(edges), len(quads)
    touching_edges = _sparse([edges], [np.repeat(np.arange(n_edges), 2)], [np.ones(2 * n_edges)], (count, n_edges))
    touching_faces = _sparse([quads], [np.repeat(np.arange(n_faces), 4)], [np.ones(4 * n_faces)], (count, n_faces))
    n = np.maximum(np.asarray(touching_edges.sum(1)).ravel(), 1.0)
    on_rim = np.zeros(count, bool)
    on_rim[edges[boundary]] = True
    used = np.zeros(count, bool)
    used[quads] = True
    inside = used & ~on_rim
    weight = np.where(inside, 1 / (n * (n + 5)), 0)
    old, edge, face = step[:count], step[count : count + n_edges], step[count + n_edges :]
    limit = diags(np.where(inside, n**2 * weight, 1)) @ old + diags(weight) @ (
        4 * touching_edges @ edge + touching_faces @ face
    )
    return csr_matrix(limit)


def neighbour_mean(faces: Int[Array, "F K"], count: int) -> csr_matrix:
    """Row-stochastic matrix of the mean over edge neighbours; identity for unused vertices.

    On a boundary only boundary neighbours count, so that smoothing does not pull a rim inward.
    """
    edges, _, boundary = _edges(faces)
    on_rim = np.zeros(count, bool)
    on_rim[edges[boundary]] = True
    both = np.concatenate([edges, edges[:, ::-1]])
    keep = ~on_rim[both[:, 0]] | np.concatenate([boundary, boundary])
    a, b = both[keep].T
    matrix = _sparse([a], [b], [np.ones(len(a))], (count, count))
    degree = np.asarray(matrix.sum(1)).ravel()
    return csr_matrix(diags(1 / np.maximum(degree, 1)) @ matrix + diags((degree == 0).astype(float)))


def cut(faces: Int[Array, "F 3"], level: Float[Array, "V"], snap: float = 0.02) -> tuple[csr_matrix, Int[Array, "M 3"]]:
    """Keep the part of a triangle mesh where `level` > 0, cut exactly along its zero line.

    `snap`: relative distance under which a crossing moves to the edge's end, against sliver triangles.

    Returns:
        The matrix from old to new vertices (rows interpolate along edges), and the new faces.
    """
    count = len(level)
    level = _snapped(faces, level, snap)
    positive = level[faces] > 0
    whole = positive.all(1)
    crossing = np.flatnonzero(positive.any(1) & ~whole)
    f, p = faces[crossing], positive[crossing]
    # rotate each crossed triangle so that its odd vertex out comes first
    odd = np.where(p.sum(1) == 1, p.argmax(1), (~p).argmax(1))
    f = np.take_along_axis(f, (odd[:, None] + np.arange(3)) % 3, axis=1)
    alone = level[f[:, 0]] > 0
    pairs = np.concatenate([f[:, [0, 1]], f[:, [0, 2]]])
    unique, inverse, _ = _unique_pairs(pairs)
    # a line through a vertex crosses there, not beside it
    ends = np.where(level[unique[:, 0]] == 0, unique[:, 0], np.where(level[unique[:, 1]] == 0, unique[:, 1], -1))
    ab, ac = np.where(ends < 0, count + np.arange(len(unique)), ends)[inverse].reshape(2, -1)
    a, b, c = f.T
    tip = np.stack([a, ab, ac], 1)[alone]
    rest = np.concatenate([np.stack([ab, b, c], 1)[~alone], np.stack([ab, c, ac], 1)[~alone]])
    out = np.concatenate([faces[whole], tip, rest])
    out = out[(out[:, 0] != out[:, 1]) & (out[:, 1] != out[:, 2]) & (out[:, 2] != out[:, 0])]

    la, lb = level[unique[:, 0]], level[unique[:, 1]]
    t = la / (la - lb)
    new = _sparse([np.repeat(np.arange(len(unique)), 2)], [unique], [np.stack([1 - t, t], 1)], (len(unique), count))
    used, compact = np.unique(out, return_inverse=True)
    return csr_matrix(vstack([identity(count, format="csr"), new]).tocsr()[used]), compact.reshape(-1, 3)


def _snapped(faces: Array, level: Array, snap: float) -> Float[Array, "V"]:
    edges, _, _ = _edges(faces)
    a, b = level[edges[:, 0]], level[edges[:, 1]]
    cross = (a > 0) != (b > 0)
    t = np.where(cross, a / np.where(cross, a - b, 1), 0.5)
    out = level.copy()
    # a vertex that a crossing all but touches joins the side that is cut away
    out[edges[cross & (t < snap) & (a > 0), 0]] = 0
    out[edges[cross & (t > 1 - snap) & (b > 0), 1]] = 0
    return out
