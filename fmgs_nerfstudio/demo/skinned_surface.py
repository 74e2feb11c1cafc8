"""Pieces of the person: surfaces that hang on the demo body's skeleton and shape space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix, identity

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.demo.mesh import catmull_clark, cut, neighbour_mean, slope, triangulated, vertex_normals

ASSETS = Path(__file__).parent / "assets"
BODY = ASSETS / "body_demo.npz"
Level = Callable[[Float[Array, "N 3"]], Float[Array, "N"]]
"""Where a garment is: for points of the T-posed template, about the distance to its hem in metres, positive inside."""


@dataclass(frozen=True)
class SkinnedSurface:
    """A surface in the T-pose of the template body (metres, y up, facing +z), with what it needs to follow a person."""

    vertices: Float[Array, "V 3"]
    faces: Int[Array, "F K"]
    """Quads until it is cut, triangles after."""
    weights: Float[Array, "V 24"]
    """Skinning weights."""
    shapedirs: Float[Array, "V 3 10"]
    anchor: Float[Array, "V 3"]
    """Where textures look: the T-pose position before anything was offset."""
    hem: Float[Array, "V"]
    """Distance to the nearest hem in metres."""
    material: str
    label: int
    """Goliath class; of the left side where the right side's differs."""
    folds: float = 0.0
    """How strongly it wrinkles: 0 skin, 1 a loose garment."""

    @property
    def triangles(self) -> Int[Array, "T 3"]:
        return triangulated(self.faces) if self.faces.shape[1] == 4 else self.faces

    @property
    def normals(self) -> Float[Array, "V 3"]:
        return vertex_normals(self.vertices, self.triangles)

    def mapped(self, matrix: csr_matrix, faces: Array) -> SkinnedSurface:
        """New vertices as linear combinations of the old ones."""
        shapedirs = (matrix @ self.shapedirs.reshape(len(self.vertices), -1)).reshape(-1, 3, self.shapedirs.shape[2])
        return replace(
            self,
            vertices=matrix @ self.vertices,
            faces=faces,
            weights=matrix @ self.weights,
            shapedirs=shapedirs,
            anchor=matrix @ self.anchor,
            hem=matrix @ self.hem,
        )

    def patch(self, keep: Bool[Array, "V"]) -> SkinnedSurface:
        """The faces that touch a vertex to keep."""
        used, faces = np.unique(self.faces[keep[self.faces].any(1)], return_inverse=True)
        return self.mapped(csr_matrix(identity(len(keep)))[used], faces.reshape(-1, self.faces.shape[1]))

    def subdivided(self) -> SkinnedSurface:
        """One step of Catmull-Clark."""
        return self.mapped(*catmull_clark(self.faces, len(self.vertices)))

    def cut(self, level: Float[Array, "V"]) -> SkinnedSurface:
        """The part where `level` > 0, as triangles; `level` is the hem distance from now on."""
        matrix, faces = cut(self.triangles, level)
        surface = self.mapped(matrix, faces)
        hem = matrix @ level
        return replace(surface, hem=np.minimum(hem / np.maximum(slope(surface.vertices, faces, hem), 0.3), surface.hem))

    def smoothed_weights(self, steps: int) -> SkinnedSurface:
        """Cloth does not follow the skin's creases: diffuse the skinning weights."""
        weights, mean = self.weights, neighbour_mean(self.faces, len(self.vertices))
        for _ in range(steps):
            weights = mean @ weights
        return replace(self, weights=weights)

    def draped(self, ease: Float[Array, "V"], steps: int, cap: Float[Array, "V"] | float = np.inf) -> SkinnedSurface:
        """A membrane over the present surface: relaxed `steps` times, at least `ease`, at most `cap` metres above it.

        It bridges hollows, as cloth does.
        """
        start, normal, mean = self.vertices, self.normals, neighbour_mean(self.faces, len(self.vertices))
        points = start + normal * ease[:, None]
        for _ in range(steps):
            points = mean @ points
            height = np.einsum("vi,vi->v", points - start, normal)
            points = points + normal * (np.clip(height, ease, cap) - height)[:, None]
        return replace(self, vertices=points)


@dataclass(frozen=True)
class Anatomy:
    """The undressed template: MakeHuman's quads of body, eyes, tights and skirt."""

    vertices: Float[Array, "V 3"]
    shapedirs: Float[Array, "V 3 10"]
    weights: Float[Array, "V 24"]
    quads: dict[str, Int[Array, "F 4"]]
    joints: Float[Array, "24 3"]

    @staticmethod
    def load() -> Anatomy:
        with np.load(ASSETS / "person_base.npz") as file:
            base = dict(file)
        with np.load(BODY) as file:
            joints = file["J_regressor"] @ file["v_template"]
        weights = np.zeros((len(base["vertices"]), 24))
        strength = base["weight_values"] / base["weight_values"].sum(1, keepdims=True, dtype=float)
        np.add.at(weights, (np.arange(len(weights))[:, None], base["weight_joints"]), strength)
        quads = {part: base[f"{part}_quads"].astype(np.int64) for part in ("body", "eyes", "tights", "skirt")}
        return Anatomy(base["vertices"].astype(float), base["shapedirs"] * 5e-5, weights, quads, joints)

    def surface(self, part: str, material: str, label: int, levels: int) -> SkinnedSurface:
        """One part, subdivided `levels` times, as quads."""
        used, quads = np.unique(self.quads[part], return_inverse=True)
        surface = SkinnedSurface(
            vertices=self.vertices[used],
            faces=quads.reshape(-1, 4),
            weights=self.weights[used],
            shapedirs=self.shapedirs[used],
            anchor=self.vertices[used],
            hem=np.ones(len(used)),
            material=material,
            label=label,
        )
        for _ in range(levels):
            surface = surface.subdivided()
        return surface
