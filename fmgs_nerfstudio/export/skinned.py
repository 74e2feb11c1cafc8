"""A trained avatar as `.glb`: the learned surface on SMPL's skeleton, with motions as animations.

glTF's axes are those of SMPL's canonical space: y up, facing +z, metres. The bind pose is the star pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.body.canonical import CanonicalBody, star_pose
from fmgs_nerfstudio.body.model import JOINT_NAMES, N_JOINTS
from fmgs_nerfstudio.export.gltf import Buffer, write_glb
from fmgs_nerfstudio.export.surface import LearnedMesh
from fmgs_nerfstudio.maps.classes import CLASSES
from fmgs_nerfstudio.motion.motion import Motion

_INFLUENCES = 4
_UP = np.array([0.0, 1.0, 0.0])
_MESH_NODE, _FIRST_JOINT = 0, 1


def write_skinned(
    mesh: LearnedMesh, body: CanonicalBody, motions: Sequence[Motion], path: Path, lit_by_viewer: bool = False
) -> None:
    """Write the mesh with its four largest weights per vertex, 24 joints, and one animation per motion.

    Colours are drawn as they are, or, where they are albedo (`lit_by_viewer`), by the program's own light. The class
    of each vertex, if it was trained, is the attribute `_PART`; its names are in the mesh's extras.
    """
    buffer = Buffer()
    primitive = _primitive(mesh, buffer)
    inverse = inverse_bind_matrices(body).astype(np.float32)
    parents, rest = body.body.parents, body.joints.numpy(force=True).astype(float)
    material: dict[str, Any] = {
        "name": "baked",
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
    }
    if not lit_by_viewer:
        material["extensions"] = {"KHR_materials_unlit": {}}
    extras = {} if mesh.parts is None else {"extras": {"parts": list(CLASSES)}}
    content: dict[str, Any] = {
        "extensionsUsed": list(material.get("extensions", ())),
        "scene": 0,
        "scenes": [{"nodes": [_MESH_NODE, _FIRST_JOINT]}],
        "nodes": [{"name": "avatar", "mesh": 0, "skin": 0}, *_skeleton(parents, rest)],
        "meshes": [{"name": "avatar", "primitives": [primitive], **extras}],
        "materials": [material],
        "skins": [
            {
                "joints": list(range(_FIRST_JOINT, _FIRST_JOINT + N_JOINTS)),
                "skeleton": _FIRST_JOINT,
                "inverseBindMatrices": buffer.add(inverse),
            }
        ],
    }
    if not content["extensionsUsed"]:
        del content["extensionsUsed"]  # glTF has no empty lists
    if motions:
        content["animations"] = [_animation(motion.upright(_UP, rest[0]), rest[0], buffer) for motion in motions]
    write_glb(content, buffer, path)


def inverse_bind_matrices(body: CanonicalBody) -> Float[Array, "24 4 4"]:
    """Canonical space to each joint's own axes: a bone is G_b [I | -J_b], so that G_b^-1 = [I | -J_b] bone^-1."""
    to_joint = np.tile(np.eye(4), (N_JOINTS, 1, 1))
    to_joint[:, :3, 3] = -body.joints.numpy(force=True)
    matrices = to_joint @ body.from_canonical.numpy(force=True)
    matrices[:, 3] = [0, 0, 0, 1]
    return matrices


def top_weights(weights: Float[Array, "V 24"]) -> tuple[Int[Array, "V 4"], Float[Array, "V 4"]]:
    """The four largest weights of each vertex, normalised, largest first, and their joints (0 where a weight is 0)."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :_INFLUENCES]
    largest = np.take_along_axis(weights, order, axis=1).astype(np.float64)
    largest[largest < 1e-5 * largest[:, :1]] = 0
    largest = (largest / largest.sum(1, keepdims=True)).astype(np.float32)
    largest[:, 0] = 1 - largest[:, 1:].sum(1)  # to the last bit
    return np.where(largest > 0, order, 0).astype(np.uint8), largest


def _primitive(mesh: LearnedMesh, buffer: Buffer) -> dict[str, Any]:
    joints, weights = top_weights(mesh.weights.numpy(force=True))
    attributes = {
        "POSITION": buffer.add(mesh.vertices.numpy(force=True).astype(np.float32), "vertices", bounds=True),
        "NORMAL": buffer.add(vertex_normals(mesh), "vertices"),
        "COLOR_0": buffer.add(to_linear(mesh.colours.numpy(force=True)), "vertices"),
        "JOINTS_0": buffer.add(joints, "vertices"),
        "WEIGHTS_0": buffer.add(weights, "vertices"),
    }
    if mesh.parts is not None:
        attributes["_PART"] = buffer.add(mesh.parts.numpy(force=True).astype(np.float32), "vertices")
    indices = buffer.add(mesh.faces.numpy(force=True).astype(np.uint32).ravel(), "indices")
    return {"attributes": attributes, "indices": indices, "material": 0}


def vertex_normals(mesh: LearnedMesh) -> Float[Array, "V 3"]:
    """Area-weighted unit normals; upwards where faces vanish."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normals = torch.zeros_like(mesh.vertices)
    for corner in range(3):
        normals.index_add_(0, mesh.faces[:, corner], torch.linalg.cross(b - a, c - a))
    lengths = normals.norm(dim=-1, keepdim=True)
    up = normals.new_tensor(_UP).expand_as(normals)
    return torch.where(lengths > 1e-12, normals / lengths, up).numpy(force=True).astype(np.float32)


def to_linear(srgb: Float[Array, "V 3"]) -> Float[Array, "V 3"]:
    """Images' colours to the linear ones of vertex colours (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _skeleton(parents: Sequence[int], rest: Float[Array, "24 3"]) -> list[dict[str, Any]]:
    rotations = Rotation.from_rotvec(star_pose().view(N_JOINTS, 3).numpy()).as_quat()
    nodes = []
    for j in range(N_JOINTS):
        offset = rest[j] - rest[parents[j]] if j else rest[0]
        node: dict[str, Any] = {
            "name": JOINT_NAMES[j],
            "translation": offset.tolist(),
            "rotation": rotations[j].tolist(),
        }
        if children := [k + _FIRST_JOINT for k in range(N_JOINTS) if parents[k] == j]:
            node["children"] = children
        nodes.append(node)
    return nodes


def _animation(motion: Motion, pelvis: Float[Array, "3"], buffer: Buffer) -> dict[str, Any]:
    times = buffer.add((np.arange(len(motion)) / motion.fps).astype(np.float32), bounds=True)
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []

    def channel(joint: int, path: str, values: Array) -> None:
        channels.append({"sampler": len(samplers), "target": {"node": joint + _FIRST_JOINT, "path": path}})
        samplers.append({"input": times, "output": buffer.add(values.astype(np.float32)), "interpolation": "LINEAR"})

    channel(0, "translation", motion.transl + pelvis)
    for j in range(N_JOINTS):
        quaternions = Rotation.from_rotvec(motion.poses[:, 3 * j : 3 * j + 3]).as_quat()
        # q and -q are one rotation; neighbours on one side, so that every program goes the short way between them.
        flips = np.sign((quaternions[1:] * quaternions[:-1]).sum(1))
        channel(j, "rotation", quaternions * np.cumprod([1.0, *np.where(flips == 0, 1.0, flips)])[:, None])
    return {"name": motion.name, "samplers": samplers, "channels": channels}
