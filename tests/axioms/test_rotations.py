"""Rotation vectors and matrices: the axioms of SO(3), and scipy."""

from __future__ import annotations

import numpy as np
import torch
from fmgs_dataparsers.conventions import axis_angle, rotation
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.draws import ANGLES, assert_close, axes, axiom, dtypes, rotation_vectors, tensors, vectors

from fmgs_nerfstudio.body import BodyModel
from fmgs_nerfstudio.motion.motion import rotation_between
from fmgs_nerfstudio.surfels import rotation_exp

N = 4


def hat(r: np.ndarray) -> np.ndarray:
    """[r]_x [N, 3, 3]: [r]_x v = r x v."""
    return np.stack([np.cross(r, axis) for axis in np.eye(3)], axis=-1)


@axiom
@given(rotation_vectors(N), dtypes)
def test_exp_is_scipys(r: np.ndarray, dtype: torch.dtype) -> None:
    expected = torch.from_numpy(Rotation.from_rotvec(r).as_matrix()).to(dtype)
    assert_close(rotation_exp(*tensors(dtype, r)), expected, single=1e-6)


@axiom
@given(vectors(N, low=-12, high=12), dtypes)
def test_exp_of_more_than_a_turn(r: np.ndarray, dtype: torch.dtype) -> None:
    expected = torch.from_numpy(Rotation.from_rotvec(r).as_matrix()).to(dtype)
    assert_close(rotation_exp(*tensors(dtype, r)), expected, single=1e-5)


@axiom
@given(rotation_vectors(N))
def test_log_undoes_exp(r: np.ndarray) -> None:
    """r comes back; at half a turn it may come back as -r, which is the same rotation."""
    R = rotation_exp(*tensors(torch.float64, r))
    back = axis_angle(R.numpy()).reshape(-1, 3)
    half = np.linalg.norm(r, axis=1) > np.pi - 1e-5
    back[half] *= np.sign((back * r).sum(1))[half, None]
    assert np.abs(back - r).max() < 1e-7


@axiom
@given(rotation_vectors(N), dtypes)
def test_exp_undoes_log(r: np.ndarray, dtype: torch.dtype) -> None:
    R = Rotation.from_rotvec(r).as_matrix()
    back = rotation_exp(*tensors(dtype, axis_angle(R).reshape(-1, 3)))
    assert_close(back, torch.from_numpy(R).to(dtype), single=1e-6, double=1e-9)


@axiom
@given(rotation_vectors(N), dtypes)
def test_a_rotation_is_orthonormal_and_keeps_handedness(r: np.ndarray, dtype: torch.dtype) -> None:
    R = rotation_exp(*tensors(dtype, r))
    assert_close(R.mT @ R, torch.eye(3, dtype=dtype).expand(N, 3, 3), single=2e-6)
    assert_close(torch.linalg.det(R), torch.ones(N, dtype=dtype), single=2e-6)


@axiom
@given(rotation_vectors(N), dtypes)
def test_the_opposite_vector_is_the_inverse(r: np.ndarray, dtype: torch.dtype) -> None:
    (vector,) = tensors(dtype, r)
    assert_close(rotation_exp(-vector), rotation_exp(vector).mT, single=1e-7, double=1e-15)


@axiom
@given(axes(N), st.floats(-4, 4), st.floats(-4, 4), dtypes)
def test_turns_about_one_axis_add_up(axis: np.ndarray, a: float, b: float, dtype: torch.dtype) -> None:
    one, other, both = (rotation_exp(*tensors(dtype, axis * angle)) for angle in (a, b, a + b))
    assert_close(one @ other, both, single=5e-6)


@axiom
@given(rotation_vectors(N), rotation_vectors(N), dtypes)
def test_another_basis_turns_the_axis(r: np.ndarray, s: np.ndarray, dtype: torch.dtype) -> None:
    """S exp(r) S^T = exp(S r)."""
    (vector,) = tensors(dtype, r)
    S = rotation_exp(*tensors(dtype, s))
    turned = rotation_exp((S @ vector[..., None])[..., 0])
    assert_close(S @ rotation_exp(vector) @ S.mT, turned, single=1e-5)


@axiom
@given(axes(N), dtypes)
def test_the_turn_is_right_handed(axis: np.ndarray, dtype: torch.dtype) -> None:
    """A small turn moves v by r x v, to first order: this fixes the sense that orthonormality leaves open."""
    for angle in ANGLES[1:5]:
        moved = rotation_exp(*tensors(dtype, axis * angle)) - torch.eye(3, dtype=dtype)
        expected = torch.from_numpy(hat(axis * angle)).to(dtype)
        assert (moved - expected).abs().max() <= 0.51 * angle**2 + torch.finfo(dtype).eps


@axiom
@given(axes(), st.sampled_from(ANGLES), dtypes)
def test_the_gradient_is_the_derivative_of_the_exponential(axis: np.ndarray, angle: float, dtype: torch.dtype) -> None:
    """Finite at zero, where it is [e_k]_x, and that of torch's matrix exponential in double precision elsewhere."""
    (vector,) = tensors(dtype, axis * angle)
    generators = torch.from_numpy(hat(np.eye(3)))
    ours = torch.autograd.functional.jacobian(lambda r: rotation_exp(r).sum(0), vector, vectorize=True)
    theirs = torch.autograd.functional.jacobian(
        lambda r: torch.linalg.matrix_exp(torch.einsum("nk,kij->nij", r, generators)).sum(0),
        vector.double(),
        vectorize=True,
    )
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    assert_close(ours, theirs.to(dtype), single=2e-5, double=1e-10)
    if angle == 0:
        torch.testing.assert_close(ours[:, :, 0], generators.permute(1, 2, 0).to(dtype))


@axiom
@given(rotation_vectors(24))
def test_the_bodys_joints_turn_as_surfels_do(r: np.ndarray) -> None:
    """smplx has an exponential of its own: a bone's rotation relative to its parent's is ours of the joint's vector."""
    (vector,) = tensors(torch.float64, r)
    parents = (-1, *range(23))
    body = BodyModel(*[torch.zeros(0)] * 6, parents)  # pyright: ignore[reportCallIssue]
    bones = body.bones(torch.zeros(24, 3).double(), vector.flatten(), torch.zeros(3).double())[:, :3, :3]
    relative = torch.cat([bones[:1], bones[:-1].mT @ bones[1:]])
    assert_close(relative, rotation_exp(vector), double=1e-6)


@axiom
@given(axes(), axes(), st.booleans())
def test_the_shortest_rotation_between_two_directions(a: np.ndarray, b: np.ndarray, opposite: bool) -> None:
    a, b = a[0], -a[0] if opposite else b[0]
    turn = rotation_between(a, b)
    assert np.abs(turn.apply(a) - b).max() < 1e-7
    assert abs(turn.magnitude() - np.arccos(np.clip(a @ b, -1, 1))) < 1e-6


@axiom
@given(rotation_vectors(), vectors(3, low=-0.01, high=0.01))
def test_the_nearest_rotation(r: np.ndarray, error: np.ndarray) -> None:
    """A rotation stays; what was stored in low precision becomes one, nearer to it than the rotation before."""
    R = Rotation.from_rotvec(r[0]).as_matrix()
    assert np.abs(rotation(R) - R).max() < 1e-12
    nearest = rotation(R + error)
    assert np.abs(nearest @ nearest.T - np.eye(3)).max() < 1e-12
    assert np.linalg.det(nearest) > 0
    assert np.linalg.norm(nearest - (R + error)) <= np.linalg.norm(error) + 1e-12
