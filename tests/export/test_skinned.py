"""The glTF file, evaluated as the specification says and not as it was written."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support.small_avatar import lit, small_avatar

from fmgs_nerfstudio.export.skinned import JOINT_NAMES, to_linear, top_weights, write_skinned
from fmgs_nerfstudio.export.surface import LearnedMesh, around, deform, learned_mesh
from fmgs_nerfstudio.fields.light import Light
from fmgs_nerfstudio.frozen import FrozenAvatar
from fmgs_nerfstudio.maps.classes import CLASSES
from fmgs_nerfstudio.motion.motion import Motion
from fmgs_nerfstudio.relighting import Relighting, relit

TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Glb:
    """A reader of `.glb` of its own."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack("<4sII", data[:12])
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack("<I4s", data[12:20])
        assert kind == b"JSON"
        self.document: dict[str, Any] = json.loads(data[20 : 20 + size])
        self.binary = data[28 + size :]
        assert len(self.binary) % 4 == 0

    def array(self, accessor: int) -> np.ndarray:
        a = self.document["accessors"][accessor]
        offset = self.document["bufferViews"][a["bufferView"]]["byteOffset"]
        assert offset % 4 == 0
        count = a["count"] * WIDTHS[a["type"]]
        values = np.frombuffer(self.binary, TYPES[a["componentType"]], count, offset)
        values = values.reshape(a["count"], -1)
        if "min" in a:
            np.testing.assert_allclose(values.min(0), a["min"])
            np.testing.assert_allclose(values.max(0), a["max"])
        return values

    def skinned(self, animation: int | None, frame: int) -> np.ndarray:
        """Vertices of the skinned mesh in a key frame; none: at rest."""
        document = self.document
        nodes = [dict(node) for node in document["nodes"]]
        if animation is not None:
            chosen = document["animations"][animation]
            for channel in chosen["channels"]:
                output = self.array(chosen["samplers"][channel["sampler"]]["output"])[frame]
                nodes[channel["target"]["node"]][channel["target"]["path"]] = output
        world: dict[int, np.ndarray] = {}

        def visit(index: int, parent: np.ndarray) -> None:
            local = np.eye(4)
            local[:3, :3] = Rotation.from_quat(nodes[index].get("rotation", [0, 0, 0, 1])).as_matrix()
            local[:3, 3] = nodes[index].get("translation", [0, 0, 0])
            world[index] = parent @ local
            for child in nodes[index].get("children", []):
                visit(child, world[index])

        for root in document["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        skin = document["skins"][0]
        inverse = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)  # column by column
        matrices = np.stack([world[joint] for joint in skin["joints"]]) @ inverse
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        joints, weights = self.array(attributes["JOINTS_0"]), self.array(attributes["WEIGHTS_0"])
        blended = np.einsum("vk,vkij->vij", weights, matrices[joints])
        points = self.array(attributes["POSITION"])
        return np.einsum("vij,vj->vi", blended[:, :3, :3], points) + blended[:, :3, 3]


@pytest.fixture(scope="module")
def mesh() -> LearnedMesh:
    return learned_mesh(small_avatar(), FrozenAvatar(small_avatar()).at_rest())


@pytest.fixture(scope="module")
def motion() -> Motion:
    rng = np.random.default_rng(2)
    poses = rng.normal(size=(4, 72)) * 0.5
    poses[:, 15] = 3.1, -3.1, 3.1, 3.0  # to and fro over half a turn, where axis-angles change their sign
    poses[:, 16:18] = 0
    return Motion(poses, rng.normal(size=(4, 3)), 24.0, (0.0, 1.0, 0.0), "random")


@pytest.fixture(scope="module")
def glb(mesh: LearnedMesh, motion: Motion, tmp_path_factory: pytest.TempPathFactory) -> Glb:
    path = tmp_path_factory.mktemp("glb") / "avatar.glb"
    write_skinned(mesh, small_avatar().canonical, [motion], path)
    return Glb(path)


def test_at_rest_it_is_the_canonical_mesh(glb: Glb, mesh: LearnedMesh) -> None:
    np.testing.assert_allclose(glb.skinned(None, 0), mesh.vertices.numpy(), atol=1e-5)


@pytest.mark.parametrize("frame", [0, 3])
def test_animated_it_is_the_posed_mesh(glb: Glb, mesh: LearnedMesh, motion: Motion, frame: int) -> None:
    joints, weights = top_weights(mesh.weights.numpy())
    four = torch.zeros_like(mesh.weights).scatter_add_(1, torch.from_numpy(joints).long(), torch.from_numpy(weights))
    pose, transl = (torch.from_numpy(values[frame]).float() for values in (motion.poses, motion.transl))
    bones = small_avatar().canonical(pose, transl)[1]
    np.testing.assert_allclose(glb.skinned(0, frame), deform(mesh.vertices, four, bones).numpy(), atol=1e-4)


def test_animation_times_and_the_world_turned_upright(mesh: LearnedMesh, motion: Motion, tmp_path: Path) -> None:
    """A motion of a z-up world stands up in glTF's y-up one."""
    pelvis = small_avatar().canonical.joints[0].numpy().astype(float)
    z_up = motion.upright(np.array([0.0, 0.0, 1.0]), pelvis)
    write_skinned(mesh, small_avatar().canonical, [z_up, motion], tmp_path / "two.glb")
    two = Glb(tmp_path / "two.glb")
    np.testing.assert_allclose(two.skinned(0, 1), two.skinned(1, 1), atol=1e-4)
    sampler = two.document["animations"][0]["samplers"][0]
    np.testing.assert_allclose(two.array(sampler["input"])[:, 0], np.arange(4) / 24, atol=1e-6)
    for channel in two.document["animations"][0]["channels"][1:]:
        quaternions = two.array(two.document["animations"][0]["samplers"][channel["sampler"]]["output"])
        np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1, atol=1e-6)
        assert ((quaternions[1:] * quaternions[:-1]).sum(1) >= 0).all()


def test_attributes(glb: Glb, mesh: LearnedMesh) -> None:
    primitive = glb.document["meshes"][0]["primitives"][0]
    attributes = {name: glb.array(accessor) for name, accessor in primitive["attributes"].items()}
    assert mesh.parts is not None
    np.testing.assert_array_equal(attributes["_PART"][:, 0], mesh.parts.numpy())
    assert glb.document["meshes"][0]["extras"]["parts"] == list(CLASSES)
    np.testing.assert_array_equal(glb.array(primitive["indices"])[:, 0], mesh.faces.numpy().ravel())
    np.testing.assert_allclose(np.linalg.norm(attributes["NORMAL"], axis=1), 1, atol=1e-5)
    a, b, c = (attributes["POSITION"][mesh.faces[:, i]] for i in range(3))
    outward = (attributes["NORMAL"][mesh.faces[:, 0]] * np.cross(b - a, c - a)).sum(1) > 0
    assert outward.mean() > 0.97
    linear = attributes["COLOR_0"]
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb, mesh.colours.numpy(), atol=1e-4)
    assert [node["name"] for node in glb.document["nodes"][1:]] == list(JOINT_NAMES)


def test_top_weights() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(24, 0.2), 200).astype(np.float32)
    weights[0] = np.eye(24)[5]
    joints, four = top_weights(weights)
    np.testing.assert_allclose(four.sum(1), 1, atol=1e-7)
    assert (np.diff(four, axis=1) <= 1e-6).all()
    assert (joints[four == 0] == 0).all()
    assert joints[0].tolist() == [5, 0, 0, 0]
    for row in range(1, 200):
        expected = np.sort(weights[row])[::-1][:4]
        np.testing.assert_allclose(four[row], expected / expected.sum(), atol=2e-5)


def test_colours_are_made_linear_as_the_standard_says() -> None:
    np.testing.assert_allclose(to_linear(np.array([[0.0, 0.5, 1.0]])), [[0.0, 0.21404114, 1.0]], atol=1e-7)


def test_around_is_the_mean_of_the_faces() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    expected = torch.tensor([[1.0, 10], [2, 20], [2, 20], [3, 30], [0, 0]])
    assert torch.equal(around(values, faces, 5), expected)


def test_albedo_is_lit_by_the_program_and_other_colours_are_drawn_as_they_are(glb: Glb, tmp_path: Path) -> None:
    assert glb.document["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    assert glb.document["extensionsUsed"] == ["KHR_materials_unlit"]
    model, frozen = small_avatar(), FrozenAvatar(small_avatar())
    plain = learned_mesh(model, frozen.at_rest())
    lamp = Light()
    lamp.irradiance[2] = -0.8  # from the side
    with lit(model, lamp):
        shaded = learned_mesh(model, frozen.at_rest())
    with lit(model, relit(lamp, Relighting("none"), model.kwargs["metadata"]["capture"])):
        albedo = learned_mesh(model, frozen.at_rest())
    assert (shaded.colours - plain.colours).abs().max() > 0.05
    torch.testing.assert_close(albedo.colours, plain.colours)
    write_skinned(albedo, model.canonical, [], tmp_path / "albedo.glb", lit_by_viewer=True)
    made = Glb(tmp_path / "albedo.glb").document
    assert "extensions" not in made["materials"][0]
    assert "extensionsUsed" not in made
