"""Measures of tracked bodies against closed forms: bodies moved, turned, scaled or mirrored by known amounts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import smplx
import torch
from scipy.spatial.transform import Rotation
from smplx.utils import Struct

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.metrics.tracking import CameraBodies, body_errors, lean, mask_iou, procrustes, swapped_sides

FRAMES = 6
LEFT = np.array([1, 4, 7, 10, 13, 16, 18, 20, 22])
RIGHT = np.array([2, 5, 8, 11, 14, 17, 19, 21, 23])


@pytest.fixture(scope="module")
def truth() -> CameraBodies:
    """Persons who stand, about 3 m before a camera, turned and bent by random amounts."""
    rng = np.random.default_rng(3)
    body = BodyModel.load(BODY)
    pose = rng.normal(0, 0.2, (FRAMES, 72))
    pose[:, :3] = (
        Rotation.from_euler("y", np.linspace(0, 5, FRAMES)[:, None]) * Rotation.from_euler("x", np.pi)
    ).as_rotvec()
    transl = np.array([0, 0, 3.0]) + rng.normal(0, 0.1, (FRAMES, 3))
    return CameraBodies.of(body, rng.normal(0, 1, 10), pose, transl, np.eye(4))


def moved(bodies: CameraBodies, joints: np.ndarray) -> CameraBodies:
    return dataclasses.replace(bodies, joints=joints)


def turned(bodies: CameraBodies, turn: Rotation) -> CameraBodies:
    """About each pelvis."""
    pelvis = bodies.joints[:, :1]
    return CameraBodies(
        (bodies.joints - pelvis) @ turn.as_matrix().T + pelvis, turn.as_matrix() @ bodies.root, bodies.local
    )


def test_joints_are_smplx_s_in_the_camera() -> None:
    rng = np.random.default_rng(1)
    betas, pose, transl = rng.normal(0, 1, 10), rng.normal(0, 0.3, (2, 72)), rng.normal(0, 1, (2, 3))
    extrinsic = np.eye(4)
    extrinsic[:3, :3], extrinsic[:3, 3] = Rotation.from_euler("xyz", [0.3, -0.5, 2.0]).as_matrix(), (0.1, 0.2, 4)
    found = CameraBodies.of(BodyModel.load(BODY), betas, pose, transl, extrinsic)
    with np.load(BODY) as file:
        model = smplx.SMPL("", data_struct=Struct(**dict(file)), num_betas=10)
    parts = {"betas": np.tile(betas, (2, 1)), "global_orient": pose[:, :3], "body_pose": pose[:, 3:], "transl": transl}
    posed = model(**{name: torch.tensor(value, dtype=torch.float32) for name, value in parts.items()})
    world = posed.joints[:, :24].detach().numpy()
    np.testing.assert_allclose(found.joints, world @ extrinsic[:3, :3].T + extrinsic[:3, 3], atol=2e-5)
    expected = extrinsic[:3, :3] @ Rotation.from_rotvec(pose[1, :3]).as_matrix()
    np.testing.assert_allclose(found.root[1], expected, atol=1e-12)
    np.testing.assert_allclose(found.local[1, 4], Rotation.from_rotvec(pose[1, 15:18]).as_matrix(), atol=1e-12)


def test_the_truth_has_no_error(truth: CameraBodies) -> None:
    assert all(value == pytest.approx(0, abs=1e-5) for value in body_errors(truth, truth).values())


def test_a_body_at_another_place_is_wrong_in_place_alone(truth: CameraBodies) -> None:
    errors = body_errors(moved(truth, truth.joints + np.array([0.03, -0.04, 0.12])), truth)
    assert errors["absolute_mm"] == pytest.approx(130)
    assert errors["distance_mm"] == pytest.approx(120)
    for name in ("mpjpe_mm", "procrustes_mm", "in_plane_mm", "along_axis_mm", "lean_degrees", "swapped"):
        assert errors[name] == pytest.approx(0, abs=1e-5)


def test_parts_across_and_along_the_axis(truth: CameraBodies) -> None:
    joints = truth.joints.copy()
    joints[:, 1:] += [0.03, -0.04, 0.12]  # all but the pelvis
    errors, share = body_errors(moved(truth, joints), truth), 23 / 24
    assert errors["mpjpe_mm"] == pytest.approx(130 * share)
    assert errors["in_plane_mm"] == pytest.approx(50 * share)
    assert errors["along_axis_mm"] == pytest.approx(120 * share)
    assert errors["distance_mm"] == pytest.approx(0, abs=1e-9)


def test_a_clip_that_leans(truth: CameraBodies) -> None:
    """Five degrees about the camera's horizontal axis, with the head, which is up (-y), toward the camera (-z)."""
    turn = Rotation.from_rotvec([np.radians(5), 0, 0])
    errors = body_errors(turned(truth, turn), truth)
    assert turn.apply([0, -1, 0])[2] < 0
    assert errors["lean_degrees"] == pytest.approx(5, abs=1e-6)
    assert errors["root_degrees"] == pytest.approx(5, abs=1e-6)
    about = truth.joints - truth.joints[:, :1]
    away = np.linalg.norm(about[..., 1:], axis=-1)  # from the axis
    assert errors["mpjpe_mm"] == pytest.approx(1000 * 2 * np.sin(np.radians(2.5)) * away.mean())
    for name in ("procrustes_mm", "local_degrees", "absolute_mm"):
        assert errors[name] == pytest.approx(errors["mpjpe_mm"] if name == "absolute_mm" else 0, abs=1e-4)


def test_turns_to_the_side_are_no_lean(truth: CameraBodies) -> None:
    """About the vertical and about the axis; and bodies that lean to and fro do not lean as a clip."""
    for axis in ([0, np.radians(8), 0], [0, 0, np.radians(8)]):
        errors = body_errors(turned(truth, Rotation.from_rotvec(axis)), truth)
        assert errors["lean_degrees"] == pytest.approx(0, abs=1e-6)
        assert errors["root_degrees"] == pytest.approx(8, abs=1e-6)
    about = np.tile((truth.joints - truth.joints[:, :1])[:1], (2, 1, 1))
    fro = np.stack([Rotation.from_rotvec([a, 0, 0]).apply(b) for a, b in zip((0.1, -0.1), about, strict=True)])
    assert lean(fro, about) == pytest.approx(0, abs=1e-3)


def test_after_procrustes_size_and_turn_do_not_count_but_a_mirror_does(truth: CameraBodies) -> None:
    about = truth.joints - truth.joints[:, :1]
    turn = Rotation.from_rotvec([0.4, -1.0, 2.0])
    other = 1.3 * about @ turn.as_matrix().T + [1, 2, 3]
    np.testing.assert_allclose(procrustes(other, about), about, atol=1e-9)
    mirrored = about * [-1, 1, 1]
    assert np.linalg.norm(procrustes(mirrored, about) - about, axis=-1).mean() > 0.01
    errors = body_errors(moved(truth, truth.joints * 1.3), truth)
    assert errors["procrustes_mm"] == pytest.approx(0, abs=1e-5)
    assert errors["size_percent"] == pytest.approx(30)
    assert errors["mpjpe_mm"] == pytest.approx(300 * np.linalg.norm(about, axis=-1).mean())


def test_local_rotations_rms(truth: CameraBodies) -> None:
    local = truth.local.copy()
    local[:, 7] = local[:, 7] @ Rotation.from_rotvec([0, np.radians(30), 0]).as_matrix()
    errors = body_errors(dataclasses.replace(truth, local=local), truth)
    assert errors["local_degrees"] == pytest.approx(30 / np.sqrt(23), rel=1e-6)
    assert errors["root_degrees"] == pytest.approx(0, abs=1e-5)


def test_frames_with_swapped_sides_are_counted(truth: CameraBodies) -> None:
    legs, arms = truth.joints.copy(), truth.joints.copy()
    legs[2, [1, 4, 7, 10, 2, 5, 8, 11]] = truth.joints[2, [2, 5, 8, 11, 1, 4, 7, 10]]
    assert body_errors(moved(truth, legs), truth)["swapped"] == 1
    arms[[1, 4], [[16], [17]]], arms[[1, 4], [[18], [19]]], arms[[1, 4], [[20], [21]]] = (
        truth.joints[[1, 4], [[17], [16]]], truth.joints[[1, 4], [[19], [18]]], truth.joints[[1, 4], [[21], [20]]]
    )  # fmt: skip
    about, true = (joints - joints[:, :1] for joints in (arms, truth.joints))
    assert np.flatnonzero(swapped_sides(about, true)).tolist() == [1, 4]
    noise = np.random.default_rng(0).normal(0, 0.02, truth.joints.shape)
    assert body_errors(moved(truth, truth.joints + noise), truth)["swapped"] == 0


def test_a_person_seen_from_behind_who_faces_us_is_swapped(truth: CameraBodies) -> None:
    """Front and back exchanged: half a turn about the vertical."""
    assert body_errors(turned(truth, Rotation.from_rotvec([0, np.pi, 0])), truth)["swapped"] == FRAMES


def test_masks() -> None:
    a, b = np.zeros((10, 10)), np.zeros((10, 10))
    a[2:6, 2:6], b[4:8, 2:6] = 0.6, 1.0
    b[0, 0] = 0.4  # covered by less than half
    assert mask_iou(a, b) == pytest.approx(8 / 24)
    assert mask_iou(0 * a, 0 * b) == 1
