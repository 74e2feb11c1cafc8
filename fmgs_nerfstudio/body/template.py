"""The template mesh: the canonical body upsampled to a given number of vertices, weights interpolated along (4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TemplateMesh:
    """M_c^up: V vertices in canonical space (metres), F faces, skinning weights that sum to one."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V 24"]


def upsample(
    vertices: Float[Tensor, "V0 3"], faces: Int[Tensor, "F0 3"], weights: Float[Tensor, "V0 24"], n_vertices: int
) -> TemplateMesh:
    """Upsample to exactly `n_vertices`: midpoint subdivision while it fits, then the longest edges are split.

    Raises:
        ValueError: fewer vertices are asked for than the body has.
    """
    if n_vertices < len(vertices):
        raise ValueError(f"the template has at least the body's {len(vertices)} vertices; {n_vertices} were asked for")
    v, f, w = vertices.numpy().astype(np.float64), faces.numpy(), weights.numpy().astype(np.float64)
    while len(v) + len(trimesh.geometry.faces_to_edges(f)) // 2 <= n_vertices:
        v, f, attributes = trimesh.remesh.subdivide(v, f, vertex_attributes={"weights": w})
        w = attributes["weights"]
    while len(v) < n_vertices:
        v, f, w = _split_longest_edges(v, f, w, n_vertices - len(v))
    return TemplateMesh(
        torch.from_numpy(v.astype(np.float32)), torch.from_numpy(f.astype(np.int64)), torch.from_numpy(w).float()
    )


def _split_longest_edges(v: np.ndarray, f: np.ndarray, w: np.ndarray, most: int) -> tuple[np.ndarray, ...]:
    """Halve up to `most` edges, each the longest of both its faces: so no face is split twice in one round."""
    corners = np.arange(3)
    edges = np.sort(np.stack([f, np.roll(f, -1, axis=1)], axis=-1), axis=-1)  # [F, 3, 2]: edge k runs from corner k
    unique, edge_of = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
    edge_of = edge_of.reshape(-1, 3)
    length = np.linalg.norm(v[unique[:, 0]] - v[unique[:, 1]], axis=1)
    rank = np.empty(len(unique), dtype=np.int64)  # a total order, so that ties have one answer
    rank[np.lexsort((np.arange(len(unique)), length))] = np.arange(len(unique))
    longest = edge_of[np.arange(len(f)), rank[edge_of].argmax(axis=1)]
    is_longest = np.bincount(longest, minlength=len(unique)) == np.bincount(edge_of.ravel(), minlength=len(unique))
    chosen = np.flatnonzero(is_longest)
    chosen = chosen[np.argsort(-rank[chosen])][:most]

    new_vertex = np.full(len(unique), -1)
    new_vertex[chosen] = len(v) + np.arange(len(chosen))
    halves = unique[chosen]
    split = new_vertex[edge_of]  # [F, 3]: the new vertex on edge k, or -1
    to_split = np.flatnonzero((split >= 0).any(axis=1))
    at = (split[to_split] >= 0).argmax(axis=1)
    turned = f[to_split[:, None], (at[:, None] + corners) % 3]  # a, b, c with the split edge from a to b
    middle = split[to_split, at]
    first, second = turned.copy(), turned.copy()
    first[:, 1], second[:, 0] = middle, middle
    kept = np.delete(f, to_split, axis=0)
    return (
        np.concatenate([v, v[halves].mean(axis=1)]),
        np.concatenate([kept, first, second]),
        np.concatenate([w, w[halves].mean(axis=1)]),
    )
