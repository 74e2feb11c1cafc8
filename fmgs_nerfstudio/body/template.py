"""The template mesh: the canonical body upsampled to a given number of vertices, weights interpolated along (4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from fmgs_nerfstudio.arrays import Array


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
    # Every new vertex is the middle of an edge, so positions and weights travel as one array.
    attributes = torch.cat([vertices, weights], dim=1).numpy().astype(np.float64)
    f = faces.numpy()
    while len(attributes) + len(trimesh.geometry.faces_to_edges(f)) // 2 <= n_vertices:
        attributes, f = trimesh.remesh.subdivide(attributes, f)[:2]
    while len(attributes) < n_vertices:
        attributes, f = _split_longest_edges(attributes, f, n_vertices - len(attributes))
    v, w = torch.from_numpy(attributes.astype(np.float32)).split([3, weights.shape[1]], dim=1)
    return TemplateMesh(v.contiguous(), torch.from_numpy(f.astype(np.int64)), w.contiguous())


def _split_longest_edges(attributes: Float[Array, "V D"], f: Int[Array, "F 3"], most: int) -> tuple[Array, Array]:
    """Halve up to `most` edges, each the longest of both its faces: so no face is split twice in one round."""
    corners = np.arange(3)
    edges = np.sort(np.stack([f, np.roll(f, -1, axis=1)], axis=-1), axis=-1)  # [F, 3, 2]: edge k runs from corner k
    unique, edge_of = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
    edge_of = edge_of.reshape(-1, 3)
    length = np.linalg.norm(attributes[unique[:, 0], :3] - attributes[unique[:, 1], :3], axis=1)
    rank = np.empty(len(unique), dtype=np.int64)  # a total order, so that ties have one answer
    rank[np.lexsort((np.arange(len(unique)), length))] = np.arange(len(unique))
    longest = edge_of[np.arange(len(f)), rank[edge_of].argmax(axis=1)]
    is_longest = np.bincount(longest, minlength=len(unique)) == np.bincount(edge_of.ravel(), minlength=len(unique))
    # In one round nothing much shorter than the longest edge, whose neighbours have to wait for the next.
    chosen = np.flatnonzero(is_longest & (length > 0.9 * length.max()))
    chosen = chosen[np.argsort(-rank[chosen])][:most]

    new_vertex = np.full(len(unique), -1)
    new_vertex[chosen] = len(attributes) + np.arange(len(chosen))
    split = new_vertex[edge_of]  # [F, 3]: the new vertex on edge k, or -1
    to_split = np.flatnonzero((split >= 0).any(axis=1))
    at = (split[to_split] >= 0).argmax(axis=1)
    turned = f[to_split[:, None], (at[:, None] + corners) % 3]  # a, b, c with the split edge from a to b
    middle = split[to_split, at]
    first, second = turned.copy(), turned.copy()
    first[:, 1], second[:, 0] = middle, middle
    kept = np.delete(f, to_split, axis=0)
    return (
        np.concatenate([attributes, attributes[unique[chosen]].mean(axis=1)]),
        np.concatenate([kept, first, second]),
    )
