"""Embree, as little of it as is needed."""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int

from fmgs_nerfstudio.arrays import Array


class Scene:
    """A triangle mesh to shoot rays at."""

    def __init__(self, vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"]) -> None:
        self._scene = EmbreeScene()
        # the mesh belongs to the scene from here on
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    def hits(self, origins: Float[Array, "N 3"], directions: Float[Array, "N 3"]) -> dict[str, Array]:
        """First hits: `primID` (-1: none), barycentric `u` and `v`, and `tfar` in lengths of the direction."""
        return self._scene.run(*_contiguous(origins, directions), output=True)

    def free(
        self, origins: Float[Array, "N 3"], directions: Float[Array, "N 3"], reach: float | None = None
    ) -> Bool[Array, "N"]:
        """Whether a ray leaves without a hit, or gets so many lengths of its direction far."""
        ends = None if reach is None else np.full(len(origins), reach, np.float32)
        return self._scene.run(*_contiguous(origins, directions), dists=ends, query="OCCLUDED") < 0


def _contiguous(origins: Array, directions: Array) -> tuple[Array, Array]:
    return np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32)
