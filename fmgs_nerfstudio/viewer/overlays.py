"""What the viewer's scene shows beside the picture: skeleton, body mesh, and a gizmo that turns a joint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import viser
from jaxtyping import Float, Int
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.body.model import N_JOINTS
from fmgs_nerfstudio.viewer.pose import JointFrames

_AT_HAND = 0.5  # seconds after which a gizmo counts as let go


class SkinnedMesh(NamedTuple):
    """A mesh in the T-pose, metres."""

    vertices: Float[Array, "V 3"]
    faces: Int[Array, "F 3"]
    weights: Float[Array, "V 24"]


def skeleton_mesh(joints: Float[Array, "24 3"], parents: Sequence[int], thickness: float = 0.06) -> SkinnedMesh:
    """An octahedron per bone, from a joint to its child, that moves with the joint; `thickness`: of its length."""
    corners, faces, weights = [], [], []
    octahedron = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [5, 2, 1], [5, 3, 2], [5, 4, 3], [5, 1, 4]])
    for child in range(1, N_JOINTS):
        parent = parents[child]
        start, end = joints[parent], joints[child]
        along = end - start
        across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
        sides = [axis / np.linalg.norm(axis) for axis in (across, np.cross(along, across))]
        radius = thickness * np.linalg.norm(along) + 0.004
        ring = [start + 0.2 * along + radius * side for side in (sides[0], sides[1], -sides[0], -sides[1])]
        faces.append(octahedron + 6 * len(faces))
        corners.append([start, *ring, end])
        weights.append(np.tile(np.eye(N_JOINTS)[parent], (6, 1)))
    return SkinnedMesh(np.concatenate(corners), np.concatenate(faces), np.concatenate(weights))


def body_mesh(body: CanonicalBody, vertices: Float[Array, "V 3"]) -> SkinnedMesh:
    """The shaped T-pose with the body model's weights."""
    return SkinnedMesh(vertices, body.body.faces.numpy(), body.body.weights.numpy())


class SceneOverlays:
    """Skeleton, body mesh and gizmo in the viewer's scene. Browsers skin the meshes: only joints are sent."""

    def __init__(
        self,
        server: viser.ViserServer,
        body: CanonicalBody,
        vertices: Float[Array, "V 3"],
        on_turned: Callable[[Float[Array, "3 3"]], None],
    ) -> None:
        """`vertices`: of the shaped T-pose, metres; `on_turned`: gets the world orientation of the gizmo's joint."""
        self.server = server
        joints = body.joints.numpy(force=True).astype(float)
        self.skeleton = self._add("/avatar/skeleton", skeleton_mesh(joints, body.body.parents), joints, (255, 190, 70))
        self.mesh = self._add("/avatar/body", body_mesh(body, vertices), joints, (120, 200, 255), wireframe=True)
        self.gizmo = server.scene.add_transform_controls(
            "/avatar/joint", scale=2.0, disable_axes=True, disable_sliders=True, depth_test=False, visible=False
        )
        self.gizmo.on_update(lambda gizmo: on_turned(Rotation.from_quat(np.roll(gizmo.wxyz, -1)).as_matrix()))

    def _add(
        self,
        name: str,
        mesh: SkinnedMesh,
        joints: Float[Array, "24 3"],
        colour: tuple[int, int, int],
        wireframe: bool = False,
    ) -> viser.MeshSkinnedHandle:
        return self.server.scene.add_mesh_skinned(
            name,
            mesh.vertices * VISER_NERFSTUDIO_SCALE_RATIO,
            mesh.faces,
            bone_wxyzs=np.tile([1.0, 0.0, 0.0, 0.0], (N_JOINTS, 1)),
            bone_positions=joints * VISER_NERFSTUDIO_SCALE_RATIO,
            skin_weights=mesh.weights,
            color=colour,
            wireframe=wireframe,
            opacity=0.3 if wireframe else None,
            visible=False,
        )

    def follow(self, frames: JointFrames, joint: int) -> None:
        """Take the pose of these joints; the gizmo stands at `joint`, and is left alone while someone drags it."""
        positions = frames.positions * VISER_NERFSTUDIO_SCALE_RATIO
        wxyz = np.roll(Rotation.from_matrix(frames.rotations).as_quat(), 1, axis=-1)
        with self.server.atomic():
            for mesh in (self.skeleton, self.mesh):
                if mesh.visible:
                    for bone, orientation, position in zip(mesh.bones, wxyz, positions, strict=True):
                        bone.wxyz, bone.position = orientation, position
            if self.gizmo.visible and time.time() - self.gizmo.update_timestamp > _AT_HAND:
                self.gizmo.wxyz, self.gizmo.position = wxyz[joint], positions[joint]
