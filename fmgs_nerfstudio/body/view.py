# pyright: standard
"""The one renderer of a body mesh: what a pinhole camera sees of it at the centres of its pixels.

With corners in pixels, a = K p = (x z, y z, z), the ray through a pixel's centre d = (x, y, 1) hits the triangle a b c
where d . (b x c), d . (c x a) and d . (a x b) have one sign, at the depth a . (b x c) over their sum. Nothing is
divided by z before that, so a triangle may reach behind the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.model import BodyModel
from fmgs_nerfstudio.kernels.compiled import device_function

NEAR = 0.01
"""Metres before the camera; nothing nearer is drawn."""


@dataclass(frozen=True, eq=False)
class MeshView:
    """A triangle mesh as a camera sees it."""

    face: Int[Array, "H W"]
    """Index of the face at a pixel's centre, -1 where nothing is."""
    depth: Float[Array, "H W"]
    """z-depth in metres, 0 where nothing is."""
    points: Float[Array, "V 3"]
    """Vertices in the camera: OpenCV axes, metres."""
    faces: Int[Array, "F 3"]

    @property
    def silhouette(self) -> Bool[Array, "H W"]:
        """Whether there is anything."""
        return self.face >= 0

    @property
    def normal(self) -> Float[Array, "H W 3"]:
        """Unit normals of the faces, to the side that sees their corners counter-clockwise; 0 where nothing is.

        Camera space, OpenGL axes: x right, y up, z toward the camera.
        """
        hit = self.silhouette
        a, b, c = self.points[self.faces[self.face[hit]].T]
        normal = np.cross(b - a, c - a) * [1, -1, -1]
        out = np.zeros((*hit.shape, 3), np.float32)
        out[hit] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        return out


def view_mesh(
    vertices: Float[Array, "V 3"],
    faces: Int[Array, "F 3"],
    K: Float[Array, "3 3"],
    world_to_camera: Float[Array, "4 4"],
    width: int,
    height: int,
) -> MeshView:
    """The nearest face at every pixel's centre, whichever side it shows.

    World and camera in metres; OpenCV axes (x right, y down, z forward); the centre of `K`'s first pixel is at
    (0.5, 0.5).
    """
    points = vertices @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    face, depth = np.full((height, width), -1, np.int32), np.full((height, width), np.inf, np.float32)
    _draw(points @ K.T.astype(float), faces, face, depth)
    depth[face < 0] = 0
    return MeshView(face, depth, points, faces)


class PosedBody:
    """One body and its poses, from which it is viewed again and again."""

    def __init__(self, body: BodyModel, betas: Float[Array, "S"], poses: Float[Array, "P 72"]) -> None:
        self.body = body
        self._betas, self._poses = torch.from_numpy(betas).float(), torch.from_numpy(poses).float()
        self._faces = body.faces.numpy()
        self._posed = lru_cache(maxsize=4)(self._at_the_origin)  # a frame's pose and its neighbours'

    @property
    def pelvis(self) -> Float[Array, "3"]:
        """J_0 of the shaped T-pose, metres."""
        return self.body.shape(self._betas)[1][0].double().numpy()

    def view(
        self,
        pose_id: int,
        transl: Float[Array, "3"],
        K: Float[Array, "3 3"],
        world_to_camera: Float[Array, "4 4"],
        width: int,
        height: int,
    ) -> MeshView:
        """The body in row `pose_id` of the poses, moved by `transl` metres; the camera as in `view_mesh`."""
        return view_mesh(self._posed(pose_id) + transl, self._faces, K, world_to_camera, width, height)

    def _at_the_origin(self, pose_id: int) -> Float[Array, "V 3"]:
        return self.body.vertices(self._betas, self._poses[pose_id], torch.zeros(3)).double().numpy()


@device_function  # a millisecond: threads would cost more than they bring
def _draw(corners, faces, face, depth):
    """`corners` [V, 3]: K p. Writes the nearest face and its z where `depth` is larger."""
    height, width = face.shape
    pixels = np.empty((len(corners), 2))
    for i in range(len(corners)):
        if corners[i, 2] > NEAR:
            pixels[i, 0], pixels[i, 1] = corners[i, 0] / corners[i, 2], corners[i, 1] / corners[i, 2]
    for f in range(len(faces)):
        i, j, k = faces[f]
        a, b, c = _corner(corners, i), _corner(corners, j), _corner(corners, k)
        if min(a[2], b[2], c[2]) > NEAR:
            x0, x1 = _range(pixels[i, 0], pixels[j, 0], pixels[k, 0])
            y0, y1 = _range(pixels[i, 1], pixels[j, 1], pixels[k, 1])
        elif max(a[2], b[2], c[2]) > NEAR:
            x0, y0, x1, y1 = _box_before_the_near_plane(a, b, c)
        else:
            continue
        # pixels whose centre is inside the box
        left, right = int(max(np.ceil(x0 - 0.5), 0.0)), int(min(np.floor(x1 - 0.5), width - 1.0))
        top, bottom = int(max(np.ceil(y0 - 0.5), 0.0)), int(min(np.floor(y1 - 0.5), height - 1.0))
        if left > right or top > bottom:
            continue
        # seen from the first of them, the numbers are small, and so are their rounding errors
        x, y = left + 0.5, top + 0.5
        a, b, c = _seen_from(x, y, a), _seen_from(x, y, b), _seen_from(x, y, c)
        A, B, C = _cross(b, c), _cross(c, a), _cross(a, b)
        volume = a[0] * A[0] + a[1] * A[1] + a[2] * A[2]
        if volume == 0:
            continue
        sign = 1.0 if volume > 0 else -1.0
        for y in range(bottom - top + 1):
            for x in range(right - left + 1):
                u = sign * (A[0] * x + A[1] * y + A[2])
                v = sign * (B[0] * x + B[1] * y + B[2])
                w = sign * (C[0] * x + C[1] * y + C[2])
                if u >= 0 and v >= 0 and w >= 0:
                    z = sign * volume / (u + v + w)
                    if NEAR < z < depth[top + y, left + x]:
                        depth[top + y, left + x], face[top + y, left + x] = z, f


@device_function
def _corner(corners, i):
    return corners[i, 0], corners[i, 1], corners[i, 2]


@device_function
def _range(a, b, c):
    return min(a, b, c), max(a, b, c)


@device_function
def _box_before_the_near_plane(a, b, c):
    """Columns and rows of the part with z > NEAR."""
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for p, q in ((a, b), (b, c), (c, a)):
        for corner in (p, q):
            if corner[2] > NEAR:
                x, y = corner[0] / corner[2], corner[1] / corner[2]
                x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        if (p[2] > NEAR) != (q[2] > NEAR):
            t = (NEAR - p[2]) / (q[2] - p[2])
            x, y = (p[0] + t * (q[0] - p[0])) / NEAR, (p[1] + t * (q[1] - p[1])) / NEAR
            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
    return x0, y0, x1, y1


@device_function
def _seen_from(x, y, corner):
    return corner[0] - x * corner[2], corner[1] - y * corner[2], corner[2]


@device_function
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
