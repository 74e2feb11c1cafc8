"""Joints of the viewer's pose against smplx and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import smplx.lbs
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.body.canonical import CanonicalBody
from fmgs_nerfstudio.viewer.overlays import body_mesh, skeleton_mesh
from fmgs_nerfstudio.viewer.pose import JointFrames, SmplPose, joint_frames, local_rotation, next_position

LEFT_ELBOW, LEFT_SHOULDER = 18, 16
# smplx annotates its functions with a NewType that no torch tensor satisfies.
_smplx: Any = smplx.lbs


@pytest.fixture(scope="module")
def canonical(body: BodyModel) -> CanonicalBody:
    return CanonicalBody(body, torch.linspace(-1, 1, 10))


@pytest.fixture
def smpl_pose() -> SmplPose:
    rng = np.random.default_rng(1)
    return SmplPose(rng.normal(size=72) * 0.4, rng.normal(size=3), pose_id=2, captured=True)


def world_orientation(parents: tuple[int, ...], pose: np.ndarray, joint: int) -> Rotation:
    """Down the chain of parents, by scipy alone."""
    own = Rotation.from_rotvec(pose[3 * joint : 3 * joint + 3])
    return own if joint == 0 else world_orientation(parents, pose, parents[joint]) * own


def test_joints_are_smplx_s(body: BodyModel, canonical: CanonicalBody, smpl_pose: SmplPose) -> None:
    betas = torch.linspace(-1, 1, 10)
    _, joints = _smplx.lbs(
        betas[None], torch.tensor(smpl_pose.pose).float()[None], body.v_template, body.shapedirs[..., :10],
        body.posedirs, body.J_regressor, torch.tensor(body.parents), body.weights,
    )  # fmt: skip
    expected = joints[0].numpy() + smpl_pose.transl
    np.testing.assert_allclose(joint_frames(canonical, smpl_pose).positions, expected, atol=1e-5)


@pytest.mark.parametrize("joint", [0, 2, LEFT_SHOULDER, LEFT_ELBOW])
def test_a_gizmo_turns_its_joint_to_where_it_points(canonical: CanonicalBody, smpl_pose: SmplPose, joint: int) -> None:
    parents = canonical.body.parents
    wanted = np.array([0.4, -1.1, 0.7])
    world = world_orientation(parents, smpl_pose.turned(joint, wanted).pose, joint).as_matrix()
    rotation = local_rotation(joint_frames(canonical, smpl_pose), parents, joint, world)
    np.testing.assert_allclose(rotation, wanted, atol=1e-5)
    reached = joint_frames(canonical, smpl_pose.turned(joint, rotation))
    np.testing.assert_allclose(reached.rotations[joint], world, atol=1e-5)


def test_only_that_joint_is_turned(smpl_pose: SmplPose) -> None:
    turned = smpl_pose.turned(LEFT_ELBOW, np.array([0.0, -1.5, 0.0]))
    np.testing.assert_array_equal(turned.rotation(LEFT_ELBOW), [0.0, -1.5, 0.0])
    changed = np.flatnonzero(turned.pose != smpl_pose.pose) // 3
    assert set(changed) == {LEFT_ELBOW}
    assert turned.pose_id == 2
    assert not turned.captured


def skinned(vertices: np.ndarray, weights: np.ndarray, rest: np.ndarray, frames: JointFrames) -> np.ndarray:
    """Linear blend skinning, vertex by vertex and joint by joint, as a browser does it."""
    return sum(
        weights[:, j, None] * ((vertices - rest[j]) @ frames.rotations[j].T + frames.positions[j]) for j in range(24)
    )  # pyright: ignore[reportReturnType]


def test_bones_run_between_the_joints(canonical: CanonicalBody, smpl_pose: SmplPose) -> None:
    rest, parents = canonical.joints.double().numpy(), canonical.body.parents
    mesh, frames = skeleton_mesh(rest, parents), joint_frames(canonical, smpl_pose)
    corners = skinned(mesh.vertices, mesh.weights, rest, frames).reshape(23, 6, 3)
    np.testing.assert_allclose(corners[:, 0], frames.positions[list(parents[1:])], atol=1e-6)
    np.testing.assert_allclose(corners[:, 5], frames.positions[1:], atol=1e-5)


def test_the_body_s_mesh_is_the_skinned_body(canonical: CanonicalBody, smpl_pose: SmplPose) -> None:
    rest, betas = canonical.joints.double().numpy(), torch.linspace(-1, 1, 10)
    mesh = body_mesh(canonical, canonical.body.shape(betas)[0].double().numpy())
    moved = skinned(mesh.vertices, mesh.weights, rest, joint_frames(canonical, smpl_pose))
    pose = torch.tensor(smpl_pose.pose).float()
    expected = canonical.body.vertices(betas, pose, torch.tensor(smpl_pose.transl).float()).numpy()
    assert np.abs(moved - expected).max() < 0.05  # SMPL's pose blend shapes, which it does without
    T_pose = skinned(mesh.vertices, mesh.weights, rest, joint_frames(canonical, SmplPose(np.zeros(72), np.zeros(3))))
    np.testing.assert_allclose(T_pose, mesh.vertices, atol=1e-6)


def test_a_motion_begins_again_at_its_end() -> None:
    assert next_position(3.0, 0.5, 30.0, 100) == 18.0
    assert next_position(95.0, 0.5, 30.0, 100) == 10.0
