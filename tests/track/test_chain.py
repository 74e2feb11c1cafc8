"""Derivatives of the skeleton against differences, its joints against smplx, banded equations against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.demo.skinned_surface import BODY
from fmgs_nerfstudio.track.chain import (
    PER_FRAME,
    Marks,
    Posed,
    Skeleton,
    exponential,
    inverse_right_jacobian,
    logarithm,
    nearest_rotation,
)
from fmgs_nerfstudio.track.least_squares import NormalEquations
from fmgs_nerfstudio.track.pose_prior import beyond_limits, usual_pose

RNG = np.random.default_rng(3)
MARKS = Marks(np.array([0, 16, 20, 8]), np.array([0, 9, 18, 8]), RNG.normal(0, 0.05, (4, 3)))
SKELETON = Skeleton.of(BodyModel.load(BODY))
BETAS = RNG.normal(0, 1, 10)
POSE = RNG.normal(0, 0.5, (2, 24, 3))
PELVIS = RNG.normal(0, 1, (2, 3)) + np.array([0, 0, 4])


def posed(step: np.ndarray | None = None, betas: np.ndarray = BETAS) -> Posed:
    step = np.zeros(PER_FRAME) if step is None else step
    local = exponential(POSE) @ exponential(step[:72].reshape(24, 3))
    return Posed.of(SKELETON, betas, local, PELVIS + step[72:])


def test_joints_are_those_of_smplx() -> None:
    body = BodyModel.load(BODY)
    rest = body.shape(torch.from_numpy(BETAS).float())[1]
    transl = PELVIS - rest[0].numpy()
    pose = torch.from_numpy(POSE.reshape(2, 72)).float()
    bones = body.bones_reference(rest, pose, torch.from_numpy(transl).float()).numpy()
    expected = np.einsum("fjab,jb->fja", bones[..., :3, :3], rest.numpy()) + bones[..., :3, 3]
    assert np.abs(posed().joints - expected).max() < 1e-5
    assert np.abs(posed().turned - bones[..., :3, :3]).max() < 1e-5


def test_points_move_as_differences_say() -> None:
    points, arms = posed().points(MARKS)
    moves, h = posed().moves(arms), 1e-6
    for unknown in range(PER_FRAME):
        step = np.eye(PER_FRAME)[unknown] * h
        difference = (posed(step).points(MARKS)[0] - points) / h
        assert np.abs(moves[..., unknown] - difference).max() < 1e-4
    for shape in range(10):
        difference = (posed(betas=BETAS + h * np.eye(10)[shape]).points(MARKS)[0] - points) / h
        assert np.abs(posed().by_shape[..., shape][:, MARKS.joint] - difference).max() < 1e-4


def test_joints_turn_as_differences_say() -> None:
    before, h = posed().turned, 1e-6
    turns = posed().turns()
    for unknown in range(72):
        after = posed(np.eye(PER_FRAME)[unknown] * h).turned
        difference = logarithm(before.swapaxes(-1, -2) @ after) / h
        assert np.abs(turns[..., unknown] - difference).max() < 1e-4


@pytest.mark.parametrize("size", [1e-6, 0.3, 2.0, 3.1])
def test_inverse_right_jacobian(size: float) -> None:
    vector, h = size * np.array([0.6, -0.64, 0.48]), 1e-6
    for i in range(3):
        moved = Rotation.from_rotvec(vector) * Rotation.from_rotvec(h * np.eye(3)[i])
        assert inverse_right_jacobian(vector)[:, i] == pytest.approx((moved.as_rotvec() - vector) / h, abs=2e-4)


def test_nearest_rotation_is_no_mirror() -> None:
    found = nearest_rotation(np.stack([np.diag([1.0, 1.0, -0.1]), 2 * Rotation.from_rotvec([1, 2, 3]).as_matrix()]))
    assert np.allclose(np.linalg.det(found), 1)
    assert np.allclose(found[1], Rotation.from_rotvec([1, 2, 3]).as_matrix())


def test_banded_equations_are_the_dense_ones() -> None:
    frames, n, g = 6, 4, 2
    equations = NormalEquations(frames, n, g)
    rows, right = [], []

    def row(columns: dict[int, np.ndarray], value: float) -> None:
        full = np.zeros(frames * n + g)
        for start, values in columns.items():
            full[start : start + len(values)] = values
        rows.append(full)
        right.append(value)

    residual, moves, shared = (
        RNG.normal(size=(frames, 5)),
        RNG.normal(size=(frames, 5, n)),
        RNG.normal(size=(frames, 5, g)),
    )
    equations.add(slice(None), residual, moves, shared)
    for f in range(frames):
        for r in range(5):
            row({f * n: moves[f, r], frames * n: shared[f, r]}, residual[f, r])
    for span, first, count in ((3, 0, 4), (2, 2, 3)):
        residual, blocks = RNG.normal(size=(count, 3)), tuple(RNG.normal(size=(count, 3, n)) for _ in range(span))
        equations.add_steps(residual, blocks, first=first)
        for t in range(count):
            for r in range(3):
                row({(first + t + k) * n: blocks[k][t, r] for k in range(span)}, residual[t, r])
    equations.add_shared(np.array([0.3]), np.array([[1.0, 2.0]]))
    row({frames * n: np.array([1.0, 2.0])}, 0.3)
    own, shared_step, _ = equations.step(0.0)
    expected = -np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    assert own.ravel() == pytest.approx(expected[: frames * n], abs=1e-6)
    assert shared_step == pytest.approx(expected[frames * n :], abs=1e-6)


def test_limits_of_hinges_are_mirrored() -> None:
    vectors = np.zeros((1, 24, 3))
    vectors[0, [4, 5], 0] = -0.2  # knees bent forward
    vectors[0, 18, 1], vectors[0, 19, 1] = 0.1, -0.1  # elbows bent backward
    past, slope = beyond_limits(vectors)
    assert past[0, [4, 5], 0] == pytest.approx([-4, -4])
    assert past[0, [18, 19], 1] == pytest.approx([2, -2])
    assert (slope[past != 0] == 20).all()
    assert not beyond_limits(-vectors)[0].any()
    middle, deviation = usual_pose()
    assert middle[17] == pytest.approx(middle[16] * [1, -1, -1])
    assert np.isinf(deviation[0]).all()
