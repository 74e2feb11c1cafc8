"""Embree, as little of it as is needed."""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int


class Scene:
    """A triangle mesh to shoot rays at."""

    def __init__(self, vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> None:
        self._scene = EmbreeScene()
        # the mesh belongs to the scene from here on
        TriangleMesh(self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    def hits(self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]) -> dict[str, np.ndarray]:
        """First hits: `primID` (-1: none), barycentric `u` and `v`, and `tfar` in lengths of the direction."""
        return self._scene.run(*_contiguous(origins, directions), output=True)

    def free(self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, "N"]:
        """Whether a ray leaves without a hit."""
        return self._scene.run(*_contiguous(origins, directions), query="OCCLUDED") < 0


def _contiguous(origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32)
