"""How far tracked bodies are from true ones. Both are seen in the axes of the one camera, so worlds may differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.model import JOINT_NAMES

_SIDES = [(JOINT_NAMES.index(name), JOINT_NAMES.index(name.replace("left", "right")))
          for name in JOINT_NAMES if name.startswith("left_")]  # fmt: skip
_LEGS, _ARMS = _SIDES[:4], _SIDES[4:]


@dataclass(frozen=True, eq=False)
class CameraBodies:
    """The bodies of a clip in the camera's axes (x right, y down, z forward), metres."""

    joints: Float[Array, "F 24 3"]
    root: Float[Array, "F 3 3"]
    """Orientation of the pelvis."""
    local: Float[Array, "F 23 3 3"]
    """Rotations of the other joints, each in its parent's axes."""

    @staticmethod
    def of(
        body: BodyModel,
        betas: Float[Array, "S"],
        pose: Float[Array, "F 72"],
        transl: Float[Array, "F 3"],
        world_to_camera: Float[Array, "4 4"],
    ) -> CameraBodies:
        """From fits in a world (radians, metres; in smplx's sense) and its camera in OpenCV's axes."""
        joints = body.shape(torch.from_numpy(betas).float())[1]
        parts = (torch.from_numpy(np.ascontiguousarray(value)).float() for value in (pose, transl))
        bones = body.bones_reference(joints, *parts).numpy().astype(float)
        world = np.einsum("fjik,jk->fji", bones[..., :3, :3], joints.numpy()) + bones[..., :3, 3]
        turn, move = world_to_camera[:3, :3], world_to_camera[:3, 3]
        rotations = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)
        return CameraBodies(world @ turn.T + move, turn @ rotations[:, 0], rotations[:, 1:])


def body_errors(found: CameraBodies, truth: CameraBodies) -> dict[str, float]:
    """Means over frames and all 24 joints, in millimetres and degrees; frames in the same order.

    ```
    mpjpe_mm       distance of joints, pelvis on pelvis
    absolute_mm    distance of joints where they are
    procrustes_mm  distance after the similarity that fits a frame's joints best
    in_plane_mm, along_axis_mm
                   parts of mpjpe_mm across and along the camera's axis
    distance_mm    of pelvises, along the camera's axis
    size_percent   by which the bodies are too large; one camera sees sizes hardly at all
    root_degrees   angle between the pelvises' orientations
    lean_degrees   of the clip, see `lean`; positive: toward the camera
    local_degrees  root mean square of the angles between the rotations of the other joints
    swapped        frames in which the arms or the legs of one side are nearer to the other's, see `swapped_sides`
    ```
    """
    about, true = found.joints - found.joints[:, :1], truth.joints - truth.joints[:, :1]
    apart = about - true
    local = _angles(found.local, truth.local)
    return {
        "mpjpe_mm": 1000 * float(np.linalg.norm(apart, axis=-1).mean()),
        "absolute_mm": 1000 * float(np.linalg.norm(found.joints - truth.joints, axis=-1).mean()),
        "procrustes_mm": 1000 * float(np.linalg.norm(procrustes(about, true) - true, axis=-1).mean()),
        "in_plane_mm": 1000 * float(np.linalg.norm(apart[..., :2], axis=-1).mean()),
        "along_axis_mm": 1000 * float(np.abs(apart[..., 2]).mean()),
        "distance_mm": 1000 * float(np.abs(found.joints[:, 0, 2] - truth.joints[:, 0, 2]).mean()),
        "size_percent": 100 * float(np.sqrt((about**2).sum() / (true**2).sum()) - 1),
        "root_degrees": float(np.degrees(_angles(found.root, truth.root).mean())),
        "lean_degrees": lean(about, true),
        "local_degrees": float(np.degrees(np.sqrt((local**2).mean()))),
        "swapped": int(swapped_sides(about, true).sum()),
    }


def procrustes(points: Float[Array, "F J 3"], onto: Float[Array, "F J 3"]) -> Float[Array, "F J 3"]:
    """Each frame's `points` moved by the similarity (rotation, scale, shift) that brings them nearest to `onto`."""
    centre, goal = points.mean(1, keepdims=True), onto.mean(1, keepdims=True)
    a, b = points - centre, onto - goal
    u, s, vt = np.linalg.svd(np.einsum("fji,fjk->fik", a, b))
    flip = np.ones_like(s)
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))  # a rotation, not a mirror
    scale = (s * flip).sum(1) / np.maximum((a**2).sum((1, 2)), 1e-12)
    return scale[:, None, None] * (a @ ((u * flip[:, None]) @ vt)) + goal


def lean(about: Float[Array, "F J 3"], true: Float[Array, "F J 3"]) -> float:
    """Degrees by which the whole clip leans about the camera's horizontal axis; positive: toward the camera.

    Of the one rotation that takes the true bodies, each about its pelvis, nearest to those found: its part about x.
    """
    turn = Rotation.align_vectors(about.reshape(-1, 3), true.reshape(-1, 3))[0]
    return float(np.degrees(turn.as_rotvec()[0]))


def swapped_sides(about: Float[Array, "F 24 3"], true: Float[Array, "F 24 3"]) -> Bool[Array, "F"]:
    """Frames whose legs, or arms, would be nearer to the true ones with left and right exchanged."""
    swapped = np.zeros(len(about), bool)
    for pairs in (_LEGS, _ARMS):
        left, right = (list(side) for side in zip(*pairs, strict=True))
        mine, other = [*left, *right], [*right, *left]
        kept, exchanged = (np.linalg.norm(about[:, mine] - true[:, of], axis=-1).sum(1) for of in (mine, other))
        swapped |= exchanged < kept
    return swapped


def mask_iou(found: Float[Array, "H W"], truth: Float[Array, "H W"]) -> float:
    """Intersection over union of the pixels that are covered by more than half; 1 where both are empty."""
    a, b = found > 0.5, truth > 0.5
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _angles(a: Float[Array, "*n 3 3"], b: Float[Array, "*n 3 3"]) -> Float[Array, "N"]:
    """Radians between rotations, in a row."""
    return Rotation.from_matrix((a.swapaxes(-1, -2) @ b).reshape(-1, 3, 3)).magnitude()
